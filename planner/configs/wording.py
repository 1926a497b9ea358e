"""Complaints about a run in the words of its files.

Messages name our options, by which most people ask. Who asked by a file reads its own keys instead: an option is named
only where no key of a file said its setting, or where it is the way out.
"""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from re import Match

from planner.configs.understood import Reading, Understood
from planner.errors import PlannerError, show

ADVICE = re.compile(r"[:;,] (?:use|take|add|leave|give|write|name|say)\b")
"""Where a message turns from what is wrong to what helps."""

OPTION = re.compile(r"--([a-z]+(?:-[a-z]+)*)(?: (?!--)(\S+))?")
"""An option, and the word behind it, which may be its value."""

ANOTHER_TRAINER = re.compile(r"use --stack trl\b")


@contextmanager
def told_by_keys(understood: Understood, held: Collection[str]) -> Iterator[None]:
    """Errors from within name keys of the files instead of options, but for settings in ``held``: the command's own."""
    try:
        yield
    except PlannerError as error:
        error.args = (by_keys(str(error), understood, held),)
        raise


def by_keys(text: str, understood: Understood, held: Collection[str] = ()) -> str:
    """A message about options as one about the keys that said their settings."""
    if text.startswith(tuple(f"{one.file}: " for one in understood.readings)):
        return text  # a reader said it
    turn = ADVICE.search(text)
    wrong, helps = (text, "") if turn is None else (text[: turn.start()], text[turn.start() :])
    if understood.stack is not None and not understood.stack.startswith("trl"):
        helps = ANOTHER_TRAINER.sub("--stack trl plans it as TRL would run it", helps)
    found: list[Reading] = []

    def key(match: Match[str]) -> str:
        reading = _key(match, understood, held)
        if reading is None:
            return match[0]
        found.append(reading)
        return _named(match, reading, understood, found[0].file)

    wrong = OPTION.sub(key, wrong)
    if found:
        return f"{found[0].file}: {wrong}{helps}"
    behind = (_key(match, understood, held) for match in OPTION.finditer(helps))
    meant = next((one for one in behind if one is not None), None)
    if meant is not None:
        return f"{meant.file}: {meant.key} {show(meant.value)}: {wrong}{helps}"
    said = next((one for one in understood.of("used") if _says(wrong, one.key)), None)
    if said is not None:
        return f"{said.file}: {wrong}{helps}"
    keyless = any(_name(match) in understood.settings and _name(match) not in held for match in OPTION.finditer(wrong))
    return f"{understood.readings[0].file}: {wrong}{helps}" if keyless and understood.readings else wrong + helps


def _says(text: str, key: str) -> bool:
    """Whether a message has a key's own name already, which ordinary words are not."""
    return "_" in key and re.search(rf"(?<!-)\b{re.escape(key)}\b", text) is not None


def _key(match: Match[str], understood: Understood, held: Collection[str]) -> Reading | None:
    """The key that said an option's setting; ``None`` where the command said it, or nobody."""
    return None if _name(match) in held else understood.key_of(_name(match))


def _name(match: Match[str]) -> str:
    return match[1].replace("-", "_")


def _named(match: Match[str], reading: Reading, understood: Understood, file: str) -> str:
    """A key in the place of an option, with its own value in the place of ours; in which file, where in another one."""
    elsewhere = "" if reading.file == file else f" ({reading.file})"
    word = match[2] or ""
    if reading.sets == "peft_config":
        return f"{reading.file} {word}".rstrip()  # the whole file, of which this is a part
    bare = word.rstrip(":;,")
    if bare and bare in _forms(understood.value_of(reading.sets)):
        return f"{reading.key} {show(reading.value)}{elsewhere}{word[len(bare) :]}"
    return f"{reading.key}{elsewhere} {word}".rstrip()


def _forms(value: object) -> tuple[str, ...]:
    """How messages may write a setting's value."""
    if isinstance(value, tuple | list):
        return (",".join(map(str, value)), *map(str, value))
    return (str(value), show(value), f"{value:g}" if isinstance(value, float) else "")
