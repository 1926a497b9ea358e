"""A grid of measurements as a TOML file: blocks, in each of which the product of all lists is taken.

    [defaults]                      # keys that every block has unless it names them itself
    stack = "hf"

    [[block]]
    name    = "batches"
    kind    = "steps"               # or snapshot, find_max_batch, find_max_seq
    model   = ["llama-3.2-1b", "8b"]
    method  = ["lora", "qlora"]
    seq_len = [512, 2048]           # any training setting, by the name of its option
    layers  = "auto"                # or a number; without it, all
    cap     = "24GiB"
    exclude = [{ model = "8b", method = "lora" }]

Blocks run in the order of their ``priority``, the lowest first, and equal ones as they stand in the file.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from planner.errors import BrokenInput, PlannerError, UnknownName, nearest, show
from planner.spec import ACTS, METHODS, Method, TrainSpec
from planner.units import parse_bytes

Kind = Literal["steps", "snapshot", "find_max_batch", "find_max_seq"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Layers = int | Literal["auto"] | None

CASES_IN_A_MATRIX = 10_000
SHIPPED = Path(__file__).parent / "matrices"

CASE_KEYS = ("model", "method", "stack", "layers", "cap")
"""What a case is besides its training settings; each may be a list."""
RUN_KEYS = ("kind", "steps", "warmup", "timeout")
"""How the cases of a block are run."""
BLOCK_KEYS = ("name", "priority", "exclude")
SETTINGS = tuple(
    field.name for field in fields(TrainSpec) if field.name not in ("method", "sharding", "peft_config", *ACTS)
)
"""Training settings that one process on one device can have."""
KNOWN = (*CASE_KEYS, *RUN_KEYS, *BLOCK_KEYS, *SETTINGS)

NUMBERS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"steps": (1, 1000), "warmup": (0, 999), "timeout": (1, 7 * 24 * 3600), "priority": (-1000, 1000)}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One measurement of a matrix, its names not yet resolved. ``settings`` holds what the file says, no defaults."""

    block: str
    kind: Kind
    model: str
    method: Method
    stack: str
    settings: Mapping[str, Any]
    layers: Layers = None
    cap_bytes: int | None = None
    cap: str = ""
    """The cap as the file has it."""
    steps: int = 3
    warmup: int = 1
    timeout: int = 600

    @property
    def label(self) -> str:
        """The case on one line.

        >>> case = Case(block="a", kind="steps", model="8b", method="lora", stack="hf", settings={"seq_len": 512})
        >>> case.label
        '8b lora hf seq_len=512'
        """
        told = {
            **self.settings,
            **({"layers": self.layers} if self.layers else {}),
            **({"cap": self.cap} if self.cap else {}),
        }
        words = [] if self.kind == "steps" else [self.kind]
        return " ".join([*words, self.model, self.method, self.stack, *(f"{key}={_word(told[key])}" for key in told)])


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def load_matrix(name: str) -> tuple[Case, ...]:
    """The cases of a file, or of a matrix that comes with the planner, in the order in which they run.

    Raise ``BrokenInput`` in one line that names the block and the key.
    """
    path = find_matrix(name)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise BrokenInput(
            f"--matrix {name[:200]!r} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BrokenInput(f"--matrix {name[:200]!r} is not TOML: {error}") from None
    try:
        return expand(document)
    except PlannerError as error:
        raise BrokenInput(f"--matrix {name[:200]!r}, {error}") from None


def find_matrix(name: str) -> Path:
    """The file that is meant: a path, or the name of a matrix that comes with the planner."""
    shipped = {path.stem: path for path in sorted(SHIPPED.glob("*.toml"))}
    path = Path(name)
    if name in shipped and not path.is_file():
        return shipped[name]
    if path.suffix != ".toml" and not path.is_file():
        raise UnknownName("matrix", name, shipped)
    return path


def expand(document: Mapping[str, Any]) -> tuple[Case, ...]:
    """All cases of a parsed file, each once; raise ``BrokenInput`` for what has no meaning."""
    _refuse_unknown("the file", document, ("defaults", "block"))
    defaults, blocks = document.get("defaults", {}), document.get("block", [])
    if not isinstance(defaults, dict):
        raise BrokenInput("defaults: write a table, [defaults]")
    if not isinstance(blocks, list) or not blocks or not all(isinstance(block, dict) for block in blocks):
        raise BrokenInput("there are no blocks: write at least one [[block]]")
    _refuse_unknown("defaults", defaults, [key for key in KNOWN if key not in BLOCK_KEYS])
    found = [_block(number, block, defaults) for number, block in enumerate(blocks, start=1)]
    unique: dict[tuple[object, ...], Case] = {}
    for _, cases in sorted(found, key=lambda pair: pair[0]):
        for case in cases:
            unique.setdefault(_identity(case), case)
    return tuple(unique.values())


def _identity(case: Case) -> tuple[object, ...]:
    """Two blocks may ask the same; the first one has it."""
    return case.kind, case.label, case.steps, case.warmup


# ---------------------------------------------------------------- blocks


def _block(number: int, block: Mapping[str, Any], defaults: Mapping[str, Any]) -> tuple[int, list[Case]]:
    """The priority of a block and its cases."""
    name = block.get("name", f"block {number}")
    if not isinstance(name, str) or not name.strip():
        raise BrokenInput(f"block {number}: name {show(name)} is not text")
    where = f"block {name[:60]!r}" if "name" in block else f"block {number}"
    _refuse_unknown(where, block, KNOWN)
    merged = {**block, **{key: value for key, value in defaults.items() if key not in block}}
    for key in ("model", "method"):
        if key not in merged:
            raise BrokenInput(f"{where}: {key} is missing")
    axes = {key: _values(where, key, value) for key, value in merged.items() if key in (*CASE_KEYS, *SETTINGS)}
    run = {key: _run_value(where, key, merged[key]) for key in RUN_KEYS if key in merged}
    if run.get("kind") in ("find_max_batch", "find_max_seq") and "layers" in axes:
        raise BrokenInput(f"{where}: layers: a limit is searched with all layers")
    priority = _number(where, "priority", merged.get("priority", 0))
    return priority, [_case(where, name, row, run) for row in _rows(where, axes, merged.get("exclude", []))]


def _rows(where: str, axes: Mapping[str, Sequence[Any]], exclude: object) -> Iterator[dict[str, Any]]:
    """The product of the lists without what is excluded; the first key changes slowest."""
    count = 1
    for values in axes.values():
        count *= len(values)
    if count > CASES_IN_A_MATRIX:
        raise BrokenInput(f"{where}: {count} cases are more than the {CASES_IN_A_MATRIX} of a matrix")
    rows = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    excluded: set[int] = set()
    for number, pattern in enumerate(_patterns(where, axes, exclude), start=1):
        hit = {place for place, row in enumerate(rows) if all(row[key] in wanted for key, wanted in pattern.items())}
        if not hit:
            raise BrokenInput(f"{where}: exclude: its number {number} is true of no case")
        excluded |= hit
    yield from (row for place, row in enumerate(rows) if place not in excluded)


def _patterns(where: str, axes: Mapping[str, Sequence[Any]], exclude: object) -> Iterator[dict[str, list[Any]]]:
    if not isinstance(exclude, list):
        raise BrokenInput(f"{where}: exclude {show(exclude)} is not a list of tables")
    for pattern in exclude:
        if not isinstance(pattern, dict) or not pattern:
            raise BrokenInput(f"{where}: exclude {show(pattern)} is not a table")
        _refuse_unknown(f"{where}: exclude", pattern, list(axes))
        yield {key: value if isinstance(value, list) else [value] for key, value in pattern.items()}


def _case(where: str, block: str, row: Mapping[str, Any], run: Mapping[str, Any]) -> Case:
    cap = row.get("cap", "")
    try:
        cap_bytes = parse_bytes(cap) if cap else None
    except PlannerError as error:
        raise BrokenInput(f"{where}: cap: {error}") from None
    return Case(
        block=block,
        model=row["model"],
        method=row["method"],
        stack=row.get("stack", "trl"),
        settings=MappingProxyType({key: value for key, value in row.items() if key in SETTINGS}),
        layers=row.get("layers"),
        cap_bytes=cap_bytes,
        cap=cap,
        **{"kind": "steps", **run},
    )


# ---------------------------------------------------------------- values


def _refuse_unknown(where: str, table: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in table:
        if key not in known:
            near = nearest(key, known)
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise BrokenInput(f"{where}: unknown key {key[:60]!r}{hint}")


def _values(where: str, key: str, value: object) -> list[Any]:
    """One value, or the list of those that a key takes in turn."""
    values = value if isinstance(value, list) else [value]
    if not values:
        raise BrokenInput(f"{where}: {key} is an empty list")
    for one in values:
        _check_value(where, key, one)
    return values


def _check_value(where: str, key: str, value: object) -> None:
    if key == "method" and value not in METHODS:
        raise BrokenInput(f"{where}: method {show(value)} is not one of {', '.join(METHODS)}")
    if key == "layers" and value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise BrokenInput(f'{where}: layers {show(value)} is neither "auto" nor a whole number of 1 or more')
    if key in ("model", "stack", "cap") and not (isinstance(value, str) and value.strip()):
        raise BrokenInput(f"{where}: {key} {show(value)} is not text")
    if not isinstance(value, str | int | float | bool):
        raise BrokenInput(f"{where}: {key} {show(value)} is neither text nor a number")


def _run_value(where: str, key: str, value: object) -> object:
    if key != "kind":
        return _number(where, key, value)
    if value not in KINDS:
        raise BrokenInput(f"{where}: kind {show(value)} is not one of {', '.join(KINDS)}")
    return value


def _number(where: str, key: str, value: object) -> int:
    least, most = NUMBERS[key]
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise BrokenInput(f"{where}: {key} {show(value)} is not a whole number from {least} to {most}")
    return value
