"""Writes everything in README.md and docs/ that comes from the program: ``python docs/generate.py [--check]``.

Five kinds of text are generated, and nothing else is touched:

- what stands between ``<!-- begin: NAME -->`` and ``<!-- end: NAME -->``, by the function ``NAME`` of ``SECTIONS``;
- the output in a ``console`` block, by running its command at 80 columns. A comment ``<!-- keep: lines 1-9 20 -->`` or
  ``<!-- keep: paragraphs 1-3 -->`` above the block keeps these parts of the output, with ``...`` for the others;
- the output in the ``python`` blocks of ``SHOWN``; worked examples on other pages are computed by
  hand, and a test runs them;
- the JSON schemas of ``docs/schemas.py``, and the table of published errors that intervals rest on.
"""

import contextlib
import doctest
import io
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

from docs.schemas import schema_files  # noqa: E402  (the root must be on the path first)
from docs.sections import SECTIONS, published_text  # noqa: E402
from planner.calibration.published import FILE as PUBLISHED  # noqa: E402
from planner.calibration.published import published_table  # noqa: E402
from planner.cli import main as run_plan  # noqa: E402
from planner.estimators import measured_here  # noqa: E402

WIDTH = "80"
os.environ["SOURCE_DATE_EPOCH"] = "1795651200"  # 26 November 2026: prices age, pages do not
SHOWN = (ROOT / "README.md", DOCS / "quickstart.md", DOCS / "json-schema.md", DOCS / "api.md")
SECTION = re.compile(r"(<!-- begin: (\w+) -->\n).*?(<!-- end: \2 -->)", re.DOTALL)
PYTHON = re.compile(r"(```python\n)(.*?)(```)", re.DOTALL)
CONSOLE = re.compile(r"(?:<!-- keep: (\w+ [\d\s-]+) -->\n)?(```console\n)(.*?)(```)", re.DOTALL)


def main(arguments: list[str]) -> int:
    """Write what has changed, or with ``--check`` name it and fail."""
    if arguments not in ([], ["--check"]):
        sys.stderr.write("usage: python docs/generate.py [--check]\n")
        return 2
    stale = 0
    for path, text in generated():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        name = path.relative_to(ROOT)
        if arguments:
            sys.stderr.write(f"{name} is stale: run python docs/generate.py\n")
        else:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"wrote {name}\n")
            published_table.cache_clear()
            measured_here.cache_clear()
    return 1 if stale and arguments else 0


def generated() -> Iterator[tuple[Path, str]]:
    """Every page with its text as it ought to be; the table first, since examples rest on it."""
    yield PUBLISHED, published_text()
    for path in pages():
        text = refreshed(path.read_text(encoding="utf-8"))
        yield path, with_results(text) if path in SHOWN else text
    yield from schema_files()


def pages() -> list[Path]:
    """README.md and all Markdown under docs/."""
    return [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def refreshed(text: str) -> str:
    """A page with its sections and console blocks made anew."""
    text = SECTION.sub(lambda match: f"{match[1]}\n{SECTIONS[match[2]]().strip()}\n\n{match[3]}", text)
    return CONSOLE.sub(lambda match: _console(match[0], match[1], match[3]), text)


def with_results(text: str) -> str:
    """A page with what its Python examples give, all of them in one namespace."""
    names: dict[str, object] = {}
    return PYTHON.sub(lambda match: match[1] + _examples(match[2], names) + match[3], text)


def _examples(body: str, names: dict[str, object]) -> str:
    made: list[str] = []
    for example in doctest.DocTestParser().get_examples(body):
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile(example.source, "<docs>", "single"), names)
        first, *rest = example.source.splitlines()
        made += [f">>> {first}", *(f"... {line}" for line in rest), *output.getvalue().splitlines()]
    return "\n".join([*made, ""])


def _console(block: str, keep: str | None, body: str) -> str:
    lines = body.splitlines()
    commands = [line[2:] for line in lines if line.startswith("$ ")]
    head = f"<!-- keep: {keep} -->\n" if keep else ""
    made: list[str] = []
    code = 0
    for command in commands:
        output, code = run(command, code)
        made += [f"$ {command}", *selected(output.splitlines(), keep)]
    return head + "```console\n" + "\n".join(made) + "\n```" if commands else block


def selected(lines: list[str], keep: str | None) -> list[str]:
    """The parts that ``keep`` names, counted from 1, with ``...`` for each gap.

    >>> selected(["a", "b", "c", "d"], "lines 1 3-4")
    ['a', '...', 'c', 'd']
    >>> selected(["a", "b", "", "c"], "paragraphs 1")
    ['a', 'b', '', '...']
    """
    if keep is None:
        return lines
    unit, *ranges = keep.split()
    wanted: set[int] = set()
    for part in ranges:
        first, _, last = part.partition("-")
        wanted.update(range(int(first), int(last or first) + 1))
    made: list[str] = []
    number = 1
    for line in lines:
        if number in wanted:
            made.append(line)
        elif not made or made[-1] != "...":
            made.append("...")
        number += unit == "lines" or not line
    return made


def run(command: str, code: int) -> tuple[str, int]:
    """Output and exit code of one line of a console block; ``code`` is that of the line before it."""
    if command == "echo $?":
        return f"{code}\n", 0
    output = io.StringIO()
    with (
        _environment({"COLUMNS": WIDTH, "NO_COLOR": "1"}),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
    ):
        code = run_plan(arguments_of(command))
    return output.getvalue(), code


def arguments_of(command: str) -> list[str]:
    """What ``plan`` is given by a command line: ``plan ...``, ``python -m planner ...`` or ``make plan [ARGS=...]``."""
    words = shlex.split(command)
    if words[:1] == ["plan"]:
        return words[1:]
    if words[:3] == ["python", "-m", "planner"]:
        return words[3:]
    if words[:2] == ["make", "plan"]:
        given = [word.removeprefix("ARGS=") for word in words[2:] if word.startswith("ARGS=")]
        return shlex.split(given[0] if given else makefile_arguments())
    raise ValueError(f"a console block runs {command!r}, which is none of our commands")


def makefile_arguments() -> str:
    """What ``make plan`` runs when nothing is given."""
    found = re.search(r"^ARGS\s*\?=\s*(.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise ValueError("the Makefile sets no ARGS")
    return found[1]


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.pop("FORCE_COLOR", None)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
