"""Every kind of adapter in the installed PEFT, traced for two steps, and really trained on the CPU."""

from pathlib import Path
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
pytest.importorskip("transformers")
peft: Any = pytest.importorskip("peft", minversion="0.21")

from planner.allocator.events import Instant, peaks  # noqa: E402
from planner.peft_config import PEFT_TYPES, known_types, read_adapter  # noqa: E402
from planner.trace.run import record  # noqa: E402
from planner.trace.semantics import cpu_semantics  # noqa: E402
from tests.trace.tuners import TUNERS, fields_of, real_run, scenario, write  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

TOLERANCE = 0.02

UNEVEN = {
    "CARTRIDGE": "gradients are slices of tensors that hold the frozen first tokens too",
    "SHADOW": "the last layer's update is never used, so it has no gradient",
}
"""Kinds whose gradients are not just one element for each trained parameter."""


def test_every_kind_has_a_case() -> None:
    installed = {kind.value for kind in peft.PeftType}

    assert set(TUNERS) == installed == set(PEFT_TYPES) == set(known_types())


def last_step(found: Any) -> dict[str, Instant]:
    """The highest instant of every phase of the second step."""
    return {instant.phase: instant for instant in peaks(found.trace) if instant.step == 1}


@pytest.mark.parametrize("kind", sorted(TUNERS))
def test_a_traced_step_is_a_real_one(kind: str, tmp_path: Path) -> None:
    fields = fields_of(kind, tmp_path)
    real = real_run(fields)

    settings = scenario()
    found = record(settings, cpu_semantics(settings), adapter=read_adapter(write(fields, tmp_path)))

    step = last_step(found)
    trainable = sum(part.trainable for part in found.parameters.values())
    assert trainable == real.trainable
    gradients = step["optimizer_step"].memory.gradients
    assert gradients == real.gradient_bytes
    assert (gradients == 4 * trainable) == (kind not in UNEVEN)
    ours = max(instant.memory.total for instant in step.values())
    assert ours == pytest.approx(real.peak, rel=TOLERANCE), f"{ours / real.peak - 1:+.2%}"
