"""A recording under other settings: its own first, each once, and the least that a device must give."""

import pytest

from planner.allocator.config import Settings
from planner.allocator.events import OUTSIDE, Block, Trace
from planner.allocator.recorded import Recorded, read
from planner.allocator.replay import replay
from planner.allocator.snapshot import write
from planner.allocator.whatif import EXPANDABLE, OTHERS, requested_peak, what_if
from planner.units import MIB
from tests.allocator.steps import Model, train

MODEL = train(Model(5))
SPLIT = Trace(
    tuple(Block(size * MIB, "unknown", "") for size in (20, 40, 60)),
    (0, 1, ~1, 2),
    (OUTSIDE,) * 4,
    (),
)
"""40 MiB come free and are too few for 60: a segment that grows is made longer, another one is left over."""


@pytest.mark.parametrize(("options", "own"), [(Settings(), ""), (Settings(expandable_segments=True), EXPANDABLE)])
def test_the_recordings_own_settings_come_first_and_repeat_it(options: Settings, own: str) -> None:
    found = what_if(read(write(MODEL, options)))

    assert found.recorded.expandable == options.expandable_segments
    assert [tried.text for tried in found.tried] == list(dict.fromkeys((own, "", *OTHERS)))
    assert found.tried[0].replay.reserved == found.recorded.reserved


def test_settings_that_are_asked_for_take_the_place_of_the_recordings_own() -> None:
    told: list[str] = []
    found = what_if(read(write(MODEL)), "max_split_size_mb:64", told.append)

    assert found.tried[0].text == "max_split_size_mb:64"
    assert len(told) == len(found.tried) == len(OTHERS) + 2


def test_segments_that_grow_need_less() -> None:
    default, growing, *_ = what_if(Recorded(SPLIT, 0, 0)).tried

    assert (default.text, growing.text) == ("", EXPANDABLE)
    assert default.replay.reserved == (20 + 40 + 60) * MIB
    assert growing.replay.reserved == (20 + 60) * MIB
    for tried in (default, growing):
        settings = Settings(expandable_segments=tried.text == EXPANDABLE)
        assert replay(SPLIT, settings, capacity=tried.capacity).completed


def test_what_was_asked_for_at_once() -> None:
    assert requested_peak(SPLIT) == (20 + 60) * MIB
    assert requested_peak(MODEL) == replay(MODEL).requested
    assert requested_peak(Trace((), (), (), ())) == 0
