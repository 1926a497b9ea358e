"""What several files say together: companions beside the trainer's own file, without a conflict."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from planner.configs.formats import BY_NAME
from planner.configs.understood import Understood, with_fallbacks
from planner.errors import BrokenInput, show
from planner.recommend.request import Setting
from planner.spec import OFFLOADS


def combined(main: Understood, companions: Iterable[Understood]) -> Understood:
    """What all files say; raise ``BrokenInput`` where two of them say a setting differently."""
    parts = [main]
    for one in companions:
        for what in ("model", "method", "gpus", "nodes"):
            mine, theirs = getattr(main, what), getattr(one, what)
            if None not in (mine, theirs) and mine != theirs:
                raise _conflict(parts, one, what, mine, theirs)
        both = dict(main.settings)
        for name in main.settings.keys() & one.settings.keys():
            mine, theirs = main.settings[name], one.settings[name]
            agreed = _agreed(mine, theirs, name)
            if agreed is None:
                raise _conflict(parts, one, name, mine, theirs)
            both[name] = agreed
        main = replace(
            main,
            stack=main.stack or one.stack,
            fsdp=main.fsdp or one.fsdp,
            model=main.model or one.model,
            method=main.method or one.method,
            gpus=main.gpus or one.gpus,
            nodes=main.nodes or one.nodes,
            settings=with_fallbacks({**one.settings, **both}, one.fallbacks),
            job={**one.job, **main.job},
            readings=(*main.readings, *one.readings),
            notes=(*main.notes, *one.notes),
        )
        parts.append(one)
    return replace(main, settings=with_fallbacks(main.settings, main.fallbacks))


def _agreed(mine: Setting, theirs: Setting, name: str) -> Setting | None:
    """What two files say of a setting, which has to be the same; the trainer's activations are no engine's states."""
    if name == "offload" and isinstance(mine, tuple) and isinstance(theirs, tuple) and not set(mine) & set(theirs):
        return tuple(one for one in OFFLOADS if one in (*mine, *theirs))
    return mine if mine == theirs else None


def _conflict(parts: Sequence[Understood], other: Understood, what: str, mine: object, theirs: object) -> BrokenInput:
    """Which two keys of which files disagree; of ``parts`` the first that says it."""
    first = next(one for one in parts if one.says(what))
    ours, others = (_told(one, what, value) for one, value in ((first, mine), (other, theirs)))
    return BrokenInput(f"{ours}, but {others}: make them agree")


def _told(one: Understood, what: str, value: object) -> str:
    """What one file says of a setting, by its own key where there is one."""
    shown = f"{what.replace('_', '-')} {','.join(value) if isinstance(value, tuple) else value}"
    key = one.key_of(what)
    if key is None:
        file = next((reading.file for reading in one.readings), BY_NAME[one.format].title)
        return f"{file} means {shown}"
    meaning = "" if key.value == value else f" ({shown})"
    return f"{key.file} says {key.key} {show(key.value)}{meaning}"
