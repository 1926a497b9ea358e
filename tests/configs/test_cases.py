"""Real-life configurations, each with a verdict that is argued from outside: its author, or a published number."""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from planner.configs.checking import check, understand_files
from planner.errors import UnsupportedScenario
from planner.recommend.request import Request
from planner.units import GIB

CASES = Path(__file__).parent / "cases"
LEAST_CASES = 60


@dataclass(frozen=True, kw_only=True)
class Case:
    """``published_gib``: what its author measured; ``within``: how far ours may be off, as a share."""

    name: str
    folder: Path
    files: tuple[str, ...]
    verdict: str
    why: str
    gpu: str
    gpus: int = 1
    nodes: int | None = None
    model: str = ""
    trainer: str | None = None
    published_gib: float | None = None
    within: float = 0.15
    refused: str = ""


def cases() -> Iterator[Case]:
    for table in sorted(CASES.glob("*/verdicts.toml")):
        for name, facts in tomllib.loads(table.read_text(encoding="utf-8")).items():
            yield Case(
                name=f"{table.parent.name}-{name}", folder=table.parent, **{**facts, "files": tuple(facts["files"])}
            )


ALL = tuple(cases())


def test_there_are_enough_and_each_is_argued() -> None:
    assert len(ALL) >= LEAST_CASES
    assert len({one.name for one in ALL}) == len(ALL)
    for one in ALL:
        assert len(one.why) > 20, one.name
        assert one.verdict in ("fits", "tight", "does_not_fit", "refused"), one.name
        assert bool(one.refused) == (one.verdict == "refused"), one.name


def test_every_file_belongs_to_a_case() -> None:
    used = {one.folder / file for one in ALL for file in one.files}
    there = {path for path in CASES.rglob("*") if path.is_file() and path.name != "verdicts.toml"}

    assert there == used


@pytest.mark.parametrize("case", ALL, ids=lambda one: one.name)
def test_the_verdict_is_the_argued_one(case: Case) -> None:
    request = Request(model=case.model, gpu=case.gpu, gpus=case.gpus, nodes=case.nodes, stack="")
    paths = [case.folder / file for file in case.files]

    if case.verdict == "refused":
        with pytest.raises(UnsupportedScenario, match=case.refused):
            check(*understand_files(paths, case.trainer), request)
        return
    found = check(*understand_files(paths, case.trainer), request)
    assert found.candidate.verdict == case.verdict
    if case.published_gib is not None:
        off = found.candidate.estimate.peak.reserved_bytes / GIB / case.published_gib - 1
        assert abs(off) <= case.within, f"{off:+.1%}"
