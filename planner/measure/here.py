"""The machine that this runs on, without torch: its processor as a device, and devices as cards of ours."""

import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

from planner.build.installed import BUILT, check_versions, needed, require
from planner.errors import UnsupportedScenario, UsageError, show
from planner.local.card import LOCAL, cpu_card, profile_of
from planner.local.processor import processor_name, total_bytes
from planner.measure.task import Device
from planner.spec import Gpu, Scenario, TrainSpec
from planner.units import format_bytes

DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""One of these is there wherever CUDA or ROCm can be: without any, nobody has to ask."""

LIBRARIES = ("torch", "transformers", "accelerate", "peft")
"""What every job is built with."""


def may_have_gpu() -> bool:
    """Whether a driver is there; asked without loading it."""
    return any(Path(driver).exists() for driver in DRIVERS) or shutil.which("nvidia-smi") is not None


def cpu_here() -> Device:
    """The processor of this machine and its memory."""
    return Device("cpu", processor_name(), total_bytes())


def card_of_device(device: Device, gpus: Iterable[Gpu] = ()) -> Gpu:
    """A card for scenarios that name none: the profile among ``gpus`` that this is, else what torch says of it."""
    if device.kind == "cpu":
        return cpu_card(device.name, device.total_bytes)
    profile = profile_of(device.name, device.total_bytes, gpus)
    if profile is not None:
        return replace(
            profile,
            id=LOCAL,
            name=device.name,
            memory_bytes=device.total_bytes,
            compute_capability=device.capability,
            sm_count=device.multiprocessors,
            aliases=(),
        )
    return Gpu(
        id=LOCAL,
        name=device.name,
        vendor="",
        architecture="",
        memory_bytes=device.total_bytes,
        driver_bytes=device.total_bytes,
        context_bytes=0,
        bandwidth_bytes_per_s=0.0,
        peak_flops_per_s=MappingProxyType({}),
        compute_capability=device.capability,
        pcie_bytes_per_s=None,
        nvlink_bytes_per_s=None,
        supports_bf16=(device.capability or (0, 0)) >= (8, 0),
        supports_flash=(device.capability or (0, 0)) >= (8, 0),
        sm_count=device.multiprocessors,
    )


def check_measurable(scenario: Scenario, layers: int | None) -> None:
    """Raise ``PlannerError`` for what this machine, with the libraries' own code, cannot show."""
    if scenario.stack.name not in BUILT:
        raise UnsupportedScenario(
            f"the step of stack {scenario.stack.name} is not built here, so none is measured: use --stack hf or trl"
        )
    depth = scenario.model.num_hidden_layers
    if layers is not None and not 1 <= layers <= depth:
        raise UsageError(f"--layers {show(layers)} is outside 1 to {depth}, the depth of {scenario.model.name}")
    check_ranks(scenario)
    if scenario.train.kernels != "eager":
        raise UnsupportedScenario("plan measure has no fused kernels: use --kernels eager")


ENGINES = ("ddp", "fsdp", "zero1", "zero2", "zero3")
"""Shardings that ranks of this machine run."""


def check_ranks(scenario: Scenario) -> None:
    """Raise ``UnsupportedScenario`` for cards elsewhere, and for an engine that ranks here do not run."""
    cluster, train = scenario.cluster, scenario.train
    if cluster.nodes > 1:
        raise UnsupportedScenario(
            f"plan measure runs on this machine, not on {cluster.nodes}: use --gpus {cluster.gpus} --nodes 1"
        )
    _check_parallel(train)
    if cluster.world_size == 1:
        if train.sharding != "none":
            raise UnsupportedScenario(f"--sharding {train.sharding} takes several cards: add --gpus 2")
        return
    if train.sharding not in ENGINES:
        raise UnsupportedScenario(f"plan measure cannot run --sharding {train.sharding}: use --sharding fsdp")
    if train.shards_by_fsdp and scenario.stack.fsdp_version != 2:
        raise UnsupportedScenario(
            f"stack {scenario.stack.name} uses FSDP version {scenario.stack.fsdp_version}, and only version 2 can be "
            "measured: use another --stack, or --sharding ddp"
        )


def _check_parallel(train: TrainSpec) -> None:
    """Settings of many cards that the job's builder does not know."""
    for name in ("tensor_parallel", "pipeline_parallel", "context_parallel", "ulysses_parallel", "expert_parallel"):
        if getattr(train, name) > 1:
            raise UnsupportedScenario(f"plan measure has no --{name.replace('_', '-')}: leave it out")
    if train.offload:
        raise UnsupportedScenario("plan measure has no --offload: leave it out")


def check_devices(device: Device, ranks: int) -> None:
    """Raise ``UnsupportedScenario`` for more ranks than devices; processors may take several, up to ``MOST_RANKS``."""
    if device.kind == "cuda" and ranks > device.devices:
        cards = "1 device" if device.devices == 1 else f"{device.devices} devices"
        raise UnsupportedScenario(f"--gpus {ranks}: torch sees {cards} here: use --gpus {device.devices}")
    if ranks > MOST_RANKS and device.kind == "cpu":
        raise UnsupportedScenario(f"--gpus {ranks}: a processor stands in for {MOST_RANKS} cards at most")


MOST_RANKS = 8


def check_libraries(scenario: Scenario, *, exact: bool) -> None:
    """Raise ``PlannerError`` when a library is missing, or (``exact``) is another version than the scenario's."""
    require(*needed(scenario))
    if exact:
        check_versions(scenario.stack)


def check_cap(device: Device, cap_bytes: int | None, ranks: int = 1) -> None:
    """Raise ``PlannerError`` for a card that this device cannot pretend to be.

    On a processor the limit counts whatever a process has, and ranks have gloo's copies.
    """
    if cap_bytes is None:
        return
    if cap_bytes > device.total_bytes:
        raise UsageError(
            f"--cap {format_bytes(cap_bytes)} is more than {device.name} has ({format_bytes(device.total_bytes)})"
        )
    if device.kind == "cpu" and ranks > 1:
        raise UnsupportedScenario("--cap on the processor is for one rank: leave it out, or use --gpus 1")
    if device.kind == "cpu" and sys.platform != "linux":
        raise UnsupportedScenario("--cap on the processor needs Linux: leave it out, or measure on a GPU")


def check_snapshot(device: Device, snapshot: str | None, ranks: int = 1) -> None:
    """Raise ``UnsupportedScenario`` where no allocator keeps a history, or several would write one file."""
    if snapshot is not None and ranks > 1:
        raise UnsupportedScenario("--snapshot is the history of one rank: leave it out, or use --gpus 1")
    if snapshot is not None and device.kind == "cpu":
        raise UnsupportedScenario(
            "--snapshot is CUDA's memory history, and there is no CUDA device here: plan trace --snapshot writes a "
            "traced one"
        )


def as_it_can_run(scenario: Scenario, device: Device, settings: Mapping[str, object]) -> Scenario:
    """The scenario with an attention that is installed, where the ``settings`` that somebody chose name none."""
    if device.kind == "cuda" and "attention" not in settings and _lacks_flash(scenario):
        return replace(scenario, train=replace(scenario.train, attention="sdpa"))
    return scenario


def _lacks_flash(scenario: Scenario) -> bool:
    """Whether the step would call flash-attn, which is not there; looked up without loading it."""
    return scenario.train.attention == "flash" and find_spec("flash_attn") is None


def check_flash(device: Device, scenario: Scenario) -> None:
    """Raise ``UnsupportedScenario`` for real steps with kernels that are not installed; a CPU has its own."""
    if device.kind == "cuda" and _lacks_flash(scenario):
        raise UnsupportedScenario("--attention flash calls flash-attn, which is not installed: use --attention sdpa")
