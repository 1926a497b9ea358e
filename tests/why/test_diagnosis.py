"""What observed bytes are held against."""

from planner.recommend.request import Request
from planner.units import GIB
from planner.why import Amount, Observation, diagnose


def test_no_more_than_the_card_is_seen_of_what_torch_would_keep() -> None:
    """Evaluation's logits leave holes: with memory to spare 117 GiB would be held, and the card has 79."""
    request = Request(model="8b", gpu="a100-80gb", methods=("lora",), settings={"moments": ("evaluation",)})

    found = diagnose(request, observed=Observation("device", Amount(78 * GIB, 78 * GIB)))

    assert found.candidate is not None
    assert found.candidate.estimate.peak.device_bytes > found.candidate.scenario.cluster.gpu.memory_bytes
    assert found.expected is not None
    assert found.expected[0] == found.candidate.scenario.cluster.gpu.memory_bytes
    assert found.agrees
