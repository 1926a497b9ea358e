"""What TRL's preference and reinforcement trainers do around a model: losses, the reference, completions and scores.

Each is the trainer's own code, run on an object that has what the code asks of a trainer.
"""

from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from types import MethodType, SimpleNamespace
from typing import Any

import torch

from planner.build.installed import installed_versions, require
from planner.build.model import DTYPES
from planner.build.trainer import Loss
from planner.errors import UnsupportedScenario
from planner.result import Phase
from planner.spec import Scenario, TrainSpec

DPO_OUTPUTS = ("log_probs", "entropy", "mean_logits", "is_top1")
"""What DPO asks the fused head for. trl 1.16 trainer/dpo_trainer.py, __init__."""

GRPO_OUTPUTS = ("log_probs", "entropy")
"""What GRPO asks it for. trl 1.16 trainer/grpo_trainer.py, __init__."""


RollOut = Callable[[Any, Callable[[Phase], None]], dict[str, Any]]
"""A job and whom to tell of phases, to what a step's completions leave."""


def preference_loss(model: Any, reference: Any, scenario: Scenario, device: str) -> tuple[Loss, RollOut | None]:
    """The trainer's own loss of an objective, with the fused head that it puts on the models; and how it samples."""
    if scenario.train.objective == "dpo" and scenario.train.loss == "full":
        trl = f" with trl {scenario.stack.versions['trl']}" if "trl" in scenario.stack.versions else ""
        raise UnsupportedScenario(
            f"a trace has TRL's fused head for pairs, and stack {scenario.stack.name}{trl} scores whole logits: "
            "use --evidence closed-form"
        )
    require("trl")
    from trl.trainer import utils  # noqa: PLC0415  (slow to import)

    if not hasattr(utils, "add_fused_lm_head"):  # it came with trl 1.15
        raise UnsupportedScenario(
            f"trl {installed_versions()['trl']} is too old for a trace of --objective {scenario.train.objective}: "
            "its trainers have no fused head"
        )
    dpo = scenario.train.objective == "dpo"
    utils.add_fused_lm_head(innermost(model), outputs=DPO_OUTPUTS if dpo else GRPO_OUTPUTS)
    if reference is not None:
        utils.add_fused_lm_head(reference)
    if dpo:  # DPOConfig.disable_dropout
        utils.disable_dropout_in_model(model)
        return _dpo_loss(model, reference, scenario.train), None
    trainer = _grpo_trainer(model, reference, scenario, device)
    return partial(_grpo_loss, trainer), partial(_roll_out, trainer)


def innermost(model: Any) -> Any:
    """The model inside PEFT's."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _accelerator(autocast: Callable[[], Any] = nullcontext) -> SimpleNamespace:
    """What the losses ask of accelerate on one process: gathering returns what it is given."""
    return SimpleNamespace(
        device=None,
        num_processes=1,
        is_main_process=False,
        sync_gradients=True,
        gather=lambda value: value,
        gather_for_metrics=lambda value: value,
        reduce=lambda value, reduction: value,
        unwrap_model=lambda model: model,
        autocast=autocast,
    )


# ---------------------------------------------------------------- DPO


def _dpo_loss(model: Any, reference: Any, train: TrainSpec) -> Loss:
    from trl.trainer.dpo_trainer import DPOTrainer  # noqa: PLC0415

    trainer = SimpleNamespace(
        model=model,
        ref_model=reference,
        accelerator=_accelerator(),
        args=SimpleNamespace(gradient_checkpointing_kwargs={"use_reentrant": False}),
        aux_loss_enabled=False,
        precompute_ref_logps=train.reference == "none",
        ld_alpha=None,
        f_divergence_type="reverse_kl",
        loss_types=["sigmoid"],
        loss_weights=[1.0],
        beta=0.1,
        use_weighting=False,
        _tp_size=1,
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)},
        _total_train_tokens=0,
    )

    def compute(called: Any, batch: dict[str, Any], return_outputs: bool = False) -> Any:
        trainer._metrics["train"].clear()
        return DPOTrainer._compute_loss(trainer, called, batch, return_outputs)

    return compute


def pairs(batch: dict[str, torch.Tensor], *, scored: bool) -> dict[str, torch.Tensor]:
    """A batch of DPO: completions are marked in place of labels; ``scored``: with log probabilities of a reference.

    trl 1.16 trainer/dpo_trainer.py, DataCollatorForPreference.
    """
    mask = batch.pop("labels")
    ids = batch["input_ids"]
    found = batch | {"completion_mask": mask}
    if scored:
        found |= {name: ids.new_empty(len(ids) // 2, dtype=torch.float32) for name in REFERENCE_NAMES}
    return found


REFERENCE_NAMES = ("ref_chosen_logps", "ref_rejected_logps")


# ---------------------------------------------------------------- GRPO


BETA = 0.04
"""Weight of the divergence from a reference, where there is one: any but 0."""


def _grpo_trainer(model: Any, reference: Any, scenario: Scenario, device: str) -> SimpleNamespace:
    from trl.trainer.grpo_trainer import GRPOTrainer  # noqa: PLC0415

    train = scenario.train
    native = train.autocast != "none" and not train.sharding.startswith("zero")
    dtype = DTYPES[train.autocast] if native else None
    trainer = SimpleNamespace(
        model=model,
        ref_model=reference,
        accelerator=_accelerator(partial(torch.autocast, device, dtype=dtype) if native else nullcontext),
        args=SimpleNamespace(
            gradient_checkpointing_kwargs={"use_reentrant": False},
            delta=None,
            use_bias_correction_kl=True,
            steps_per_generation=train.grad_accumulation,
        ),
        aux_loss_enabled=False,
        beta=0.0 if train.reference == "none" else BETA,
        loss_type="dapo",
        importance_sampling_level="token",
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        epsilon_low=0.2,
        epsilon_high=0.2,
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        current_gradient_accumulation_steps=train.grad_accumulation,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)},
    )
    trainer._get_per_token_logps_and_entropies = MethodType(GRPOTrainer._get_per_token_logps_and_entropies, trainer)
    return trainer


def _grpo_loss(trainer: Any, called: Any, batch: dict[str, Any]) -> Any:
    from trl.trainer.grpo_trainer import GRPOTrainer  # noqa: PLC0415

    trainer._metrics["train"].clear()
    return GRPOTrainer._compute_loss(trainer, called, batch)


def _roll_out(trainer: Any, job: Any, begin: Callable[[Phase], None]) -> dict[str, Any]:
    """Completions of full length, and the reference's log probabilities.

    trl 1.16 trainer/grpo_trainer.py, _generate_single_turn and _generate_and_score_completions; what the tokenizer and
    the rewards do in between leaves nothing on the device.
    """
    from trl.models.utils import disable_gradient_checkpointing  # noqa: PLC0415

    from planner.build.generation import lengthen  # noqa: PLC0415  (which takes jobs)

    train = job.scenario.train
    rows, kept = train.rollout_sequences, train.completion_len
    begin("rollout")
    with torch.no_grad(), disable_gradient_checkpointing(job.model, trainer.args.gradient_checkpointing_kwargs):
        ids = lengthen(
            job, rows=rows, prompt=train.prompt_len, tokens=kept, do_sample=True, temperature=1.0, top_p=1.0, top_k=0
        )
        found = _as_kept(ids, rows, train)
        if trainer.beta:
            begin("scoring")
            found["ref_per_token_logps"] = _reference_scores(trainer, job, found, kept)
    return found


def _as_kept(ids: torch.Tensor, rows: int, train: TrainSpec) -> dict[str, torch.Tensor]:
    """What comes back from the tokenizer's lists: ids and masks of prompts and completions, and advantages."""
    parts = {"prompt": train.prompt_len, "completion": train.completion_len}
    found = {f"{name}_{kind}": ids.new_ones((rows, size)) for name, size in parts.items() for kind in ("ids", "mask")}
    advantages = ids.new_ones((rows,), dtype=torch.float32)
    return found | {"advantages": advantages, "num_items_in_batch": ids.new_ones(())}


def part_of(rollout: dict[str, torch.Tensor], rows: int) -> dict[str, torch.Tensor]:
    """One micro-batch of a rollout. trl 1.16 trainer/utils.py, split_tensor_dict."""
    return {name: tensor[:rows] if tensor.ndim else tensor for name, tensor in rollout.items()}


def _reference_scores(trainer: Any, job: Any, found: dict[str, torch.Tensor], kept: int) -> torch.Tensor:
    from trl.trainer.utils import use_adapter  # noqa: PLC0415

    ids = torch.cat([found["prompt_ids"], found["completion_ids"]], dim=1)
    mask = torch.cat([found["prompt_mask"], found["completion_mask"]], dim=1)
    size = job.scenario.train.micro_batch_size
    score = trainer._get_per_token_logps_and_entropies
    if trainer.ref_model is not None:
        return score(trainer.ref_model, ids, mask, kept, batch_size=size)[0]
    with use_adapter(job.model, adapter_name=None):
        return score(job.model, ids, mask, kept, batch_size=size)[0]
