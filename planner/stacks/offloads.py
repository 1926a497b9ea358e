"""Which states an engine can move beyond the card, and where to: what none can is refused in one line."""

from collections.abc import Mapping
from typing import Any

from planner.errors import UnsupportedScenario
from planner.spec import Behaviour

ON_CARD_ONLY = ("8bit", "paged", "lion")
"""bitsandbytes' optimizers update states on the card: 0.50 optim/optimizer.py."""


def refuse_offload(chosen: Mapping[str, Any], behaviour: Behaviour) -> None:
    """Raise ``UnsupportedScenario`` for states that the engine cannot move, naming what comes nearest."""
    offload, sharding = chosen["offload"], chosen["sharding"]
    if {"optimizer", "parameters"} & set(offload):
        _refuse_states(offload, sharding, chosen)
        _refuse_optimizer(chosen)
        if sharding in ("fsdp", "hsdp") and behaviour.fsdp_version == 1:
            raise UnsupportedScenario(
                f"--offload {','.join(offload)} under FSDP of version 1 is not planned: use version 2 (--stack "
                f"{behaviour.name},fsdp=2, in a trainer's file fsdp_version: 2) or --sharding zero3"
            )
    if "activations" in offload and behaviour.offloads_activations == "none":
        raise UnsupportedScenario(f"--offload activations: stack {behaviour.name} does not have it; use --stack trl")


def _refuse_states(offload: tuple[str, ...], sharding: str, chosen: Mapping[str, Any]) -> None:
    """DeepSpeed offloads the optimizer under every stage and parameters under stage 3; FSDP2 both or neither.

    DeepSpeed 0.19.8 runtime/zero/offload_config.py; torch 2.13 _fsdp_api.py, CPUOffloadPolicy.
    """
    if sharding in ("none", "ddp"):
        nearest = "zero3" if "parameters" in offload else "zero2"
        raise UnsupportedScenario(
            f"--offload {','.join(offload)} under --sharding {sharding}: only DeepSpeed and FSDP move these; "
            f"use --sharding {nearest}"
        )
    if sharding in ("fsdp", "hsdp") and not {"optimizer", "parameters"} <= set(offload):
        raise UnsupportedScenario(
            f"--offload {','.join(offload)} under --sharding {sharding}: FSDP moves optimizer and parameters together; "
            "use --offload optimizer,parameters or --sharding zero3"
        )
    if sharding in ("zero1", "zero2") and "parameters" in offload:
        raise UnsupportedScenario(
            f"--offload parameters under --sharding {sharding}: DeepSpeed moves parameters under zero3 only; "
            "use --sharding zero3 or --offload optimizer"
        )
    if chosen["offload_device"] == "nvme" and sharding != "zero3":
        raise UnsupportedScenario(
            f"--offload-device nvme under --sharding {sharding}: only zero3 reaches a drive; "
            "use --sharding zero3 or --offload-device cpu"
        )


def _refuse_optimizer(chosen: Mapping[str, Any]) -> None:
    name = chosen["optimizer"]
    if any(part in name for part in ON_CARD_ONLY):
        raise UnsupportedScenario(
            f"--offload optimizer with --optimizer {name}: bitsandbytes updates states on the card; "
            "use --optimizer adamw"
        )
