"""``python -m fuzz [TARGET ...] [--seconds N]``: 1 where anything was found."""

import argparse
import importlib.util
import resource
import sys
import traceback
from collections.abc import Sequence

from fuzz.engine import fuzz, keep
from fuzz.targets import BY_NAME, TARGETS, Target

MEMORY_BYTES = 6 * 2**30
"""Address space of this process: a file that takes more is a finding, not the end of the machine."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Give every target its share of the time; findings are printed and kept."""
    parser = argparse.ArgumentParser(prog="fuzz", description="damage files and read them")
    parser.add_argument("target", nargs="*", help=f"of {', '.join(BY_NAME)}; all where none is named")
    parser.add_argument("--seconds", type=float, default=60, help="in all")
    options = parser.parse_args(arguments)
    if unknown := set(options.target) - set(BY_NAME):
        parser.error(f"unknown target {min(unknown)}")
    chosen = [BY_NAME[name] for name in options.target] or [one for one in TARGETS if is_here(one)]
    findings = [report(one, options.seconds / len(chosen)) for one in chosen]
    return 1 if any(findings) else 0


def is_here(target: Target) -> bool:
    """Whether what the reader needs is installed."""
    return not target.needs or importlib.util.find_spec(target.needs) is not None


def report(target: Target, seconds: float) -> bool:
    """Whether anything was found."""
    files, found = fuzz(target, seconds)
    print(f"{target.name:<14}{files:>8,} files", "" if found is None else "  a finding", flush=True)
    if found is None:
        return False
    traceback.print_exception(found.error)
    print(f"kept as {keep(found)}", file=sys.stderr, flush=True)
    return True


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    sys.exit(main())
