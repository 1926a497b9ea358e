"""What a trace depends on, as a key: the scenario, the libraries that run, and our own code."""

import hashlib
import json
import platform
import sys
from collections.abc import Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from planner._version import __version__
from planner.allocator.config import Settings
from planner.build.installed import LIBRARIES
from planner.spec import Scenario

SCHEMA = 1
"""Of entries; a new number leaves all older ones unread."""

ENTERING = (
    *LIBRARIES,
    "numpy",
    "triton",
    "kernels",
    "flash-attn",
    "liger-kernel",
    "causal-conv1d",
    "mamba-ssm",
    "flash-linear-attention",
)
"""What runs in a trace, and what the libraries look for when they choose their branches."""

CARD_FACTS = ("compute_capability", "sm_count")
"""All that a trace asks about a card; a test reads the code for others."""

JUDGED_FACTS = ("context_bytes", "unified_memory", "is_cpu")
"""What a judgement asks besides."""

PACKAGE = Path(__file__).parents[1]


def trace_key(
    scenario: Scenario,
    *,
    lengths: tuple[int, ...] = (),
    all_layers: bool = False,
) -> str | None:
    """The key of recorded steps; ``None`` where something is at work that no key can tell."""
    software, cluster = running_software(), scenario.cluster
    if software is None or cluster.gpu.is_cpu:  # scratch memory there depends on instruction sets and threads
        return None
    card = {name: getattr(cluster.gpu, name) for name in CARD_FACTS}
    return digest(
        {
            "software": software,
            "model": scenario.model,
            "train": scenario.train,
            "stack": scenario.stack,
            "card": card,
            "ranks": cluster.world_size,
            "layout": scenario.layout,
            "lengths": lengths,
            "all_layers": all_layers,
        }
    )


def finding_key(key: str, scenario: Scenario, settings: Settings) -> str | None:
    """The key of what follows from the steps under ``key`` on the scenario's card."""
    card = {name: getattr(scenario.cluster.gpu, name) for name in JUDGED_FACTS}
    return digest({"trace": key, "card": card, "settings": settings})


def digest(value: object) -> str | None:
    """One text for every value; ``None`` for a value that holds something else than plain data."""
    try:
        text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"))
    except TypeError:
        return None
    return hashlib.sha256(text.encode()).hexdigest()


def plain(value: object) -> object:
    """Plain data of dataclasses, mappings and sequences, told apart where Python tells them apart.

    >>> plain({"b": (1, 2.0), "a": {True}})
    {'map': [['"a"', {'set': ['true']}], ['"b"', [1, 2.0]]]}
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {"map": sorted([json.dumps(plain(key)), plain(item)] for key, item in value.items())}
    if isinstance(value, Set):
        return {"set": sorted(json.dumps(plain(item)) for item in value)}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(item) for item in value]
    return value


# ---------------------------------------------------------------- software


@cache
def running_software() -> dict[str, object] | None:
    """Versions of everything that runs; ``None`` when a library is installed in editable form and may be anything."""
    found: dict[str, object] = {
        "schema": SCHEMA,
        "planner": [__version__, _own_sources()],
        "python": [*sys.version_info[:3], platform.machine(), sys.byteorder],
    }
    for name in ENTERING:
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue
        origin = _origin(installed)
        if origin.get("dir_info"):
            return None
        found[name] = [installed.version, origin.get("vcs_info"), origin.get("archive_info")]
    return found


def _origin(installed: Distribution) -> Mapping[str, object]:
    """Where a library was installed from when that was no index: PEP 610, direct_url.json."""
    try:
        origin = json.loads(installed.read_text("direct_url.json") or "{}")
    except ValueError:
        return {}
    return origin if isinstance(origin, dict) else {}


def _own_sources() -> str:
    """Our files by size and time, since between two releases the code changes and the version does not."""
    found = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        facts = path.stat()
        found.update(f"{path.relative_to(PACKAGE)} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return found.hexdigest()
