"""The whole catalogue on all profiles within a minute, judged by a twentieth of it."""

from collections.abc import Callable

from benchmarks.many import QUICK, TARGET_SECONDS, measure, whole_grid

MOST_LOOP_STEPS = 5_500
"""Of the reference loop, for one row with its JSON: what the machine's speed does not touch."""


def test_a_minute_is_enough_for_everything(record_property: Callable[[str, object], None]) -> None:
    found = measure(QUICK)
    record_property("many", found)

    assert len(whole_grid()) > 200 * 60 * 3 * 4
    assert found.without_time < 0.1 * found.rows
    assert found.whole_seconds <= TARGET_SECONDS or found.loop_steps <= MOST_LOOP_STEPS
