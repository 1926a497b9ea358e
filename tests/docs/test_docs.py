"""The documentation cannot drift: its commands and examples run, its generated parts are current, its links hold."""

import doctest
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from planner.cli import main
from planner.cli.app import COMMANDS
from planner.cli.options import REQUEST
from planner.recommend.rules import RULES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
ELISION = "..."


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, language: str) -> list[str]:
    return [body for kind, body in FENCE.findall(path.read_text(encoding="utf-8")) if kind == language]


CONSOLE = [
    pytest.param(body, id=f"{name(path)}-{number}")
    for path in PAGES
    for number, body in enumerate(blocks(path, "console"), start=1)
]


# ---------------------------------------------------------------- commands


@pytest.mark.parametrize("body", CONSOLE)
def test_commands_print_what_the_page_shows(
    body: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    code = 0
    for command, shown in exchanges(body):
        if command == "echo $?":
            assert shown == [str(code)]
            continue
        code = main(arguments(command))
        printed = "".join(capsys.readouterr())
        assert matches(printed.splitlines(), shown), f"{command} prints\n{printed}\nrun: python docs/generate.py"


def exchanges(body: str) -> Iterator[tuple[str, list[str]]]:
    """Every command of a block with the lines below it."""
    command, shown = "", list[str]()
    for line in body.splitlines():
        if not line.startswith("$ "):
            shown.append(line)
            continue
        if command:
            yield command, shown
        command, shown = line.removeprefix("$ "), []
    assert command, "a console block starts with a command"
    yield command, shown


def arguments(command: str) -> list[str]:
    words = shlex.split(command)
    if words[0] == "plan":
        return words[1:]
    if words[:3] == ["python", "-m", "planner"]:
        return words[3:]
    assert words[:2] == ["make", "plan"], f"{command!r} is none of our commands"
    makefile = re.search(r"^ARGS\s*\?=\s*(.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert makefile is not None
    return shlex.split(words[2].removeprefix("ARGS=") if len(words) > 2 else makefile[1])


def matches(printed: list[str], shown: list[str]) -> bool:
    """Whether the lines are equal, where a line of dots stands for any number of lines."""
    pattern = "".join("(?:.*\n)*?" if line == ELISION else re.escape(line) + "\n" for line in shown)
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in printed)) is not None


def test_a_line_of_dots_stands_for_lines() -> None:
    assert matches(["a", "b", "c"], ["a", ELISION, "c"])
    assert matches(["a"], ["a", ELISION])
    assert not matches(["a", "b"], ["a"])
    assert not matches(["a", "b", "c"], [ELISION, "b"])


# ---------------------------------------------------------------- Python


@pytest.mark.parametrize("path", [path for path in PAGES if blocks(path, "python")], ids=name)
def test_python_examples_give_what_the_page_shows(path: Path) -> None:
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(verbose=False)
    source = "\n".join(blocks(path, "python"))
    example = parser.get_doctest(source, {}, name(path), str(path), 0)
    report: list[str] = []

    result = runner.run(example, out=report.append)

    assert result.attempted > 0
    assert result.failed == 0, "".join(report)


def test_every_formulas_page_has_a_worked_example() -> None:
    pages = sorted((DOCS / "how-it-works").glob("*.md"))

    without = [path.name for path in pages if "## Worked example" not in path.read_text(encoding="utf-8")]

    assert without == []
    assert all(blocks(path, "python") for path in pages)


# ---------------------------------------------------------------- generated parts


def test_generated_parts_are_current() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("script", ["docs/generate.py", "docs/sections.py"])
def test_examples_in_the_generator_hold(script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "doctest", script], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout) == (0, "")


def test_every_command_and_option_is_on_the_page() -> None:
    page = (DOCS / "cli.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^### (plan.*?)\n\n```text\n(.*?)^```", page, re.DOTALL | re.MULTILINE))

    assert list(sections) == ["plan", *(f"plan {command.name}" for command in COMMANDS)]
    for command, options in [("plan", REQUEST), *((f"plan {one.name}", one.options) for one in COMMANDS)]:
        missing = [
            one.flag
            for one in options
            if one.kind not in ("argument", "arguments") and not re.search(rf"{one.flag}\b", sections[command])
        ]
        assert missing == []


def test_every_rule_has_its_section() -> None:
    page = (DOCS / "rules.md").read_text(encoding="utf-8")

    assert [rule.code for rule in RULES if f"### {rule.code} {rule.slug}\n" not in page] == []


def test_every_key_of_a_stack_is_explained() -> None:
    page = (DOCS / "stacks.md").read_text(encoding="utf-8")
    meanings = page.partition("## What the keys mean")[2].partition("## The rules")[0]
    files = sorted((ROOT / "planner" / "stacks").glob("*.toml"))
    rules = [rule for file in files for rule in tomllib.loads(file.read_text(encoding="utf-8"))["rule"]]

    assert sorted({key for rule in rules for key in rule["set"] if f"`{key}`" not in meanings}) == []


def test_the_schema_describes_a_plan(capsys: pytest.CaptureFixture[str]) -> None:
    schema = json.loads((DOCS / "plan.schema.json").read_text(encoding="utf-8"))

    main(["--model", "8b", "--gpu", "4090", "--format", "json"])
    answer = json.loads(capsys.readouterr().out)

    assert set(schema["properties"]) == set(schema["required"]) == set(answer)


# ---------------------------------------------------------------- links


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_links_lead_somewhere(path: Path) -> None:
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not target.startswith("https://")]

    broken = [target for target in targets if not reaches(path, target)]

    assert broken == []


def reaches(page: Path, target: str) -> bool:
    file, _, anchor = target.partition("#")
    found = (page.parent / file).resolve() if file else page
    if not anchor:
        return found.exists()
    headings = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
    return anchor in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        links = re.findall(r"\]\(([^)\s#]+\.md)", page.read_text(encoding="utf-8"))
        waiting += [(page.parent / link).resolve() for link in links if not link.startswith("https://")]

    assert [name(path) for path in PAGES if path not in seen] == []


def test_the_documentation_names_nothing_private() -> None:
    private = re.compile(r"shared/|/work/|/tmp/|design\.md|aesthetics\.md")

    found = [name(path) for path in PAGES if private.search(path.read_text(encoding="utf-8"))]

    assert found == []
