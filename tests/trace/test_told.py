"""How far a trace has come: never back, from nothing to nearly all, and only to whoever asks."""

from planner.allocator.events import OUTSIDE
from planner.trace.told import tell, telling


def test_a_step_goes_forward_only() -> None:
    heard: list[float] = []
    layers = 4
    with telling(lambda done, _text: heard.append(done)):
        for step in range(2):
            for layer in (OUTSIDE, *range(layers)):
                tell("forward", step, 2, layer, layers)
            tell("loss", step, 2, OUTSIDE, layers)
            for layer in reversed(range(layers)):
                tell("backward", step, 2, layer, layers)
            tell("optimizer_step", step, 2, OUTSIDE, layers)

    assert heard == sorted(heard)
    assert heard[0] == 0
    assert 0.9 < heard[-1] < 1


def test_nobody_is_told_outside() -> None:
    heard: list[str] = []
    with telling(lambda _done, text: heard.append(text)):
        tell("backward", 0, 2, 3, 4)
    tell("backward", 1, 2, 3, 4)

    assert heard == ["backward of step 1 of 2, layer 4 of 4"]
