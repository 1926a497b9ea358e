"""Records as a run would leave them, for tests."""

from dataclasses import replace
from typing import Any

import planner
from planner.records import DiedIn, Environment, Peaks, PhasePeaks, Record, RunDevice, document_of

CARD = RunDevice(kind="cuda", name="NVIDIA L4", total_bytes=23_664_230_400, architecture="ada", capability=(8, 9))


def a_record(number: int = 0, *, model: str = "smollm2-135m", method: str = "lora", **facts: Any) -> Record:
    """A run that went well; ``number`` makes it another one."""
    scenario = planner.scenario(model=model, gpu="l4", method=method)  # type: ignore[arg-type]
    usual: dict[str, Any] = {
        "taken_at": f"2026-03-01T12:00:00.{number:06d}Z",
        "device": CARD,
        "outcome": "done",
        "environment": Environment(versions={"torch": "2.13.0", "peft": "0.21.2"}, driver="580.1", others_bytes=0),
        "load": PhasePeaks(phase="load", allocated_bytes=270_000_128),
        "first": (
            PhasePeaks(phase="forward", allocated_bytes=500_000_256, reserved_bytes=600_834_048),
            PhasePeaks(phase="backward", allocated_bytes=700_000_256 + number, reserved_bytes=800_064_512),
        ),
        "steady": (PhasePeaks(phase="backward", allocated_bytes=700_000_256, device_bytes=1_200_000_000),),
        "peak": Peaks(allocated_bytes=700_000_256 + number, reserved_bytes=800_064_512, device_bytes=1_200_000_000),
        "first_seconds": 0.75,
        "steady_seconds": 0.125,
        "tokens_per_second": 16384.0,
        "host_bytes": 2_000_000_000,
        "owners": {"weights": 269_030_400, "gradients": 19_537_920},
        "predicted": {"traced": {"allocated": 700_100_096, "reserved": 800_064_512}, "closed-form": {"required": 1}},
    }
    return Record(scenario=document_of(scenario), **(usual | facts))


def out_of_memory(number: int = 0, **facts: Any) -> Record:
    """A run that ended for want of memory: it has no peak."""
    ended: dict[str, Any] = {"outcome": "out_of_memory", "died_in": DiedIn(step=0, phase="backward"), "peak": Peaks()}
    return a_record(number, **(ended | {"first": (), "steady": (), "detail": "CUDA out of memory"} | facts))


def another(record: Record, number: int) -> Record:
    """The same run at another moment: cheaper than a new scenario where hundreds are wanted."""
    moment = f"2026-03-{number // 1_000_000 + 1:02d}T12:00:00.{number % 1_000_000:06d}Z"
    return replace(record, taken_at=moment)
