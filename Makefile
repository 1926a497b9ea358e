# make plan    one plan: makes a virtual environment, installs the package, runs the command
#              make plan ARGS="--model 8b --gpu l4"
# make test    everything that has to hold, with the versions of constraints.txt
# make validate   trace the whole grid again, hold the closed form against it, write both down (about an hour; it goes on
#              where it was stopped)
# make fuzz    damage files and have every reader read them, for a minute (FUZZ_SECONDS); findings become tests
# make clean   forget the environment
#
# PIP_ARGS goes to every pip install. torch comes from where pip looks; for its small CPU build from elsewhere:
#              make test PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

ARGS     ?= --model 70b --gpu 4090
PIP_ARGS ?=
FUZZ_SECONDS ?= 60
PYTHON   ?=

VENV := .venv
PIP  := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS)

NOTHING_FITS := 4
GRID := tests/traced/grid.jsonl
SHARDED := tests/traced/sharded.jsonl

.PHONY: plan test validate fuzz clean

plan: $(VENV)/installed
	@$(VENV)/bin/plan $(ARGS) || { code=$$?; [ $$code -eq $(NOTHING_FITS) ] || exit $$code; }

test: $(VENV)/installed-for-tests
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m pytest

# The stored grid is replaced only by a whole one. Pages are made from it.
validate: $(VENV)/installed-for-tests
	$(VENV)/bin/plan validate --against traced --out $(GRID).part
	mv $(GRID).part $(GRID)
	$(VENV)/bin/plan validate --against sharded --out $(SHARDED).part
	mv $(SHARDED).part $(SHARDED)
	$(VENV)/bin/python docs/generate.py

fuzz: $(VENV)/installed-for-tests
	$(VENV)/bin/python -m fuzz --seconds $(FUZZ_SECONDS)

clean:
	rm -rf $(VENV)

# Editable, so that changed sources need no second install; only changed requirements do.
$(VENV)/installed: pyproject.toml $(VENV)/bin/python
	@$(PIP) --editable .
	@touch $@

# Liger without the Triton that it asks for, which a trace does without.
$(VENV)/installed-for-tests: pyproject.toml constraints.txt $(VENV)/bin/python
	@echo "installing what the tests need (torch among it: minutes, the first time)"
	@$(PIP) --constraint constraints.txt --editable ".[trace,zero,hub,pictures,local,test]"
	@$(PIP) --constraint constraints.txt --no-deps liger-kernel
	@touch $@ $(VENV)/installed

# The first Python that is new enough; old ones, and pyenv's shims of absent ones, are passed over.
$(VENV)/bin/python:
	@for python in $(or $(PYTHON),python3 python3.11 python3.12 python3.13 python3.14); do \
	    if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        exec $$python -m venv $(VENV); \
	    fi; \
	done; \
	echo "error: Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11" >&2; exit 1
