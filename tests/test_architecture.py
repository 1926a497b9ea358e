"""Imports run one way, torch stays behind its door, and the quick path loads nothing heavy."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "planner"

LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"_version", "units", "errors"}),
    frozenset({"spec", "result"}),
    frozenset(
        {
            "formulas",
            "hardware",
            "hardware_schema",
            "hardware_sections",
            "price_schema",
            "catalog",
            "catalog_files",
            "families",
            "hub",
            "peft_config",
            "stacks",
            "allocator",
        }
    ),
    frozenset({"records", "local", "prices"}),
    frozenset({"closed_form", "build", "trace", "measure", "throughput", "cost", "datasets", "calibration"}),
    frozenset({"estimators"}),
    frozenset({"recommend"}),
    frozenset({"planning", "tracing", "validation", "why", "doctor"}),
    frozenset({"reporting"}),
    frozenset({"configs", "jobs", "render"}),
    frozenset({"cli", "__main__", "__init__"}),
)
"""Design section 3, lowest first: a module imports from its own line or the lines above."""

FRAMEWORKS = frozenset({"torch", "transformers", "accelerate", "peft", "trl", "bitsandbytes", "liger_kernel", "numpy"})
DOORS = frozenset({"build", "trace", "measure"})
"""The only folders that may import a framework."""

HOMES = {
    "rich": frozenset({"render", "cli"}),
    "typer": frozenset({"cli"}),
    "huggingface_hub": frozenset({"hub"}),
    "altair": frozenset({"render"}),
    "vl_convert": frozenset({"render"}),
    "pyarrow": frozenset({"datasets"}),
    "tokenizers": frozenset({"datasets"}),
    "jinja2": frozenset({"datasets"}),
    "gpuhunt": frozenset({"prices"}),
    "yaml": frozenset({"configs", "jobs"}),
}
"""Libraries with one place each."""

FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent.name != "shipped")
"""Without the scripts that an export writes out, which nothing here imports."""


def part(path: Path) -> str:
    """The module or folder directly under ``planner`` to which a file belongs."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def layer(name: str) -> int:
    found = [place for place, names in enumerate(LAYERS) if name in names]
    assert found, f"planner.{name} has no place in LAYERS"
    return found[0]


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at the top or inside a function; names for type checkers included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (
                [f"{node.module}.{alias.name}" for alias in node.names]
                if node.module == "planner"
                else [node.module or ""]
            )


def name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_run_one_way(path: Path) -> None:
    own = layer(part(path))

    wrong = [used for used in imports(path) if used.startswith("planner.") and layer(used.split(".")[1]) > own]

    assert wrong == []


@pytest.mark.parametrize("path", FILES, ids=name)
def test_libraries_stay_behind_their_doors(path: Path) -> None:
    used = {module.split(".")[0] for module in imports(path)}

    assert part(path) in DOORS or not used & FRAMEWORKS
    for library, homes in HOMES.items():
        assert library not in used or part(path) in homes | DOORS


def test_no_stars() -> None:
    starred = [name(path) for path in FILES if any(module.endswith(".*") for module in imports(path))]

    assert starred == []


def loaded_by(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after running ``code``."""
    report = "import sys; print('\\n' + ' '.join(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    return set(done.stdout.splitlines()[-1].split())


PLAN = "import planner; planner.plan(model='70b', gpu='4090')"
COMPARE = "import planner; planner.compare(model='8b', gpu='4090')"
JSON = """
import contextlib, io, sys
from planner.cli import run
sys.argv = ["plan", "--model", "8b", "--gpu", "4090", "--format", "json"]
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    run()
"""


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import planner", FRAMEWORKS | {"rich", "typer", "pydantic"}),
        ("import planner.cli", FRAMEWORKS | {"rich"}),
        ("import planner.records", FRAMEWORKS | {"rich", "typer", "pydantic", "sqlite3", "platformdirs"}),
        (PLAN, FRAMEWORKS | {"rich", "typer", "pydantic"}),
        (COMPARE, FRAMEWORKS | {"rich", "typer", "pydantic"}),
        (JSON, FRAMEWORKS | {"rich"}),
    ],
    ids=["import planner", "import planner.cli", "records", "plan", "compare", "plan --format json"],
)
def test_quick_paths_load_nothing_heavy(code: str, absent: frozenset[str]) -> None:
    loaded = loaded_by(code)

    assert "planner" in loaded
    assert loaded & absent == set()


def test_importing_planner_loads_no_part_of_it() -> None:
    code = "import planner, sys; assert [n for n in sys.modules if n.startswith('planner.')] == ['planner._version']"

    loaded_by(code)
