"""Preference and reinforcement learning: what an objective decides about other settings, and what cannot run.

As TRL's trainers do it: trl 1.16 trainer/dpo_trainer.py and trainer/grpo_trainer.py, ``__init__``, and
trainer/grpo_config.py, ``__post_init__``. Where the others differ is data: ``stacks/*.toml``.
"""

from collections.abc import Mapping
from math import gcd
from typing import Any

from planner.errors import UnsupportedScenario, UsageError, option
from planner.spec import Behaviour, Cluster, Origin

FEWEST_GENERATIONS = 2
"""Advantages compare the completions of one prompt."""

PLANNED_MOMENTS = ("save", "resume", "merge")
"""Moments that are the same whatever a step optimises: evaluation has pairs or samples of its own."""

SPLITS_MODEL = (
    "tensor_parallel",
    "pipeline_parallel",
    "context_parallel",
    "ulysses_parallel",
    "expert_parallel",
)


def settle_objective(chosen: dict[str, Any], origins: dict[str, Origin], cluster: Cluster, stack: Behaviour) -> None:
    """The reference, whole logits, GRPO's batch in whole groups, and a completion that leaves room for a prompt."""
    objective = chosen["objective"]
    if objective == "sft" or objective not in stack.objectives:
        return
    if origins["loss"] != "user":
        chosen["loss"] = "fused" if objective == "grpo" or stack.pairs == "fused" else "full"
    if origins["kernels"] == "stack" and not stack.fuses_pairs:
        chosen["kernels"] = "eager"
    if origins["reference"] != "user":
        chosen["reference"], origins["reference"] = default_reference(objective, chosen["method"]), "stack"
    if origins["sharding"] != "user" and _undivided_copy(chosen, stack):
        chosen["sharding"] = "zero3"
    if objective != "grpo":
        return
    if origins["grad_accumulation"] != "user":
        chosen["grad_accumulation"] = whole_groups(chosen, cluster)
    if chosen["sharding"] == "fsdp" and origins["sharding"] != "user" and chosen["method"] != "full":
        chosen["sharding"] = "ddp"
    if origins["completion_len"] != "user":
        chosen["completion_len"] = max(min(chosen["completion_len"], chosen["seq_len"] // 2), 1)


def default_reference(objective: str, method: str) -> str:
    """What TRL takes reference log probabilities from: nothing in GRPO, whose ``beta`` is 0 by default.

    >>> default_reference("dpo", "full"), default_reference("dpo", "lora"), default_reference("grpo", "full")
    ('copy', 'base', 'none')
    """
    if objective == "grpo":
        return "none"
    return "copy" if method == "full" else "base"


def whole_groups(chosen: Mapping[str, Any], cluster: Cluster) -> int:
    """The fewest micro-steps after which all ranks together have whole groups of completions.

    A micro-batch that is left open is 1 here and 8 in ``TrainingArguments``.
    """
    group = int(chosen["num_generations"])
    return group // gcd(group, chosen["micro_batch_size"] * cluster.world_size)


def refuse_objective(chosen: Mapping[str, Any], cluster: Cluster, stack: Behaviour) -> None:
    """Objectives, references and batches that the trainer refuses, and what is not planned beside them."""
    objective = chosen["objective"]
    if objective == "sft":
        if chosen["reference"] != "none":
            raise UsageError(
                f"--reference {chosen['reference']} is of preferences and rewards: add --objective dpo or grpo"
            )
        return
    if objective not in stack.objectives:
        known = ", ".join(stack.objectives)
        trl = f" with trl {stack.versions['trl']}" if "trl" in stack.versions else ""
        raise UnsupportedScenario(
            f"--objective {objective} is not planned for stack {stack.name}{trl} (only {known}): use --stack trl"
        )
    if chosen["method"] == "full" and cluster.world_size == 1 and not stack.full_pairs_alone:
        raise UnsupportedScenario(
            f"--method full under --objective {objective} on one card: stack {stack.name} has it on several only: "
            "use --gpus 2 or --method lora"
        )
    _refuse_beside(chosen)
    _refuse_head(chosen, stack)
    _refuse_reference(chosen, stack)
    if objective == "grpo":
        _refuse_groups(chosen, cluster)


def _refuse_head(chosen: Mapping[str, Any], stack: Behaviour) -> None:
    """Each trainer scores in one way: by TRL's fused head, which takes the head's weight alone, or of whole logits."""
    objective = chosen["objective"]
    fused = objective == "grpo" or stack.pairs == "fused"
    if chosen["loss"] != ("fused" if fused else "full"):
        way = "TRL scores by its fused head" if fused else f"stack {stack.name} scores whole logits"
        raise UnsupportedScenario(f"--loss {chosen['loss']} under --objective {objective}: {way}: leave --loss out")
    adapted = any(target.rpartition(".")[2] == "lm_head" for target in chosen["lora_targets"])
    if fused and adapted and chosen["method"] != "full":
        raise UnsupportedScenario(f"--lora-targets lm_head: TRL's trainer of {objective} refuses adapters on the head")


def _refuse_reference(chosen: Mapping[str, Any], stack: Behaviour) -> None:
    """References that the trainer does not have, or that are not planned."""
    reference, sharding = chosen["reference"], chosen["sharding"]
    if reference == "base" and chosen["method"] == "full":
        raise UnsupportedScenario(
            "--reference base disables adapters, and --method full trains none: use --reference copy"
        )
    if reference == "copy" and chosen["objective"] == "grpo" and chosen["method"] != "full":
        raise UnsupportedScenario(
            "--reference copy: TRL's GRPOTrainer keeps no second model beside adapters: use --reference base"
        )
    if reference == "copy" and chosen["method"] != "full" and not stack.copy_beside_adapters:
        raise UnsupportedScenario(
            f"--reference copy: stack {stack.name} keeps no second model beside adapters: use --reference base"
        )
    if reference not in stack.references:
        kinds = " or ".join(
            one for one in stack.references if one != ("copy" if chosen["method"] != "full" else "base")
        )
        raise UnsupportedScenario(f"stack {stack.name} has no --reference {reference} of pairs: use {kinds}")
    if _undivided_copy(chosen, stack):
        raise UnsupportedScenario(
            f"--reference copy under --sharding {sharding} is not planned for stack {stack.name}: use --sharding zero3"
        )


def _undivided_copy(chosen: Mapping[str, Any], stack: Behaviour) -> bool:
    """Whether FSDP would divide a second model in a way that is not planned."""
    divided = chosen["sharding"] in ("fsdp", "hsdp")
    return chosen["reference"] == "copy" and divided and stack.reference_units == "none"


def _refuse_beside(chosen: Mapping[str, Any]) -> None:
    """What is not planned together with pairs or samples."""
    objective = chosen["objective"]
    for name in SPLITS_MODEL:
        if chosen[name] > 1:
            raise UnsupportedScenario(
                f"{option(name)} under --objective {objective} is not planned yet: use {option(name)} 1"
            )
    if chosen["offload"]:
        raise UnsupportedScenario(f"--offload under --objective {objective} is not planned yet: use --offload none")
    if beyond := [name for name in chosen["moments"] if name not in PLANNED_MOMENTS]:
        raise UnsupportedScenario(
            f"--moments {','.join(beyond)} under --objective {objective} is not planned yet: "
            f"use --moments {','.join(PLANNED_MOMENTS)}"
        )
    if chosen["peft_config"]:
        raise UnsupportedScenario(f"--peft-config under --objective {objective} is not planned yet: use --method lora")


def _refuse_groups(chosen: Mapping[str, Any], cluster: Cluster) -> None:
    group, completion = chosen["num_generations"], chosen["completion_len"]
    if group < FEWEST_GENERATIONS:
        raise UsageError(f"--num-generations {group}: GRPO compares the completions of a prompt: take 2 or more")
    if completion >= chosen["seq_len"]:  # a search for the longest sequence meets it, too
        raise UnsupportedScenario(
            f"--completion-len {completion} leaves no prompt in --seq-len {chosen['seq_len']}: "
            f"sequences are prompt and completion"
        )
    batch = chosen["micro_batch_size"] * cluster.world_size * chosen["grad_accumulation"]
    if batch % group:
        raise UnsupportedScenario(
            f"{batch} completions of a step (micro-batch x GPUs x accumulation) are not whole groups of "
            f"--num-generations {group}: take --grad-accumulation {whole_groups(chosen, cluster)}"
        )
    if chosen["sharding"] in ("fsdp", "hsdp") and chosen["method"] != "full":
        raise UnsupportedScenario(
            f"--objective grpo of adapters under --sharding {chosen['sharding']} is not planned yet: PEFT samples past "
            "the module that FSDP2 hooks: use --sharding ddp or zero3"
        )
