"""GPUs by name: shipped profiles, the user's own folder, and ``--profiles DIR``, later ones overriding.

``hardware_profiles/index.json`` holds what parsing every file would give, keyed by each file's checksum. A
file that differs from its entry is parsed afresh, so a stale index costs time and never a wrong number; with a current
one neither ``tomllib`` nor pydantic is loaded.
"""

import json
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

from planner.errors import BrokenInput, UnknownName, UsageError
from planner.spec import Gpu, Price, Share
from planner.units import GIB

INDEX = "index.json"
INDEX_FORMAT = 1
MAX_FILE_BYTES = 2**18
APP = "finetune-planner"

Facts = dict[str, Any]


class _Group(NamedTuple):
    """A class profile: its name stands for the weakest of ``members``."""

    id: str
    advertised_gb: int
    members: tuple[str, ...]
    aliases: tuple[str, ...]


class _Library:
    """All profiles in force by id, and what each name means; keys of names are squeezed by ``_squeeze``."""

    def __init__(self) -> None:
        self.gpus: dict[str, Gpu] = {}
        self.groups: dict[str, _Group] = {}
        self.names: dict[str, str] = {}
        self.spelled: list[str] = []
        self.meanings: dict[str, str] = {}


# ---------------------------------------------------------------- questions


def load_gpu(name: str, profiles_dir: Path | None = None) -> Gpu:
    """Return the GPU, or the weakest card of the class, that ``name`` stands for, with its price.

    >>> load_gpu("RTX 4090").id, load_gpu("24gb").represents
    ('rtx4090', 'l4')
    """
    library = _library(profiles_dir)
    key = _squeeze(name)
    found = library.names.get(key)
    if found is None:
        raise UnknownName("gpu", name, library.spelled, listing="plan gpus")
    gpu = _find(library, found)
    return replace(gpu, resolution=_resolution(name, gpu, library.meanings.get(key)))


def list_gpus(profiles_dir: Path | None = None) -> tuple[Gpu, ...]:
    """Every single GPU, smallest memory first."""
    gpus = _library(profiles_dir).gpus.values()
    return tuple(sorted(gpus, key=lambda gpu: (gpu.memory_bytes, gpu.id)))


def list_classes(profiles_dir: Path | None = None) -> tuple[Gpu, ...]:
    """Every class of GPUs, as its weakest member, smallest memory first."""
    library = _library(profiles_dir)
    groups = (_weakest(library, group) for group in library.groups.values())
    return tuple(sorted(groups, key=lambda gpu: (gpu.memory_bytes, gpu.id)))


def _resolution(asked: str, gpu: Gpu, meaning: str | None) -> str:
    """``24gb -> NVIDIA L4 (the smallest 24 GB card: 22.0 GiB visible to torch)``."""
    text = f"{' '.join(asked.split())} -> {gpu.name} ("
    if gpu.represents:
        text += f"the smallest {gpu.advertised_gb} GB card: "
    elif meaning:
        text += f"{meaning}; "
    text += f"{gpu.memory_bytes / GIB:.1f} GiB visible to torch"
    if "memory_bytes" in gpu.estimated:
        text += ", estimated"
    if gpu.system_bytes:
        text += f", about {gpu.system_bytes / GIB:.1f} GiB of it taken by the system"
    return f"{text})"


def _squeeze(name: str) -> str:
    """One key for the ways in which people write a card's name.

    >>> _squeeze("NVIDIA GeForce RTX 4090"), _squeeze("rtx-4090"), _squeeze("Tesla_T4")
    ('rtx4090', 'rtx4090', 't4')
    """
    return _MAKER.sub("", _SEPARATORS.sub("", name.lower()))


_SEPARATORS = re.compile(r"[\s_-]+")
_MAKER = re.compile(r"^(nvidia|amd)?(geforce|tesla|instinct)?")


def _find(library: _Library, found: str) -> Gpu:
    if found in library.gpus:
        return library.gpus[found]
    return _weakest(library, library.groups[found])


def _weakest(library: _Library, group: _Group) -> Gpu:
    """Pick the member with the least memory that torch can see; of equal ones the slowest."""
    weakest = min((library.gpus[member] for member in group.members), key=_strength)
    return replace(
        weakest,
        id=group.id,
        aliases=group.aliases,
        represents=weakest.id,
        members=group.members,
        advertised_gb=group.advertised_gb,
    )


def _strength(gpu: Gpu) -> tuple[float, ...]:
    return (
        gpu.memory_bytes,
        gpu.bandwidth_bytes_per_s,
        gpu.peak_flops_per_s.get("bf16", 0),
        gpu.nvlink_bytes_per_s or 0,
        gpu.tdp_w or 0,
    )


# ---------------------------------------------------------------- folders


def shipped_dir() -> Path:
    """Find the profiles inside the installed package, or those of the repository it runs from."""
    inside = Path(__file__).with_name("_hardware_profiles")
    return inside if inside.is_dir() else Path(__file__).parents[1] / "hardware_profiles"


def user_dir() -> Path:
    """Where a user keeps profiles that always count; it need not exist."""
    from platformdirs import user_config_path  # noqa: PLC0415  (needed here only, and not free)

    return user_config_path(APP, appauthor=False) / "hardware_profiles"


def _library(profiles_dir: Path | None) -> _Library:
    own = user_dir()
    layers = [_read_folder(own, {})] if own.is_dir() else []
    if profiles_dir is not None:
        layers.append(_asked_for(profiles_dir))
    shipped = shipped_dir()
    return _build([_shipped(shipped), *layers]) if layers else _build_once(shipped)


def _asked_for(folder: Path) -> dict[Path, Facts]:
    """Read the profiles of ``--profiles``, which must be a folder that holds some."""
    files = _read_folder(folder, {}) if os.path.isdir(folder) else {}
    if not files:
        raise UsageError(f"--profiles {str(folder)[:200]!r} is not a folder that holds *.toml files")
    return files


@cache
def _shipped(folder: Path) -> dict[Path, Facts]:
    files = _read_folder(folder, _read_index(folder))
    if not files:
        raise BrokenInput(f"{folder}: no hardware profiles found: install {APP} again")
    return files


@cache
def _build_once(folder: Path) -> _Library:
    return _build([_shipped(folder)])


def _read_folder(folder: Path, index: Mapping[str, Facts]) -> dict[Path, Facts]:
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".toml"))
    except OSError as error:
        raise BrokenInput(f"{_shown(folder)}: cannot be read: {error.strerror}") from None
    return {folder / name: _facts(folder / name, index.get(name)) for name in names}


def _facts(path: Path, indexed: Facts | None) -> Facts:
    """Facts of one file, from the index where the file has not changed since."""
    content = _content(path)
    if indexed is not None and indexed["crc32"] == crc32(content):
        return indexed
    return _parse(path, content)


@lru_cache(maxsize=1024)
def _parse(path: Path, content: bytes) -> Facts:
    from planner.hardware_schema import read  # noqa: PLC0415  (pydantic builds its schemas when this loads)

    return {"crc32": crc32(content), **read(_shown(path), path.stem, content)}


def _content(path: Path) -> bytes:
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise BrokenInput(f"{_shown(path)}: not a file")
        if found.st_size > MAX_FILE_BYTES:
            raise BrokenInput(f"{_shown(path)}: larger than {MAX_FILE_BYTES // 1024} KiB: no hardware profile is")
        return path.read_bytes()
    except FileNotFoundError:
        raise BrokenInput(f"{_shown(path)}: not a file") from None
    except OSError as error:
        raise BrokenInput(f"{_shown(path)}: cannot be read: {error.strerror}") from None


def _shown(path: Path) -> str:
    return "".join(char if char.isprintable() else "?" for char in str(path))


# ---------------------------------------------------------------- index


def _read_index(folder: Path) -> Mapping[str, Facts]:
    """Return parsed files by name; none when there is no index of the format that this version writes."""
    try:
        index = json.loads((folder / INDEX).read_bytes())
        return index["files"] if index["format"] == INDEX_FORMAT else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def render_index(folder: Path) -> str:
    """Return the text that ``index.json`` should have: every file parsed, one line each."""
    files = {path.name: facts for path, facts in _read_folder(folder, {}).items()}
    lines = (f" {json.dumps(name)}: {json.dumps(facts)}" for name, facts in files.items())
    return f'{{"format": {INDEX_FORMAT}, "files": {{\n' + ",\n".join(lines) + "\n}}\n"


def write_index(folder: Path | None = None) -> Path:
    """Regenerate ``index.json`` after a profile has changed.

    Run ``python -c "from planner.hardware import write_index; write_index()"``; a test fails until somebody does.
    """
    target = (folder or shipped_dir()) / INDEX
    target.write_text(render_index(target.parent), encoding="utf-8")
    return target


# ---------------------------------------------------------------- one library from several folders


def _build(layers: Iterable[Mapping[Path, Facts]]) -> _Library:
    library = _Library()
    prices: dict[str, Price] = {}
    files = [item for layer in layers for item in layer.items()]
    for path, facts in files:
        if "prices" in facts:
            prices |= _prices(facts["prices"])
        else:
            _add(library, path, facts)
    for path, facts in files:
        _check_references(library, path, facts)
    for key, price in prices.items():
        library.gpus[key] = replace(library.gpus[key], price=price)
    return library


def _add(library: _Library, path: Path, facts: Facts) -> None:
    """Put one profile in, in place of any other with its id; names stay with the id that has them."""
    item = facts.get("gpu") or facts["class"]
    library.gpus.pop(item["id"], None)
    library.groups.pop(item["id"], None)
    if "gpu" in facts:
        library.gpus[item["id"]] = Gpu(**_frozen(item) | _shares(item))
    else:
        library.groups[item["id"]] = _Group(**_frozen(item))
    for name in (item["id"], *item["aliases"]):
        holder = library.names.setdefault(_squeeze(name), item["id"])
        if holder != item["id"]:
            raise BrokenInput(f"{_shown(path)}: aliases: {name!r} already names {holder!r}")
        library.spelled.append(name)
    library.meanings.update({_squeeze(name): text for name, text in facts.get("meanings", {}).items()})


def _check_references(library: _Library, path: Path, facts: Facts) -> None:
    named = {"members": facts.get("class", {}).get("members", ()), "gpus": facts.get("prices", {}).get("gpus", ())}
    for key, ids in named.items():
        unknown = [name for name in ids if name not in library.gpus]
        if unknown:
            raise BrokenInput(f"{_shown(path)}: {key}: no profile has the id {', '.join(map(repr, unknown[:3]))}")


def _prices(listed: Facts) -> dict[str, Price]:
    return {
        key: Price(
            low_usd=offer["low"],
            typical_usd=offer["typical"],
            hyperscaler_usd=offer["hyperscaler"],
            as_of=listed["as_of"],
            estimated=offer["estimated"],
            basis=offer["basis"],
        )
        for key, offer in listed["gpus"].items()
    }


def _shares(item: Facts) -> Facts:
    """What the card reaches of its peak, where its profile says so."""
    named = ((name, item.get(name)) for name in ("products", "attention"))
    return {name: Share(share["value"], share["n"], tuple(share["sources"])) for name, share in named if share}


def _frozen(item: Facts) -> Facts:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in item.items()}
