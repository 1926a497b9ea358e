"""Puts the phases together: largest phase, reserved, device and required bytes."""

from dataclasses import replace
from types import MappingProxyType

from planner.closed_form import flattening, gathering
from planner.closed_form.backward import backward_phase
from planner.closed_form.forward import forward_phase
from planner.closed_form.host import host_of
from planner.closed_form.load import load_phase
from planner.closed_form.loss import loss_phase
from planner.closed_form.moments import moment_phases, unused
from planner.closed_form.optimizer_step import optimizer_phase
from planner.closed_form.parallel import Rank, is_divided, kinds_of_rank
from planner.closed_form.preference import as_asked, before_steps, inside_step
from planner.closed_form.profile import profile_of
from planner.closed_form.step import Step, prepare
from planner.closed_form.zero import as_deepspeed
from planner.errors import UnsupportedScenario
from planner.formulas.overhead import NCCL, fragmentation, spare_bytes
from planner.peft_config import beyond_plain_lora
from planner.result import Estimate, Memory, Peak, Phase
from planner.spec import Scenario


def estimate(scenario: Scenario) -> Estimate:
    """Bytes of one optimizer step by phase and owner, of the fullest rank.

    Raise ``UsageError`` for adapter targets that the model lacks.

    Raise ``UnsupportedScenario`` for what only a trace can tell.
    """
    _refuse(scenario)
    _, found = _fullest(scenario)
    if not is_divided(scenario.train):
        return found
    return replace(found, parameters=profile_of(scenario).inventory.parameters)


def fullest_rank(scenario: Scenario) -> Scenario:
    """The scenario of the rank that needs most: the whole one where the model is not divided."""
    return _fullest(scenario)[0].scenario if is_divided(scenario.train) else scenario


def _fullest(scenario: Scenario) -> tuple[Rank, Estimate]:
    found = [(rank, _of_rank(rank)) for rank in kinds_of_rank(scenario)]
    return max(found, key=lambda pair: pair[1].peak.required_bytes)


def _of_rank(rank: Rank) -> Estimate:
    step = prepare(as_deepspeed(as_asked(rank.scenario)), rank.beside)
    phases: dict[Phase, Memory] = {
        "load": load_phase(step),
        **before_steps(step),
        **_passes(step),
        "optimizer_step": optimizer_phase(step),
        **moment_phases(step),
    }
    host = host_of(rank.scenario, step)
    peak = _peak(step, phases, host.steady_bytes // rank.scenario.cluster.gpus)
    return Estimate("closed-form", step.profile.inventory.parameters, MappingProxyType(phases), peak, host=host)


def _passes(step: Step) -> dict[Phase, Memory]:
    """Forward, loss and backward, and a reference's pass between them."""
    if step.scenario.train.objective == "dpo":
        found = _own_passes(step)
        backward = found.pop("backward")
        return {**found, **inside_step(step), "backward": backward}
    return _own_passes(step)


def _own_passes(step: Step) -> dict[Phase, Memory]:
    if step.shards.units is not None:
        return gathering.phases(step, step.shards.units)
    if step.shards.flat is not None:
        return flattening.phases(step, step.shards.flat)
    return {"forward": forward_phase(step), "loss": loss_phase(step), "backward": backward_phase(step)}


def _refuse(scenario: Scenario) -> None:
    model, adapter = scenario.model, scenario.train.adapter
    if not model.blocks:
        raise UnsupportedScenario(f"closed forms do not know model_type {model.model_type}: use --evidence traced")
    if adapter is not None and (beyond := beyond_plain_lora(adapter)):
        raise UnsupportedScenario(f"closed forms know plain LoRA, not {beyond}: use --evidence traced")


def _peak(step: Step, phases: dict[Phase, Memory], host_bytes: int) -> Peak:
    name = max(phases, key=lambda phase: phases[phase].total)
    memory = phases[name]
    cluster = step.scenario.cluster
    varying = memory.activations + memory.logits + memory.temporaries
    train = step.scenario.train
    spare = spare_bytes(
        train.loss, train.kernels, varying=varying, allocated=memory.total, world_size=cluster.world_size
    )
    spare, unusable = _beyond(step, phases, memory.total, spare)
    if cluster.gpu.is_cpu:  # nothing is cached
        spare = unusable = 0
    reserved = memory.total + max(spare, unusable)
    outside = cluster.gpu.context_bytes + (NCCL if cluster.world_size > 1 else 0)
    required = outside + memory.total + unusable
    shared = step.managed if cluster.gpu.unified_memory else 0
    return Peak(
        phase=name,
        allocated_bytes=memory.total,
        reserved_bytes=reserved,
        device_bytes=reserved + outside,
        required_bytes=required + shared,
        low_bytes=required + shared,
        high_bytes=required + shared,
        managed_bytes=step.managed,
        host_bytes=host_bytes,
    )


def _beyond(step: Step, phases: dict[Phase, Memory], top: int, spare: int) -> tuple[int, int]:
    """Bytes beyond the highest allocation, with memory to spare and squeezed.

    A phase that leaves holes may ask for more of a card than the one that allocates most.
    """
    unusable = fragmentation(top)
    for name, memory in phases.items():
        beside, squeezed = unused(step, name)
        if beside or squeezed:
            spare = max(spare, memory.total + beside - top)
            unusable = max(unusable, memory.total + fragmentation(memory.total) + squeezed - top)
    return spare, unusable
