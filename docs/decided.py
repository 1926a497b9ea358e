"""The generated part of docs/decision-table.md: the situations that a test runs, as tables."""

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from docs.tables import code, table

DECISIONS = Path(__file__).resolve().parents[1] / "tests" / "recommend" / "decisions.toml"
COUNTS = ("tokens", "supervised_tokens", "sequences")


def decisions() -> str:
    """One table per part: the question, the answer, the rule that binds it, the argument."""
    parts: dict[str, list[list[str]]] = {}
    heading = ""
    for one in tomllib.loads(DECISIONS.read_text(encoding="utf-8"))["situation"]:
        heading = one.get("part", heading)
        parts.setdefault(heading, []).append(row(one))
    head = ("situation", "asked", "answer", "rule", "argument")
    return "\n\n".join(f"## {name[0].upper()}{name[1:]}\n\n{table(head, rows)}" for name, rows in parts.items())


def row(one: Mapping[str, Any]) -> list[str]:
    """One situation as cells."""
    return [one["name"], asked(one), answer(one), f"[{one['code']}](rules.md)", one["because"].replace("|", "\\|")]


def asked(one: Mapping[str, Any]) -> str:
    """The question: model, hardware, job and settings."""
    cards = one.get("gpus", 1)
    parts = [code(one["model"]), f"{cards} × {code(one['gpu'])}" if cards > 1 else code(one["gpu"])]
    parts += [f"{name} {value(name, content)}" for name, content in one.get("job", {}).items()]
    parts += [code(option(name, content)) for name, content in one.get("settings", {}).items()]
    parts += [code(f"--method {method}") for method in one.get("methods", ())]
    if "stack" in one:
        parts.append(code(f"--stack {one['stack']}"))
    return ", ".join(parts)


def answer(one: Mapping[str, Any]) -> str:
    """The method with its verdict and key settings; what to rent where nothing runs."""
    if one["method"] == "none":
        return f"nothing; rent for {one['rent']}"
    method = "LoRA or QLoRA" if one["method"] == "adapters" else one["method"]
    settings = [code(option(name, content)) for name, content in one.get("expect", {}).items()]
    return ", ".join([" ".join([f"**{method}**", one.get("verdict", "")]).strip(), *settings])


def value(name: str, content: object) -> str:
    """A setting as people write it."""
    if name in COUNTS and isinstance(content, int):
        return f"{content:,}"
    if isinstance(content, bool):
        return "yes" if content else "no"
    return str(content)


def option(name: str, content: object) -> str:
    """A setting as the command takes it."""
    long = name.replace("_", "-")
    if isinstance(content, bool):
        return f"--{long}" if content else f"--no-{long}"
    return f"--{long} {','.join(content) if isinstance(content, list) else content}"


SECTIONS: Mapping[str, Callable[[], str]] = {"decisions": decisions}
