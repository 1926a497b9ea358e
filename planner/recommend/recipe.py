"""The settings that learning feels and memory hardly does: rates, batches, rank, schedule; each with its source.

A recipe is advice, to start from: published recipes differ by factors, and the range beside each value says by how
much. Nothing here is fitted.
"""

from collections.abc import Iterator
from typing import NamedTuple

from planner.cost import steps_of
from planner.recommend.batches import batch
from planner.recommend.capacity import (
    LARGEST_RANK,
    LEAST_RANK,
    PREFERENCE_RANKS,
    capacity,
    full_from,
    params_per_rank,
    rank_for,
)
from planner.recommend.rates import learning_rate, model_aware_rate
from planner.recommend.sourced import Advice
from planner.spec import Job, Method, ModelSpec, Scenario, Task
from planner.units import format_count

STABILISED_FROM = 64
"""Rank from which the scale is divided by the root of the rank: below it the two scales lie within a factor of two
of each other."""

STABLE_ALPHA = 16.0
"""Alpha under that scale: 16 / sqrt(64) = 2, which is what alpha = 2r gives at any rank below."""

_RSLORA = "Kalajdzievski 2023, arXiv:2312.03732; PEFT 0.21 LoraConfig.use_rslora"
_LLAMA_2 = "Touvron et al. 2023, arXiv:2307.09288, section 3.1"
_ALPACA = "Stanford Alpaca's README, table of hyperparameters"
_ZEPHYR = "alignment-handbook recipes/zephyr-7b-beta/dpo/config_full.yaml"


class Recipe(NamedTuple):
    """A start for a run: what to set besides what the plan sets. ``None``: the method has no such setting.

    ``second_rate``: what the model-aware formula says, where its family was calibrated. ``global_batch``: sequences per
    optimizer step; pairs under DPO, completions under RL.
    """

    learning_rate: Advice
    second_rate: Advice | None
    global_batch: Advice
    epochs: Advice
    warmup: Advice
    scheduler: Advice
    weight_decay: Advice
    rank: Advice | None
    alpha: Advice | None
    rslora: Advice | None
    dropout: Advice | None
    targets: Advice | None
    modules_to_save: Advice | None

    def items(self) -> Iterator[tuple[str, Advice]]:
        """Name and advice of every setting that there is."""
        yield from ((name, advice) for name, advice in self._asdict().items() if advice is not None)


def recipe(scenario: Scenario, job: Job) -> Recipe:
    """A start for one planned run; alpha and scale are those of the rank that is planned."""
    model, train = scenario.model, scenario.train
    low_rank = train.peft_type == "LORA"
    return Recipe(
        learning_rate=learning_rate(model, train.method, job, steps_of(scenario, job) or None),
        second_rate=model_aware_rate(model, train.method, job.task),
        global_batch=_batch(scenario, job.task),
        epochs=_epochs(job),
        warmup=_warmup(job.task),
        scheduler=_scheduler(job.task),
        weight_decay=_weight_decay(train.method, job.task),
        rank=_rank(scenario, job) if low_rank else None,
        alpha=_alpha(train.lora_rank) if low_rank else None,
        rslora=_rslora(train.lora_rank) if low_rank else None,
        dropout=_dropout() if low_rank else None,
        targets=_targets() if low_rank else None,
        modules_to_save=_saved(model, job) if low_rank else None,
    )


def stabilised(rank: int) -> bool:
    """Whether adapters of this rank are scaled by alpha / sqrt(r) instead of alpha / r.

    >>> stabilised(32), stabilised(64)
    (False, True)
    """
    return rank >= STABILISED_FROM


def alpha_for(rank: int) -> float:
    """The alpha that goes with a rank.

    >>> alpha_for(16), alpha_for(64), alpha_for(256)
    (32.0, 16.0, 16.0)
    """
    return STABLE_ALPHA if stabilised(rank) else 2.0 * rank


def modules_for_new_tokens(model: ModelSpec) -> tuple[str, ...]:
    """Modules that learn tokens which the model has never seen: the token table, and the head where it has its own."""
    table = model.embeddings[0].name.rpartition(".")[2] if model.embeddings else "embed_tokens"
    return (table,) if model.tie_word_embeddings else (table, model.lm_head.name)


def planned_batch(scenario: Scenario) -> int:
    """Sequences of an optimizer step of the run, all ranks together."""
    train = scenario.train
    return train.micro_batch_size * train.grad_accumulation * scenario.layout.sequences


def _batch(scenario: Scenario, task: Task) -> Advice:
    """That of the planned step where recipes go as far, as on many cards; else where to start from."""
    known, planned = batch(scenario.train.method, task), planned_batch(scenario)
    value = planned if known.low <= planned <= known.high else known.value
    what = {"dpo": "pairs", "rl": "completions"}.get(task, "sequences")
    return Advice(value, known.source, f"{what} per optimizer step", known.low, known.high)


def _rank(scenario: Scenario, job: Job) -> Advice:
    model, targets, stack = scenario.model, scenario.train.lora_targets, scenario.stack
    per_rank, tokens = params_per_rank(model, targets, fused_experts=stack.fused_experts), job.learned_tokens
    value = rank_for(tokens, per_rank, job.task)
    if job.task == "rl":
        return Advice(value, "TRL docs, lora_without_regret.md", "an episode carries about 1 bit", 1, 32)
    if job.task == "dpo":
        return Advice(value, "tinker-cookbook's DPO recipe takes 32", "pairs tell little", *PREFERENCE_RANKS)
    source = "2 bits per parameter, arXiv:2404.05405; TRL docs, lora_without_regret.md"
    if tokens is None:
        return Advice(value, source, "nobody said how many tokens there are", LEAST_RANK, LARGEST_RANK)
    most = full_from(per_rank, job.task)
    if most is not None and tokens > most:
        why = f"beyond {format_count(most)} tokens adapters fall behind: full fine-tuning learns more"
    else:
        why = f"it holds about {format_count(capacity(per_rank, value))} tokens, and there are {format_count(tokens)}"
    return Advice(value, source, why, LEAST_RANK, LARGEST_RANK)


def _alpha(rank: int) -> Advice:
    if stabilised(rank):
        why = f"with rsLoRA: alpha / sqrt(r), as large at rank 64 as 2r / r below it; without it alpha is {2 * rank}"
        return Advice(STABLE_ALPHA, _RSLORA, why, 16, 32)
    return Advice(
        alpha_for(rank),
        "TRL 1.16 trainer/model_config.py: alpha 32 at rank 16",
        "twice the rank; with alpha 32 at every rank the best learning rate hardly moves (LoRA Without Regret)",
        rank,
        2 * rank,
    )


def _rslora(rank: int) -> Advice:
    if stabilised(rank):
        return Advice(True, _RSLORA, "alpha / r would shrink the update of a high rank")
    return Advice(False, _RSLORA, f"pays from rank {STABILISED_FROM}")


def _dropout() -> Advice:
    source = "Unsloth's notebooks (0 keeps fused kernels); TRL 1.16 trainer/model_config.py has 0.05"
    return Advice(0.0, source, "dropout keeps a masked copy of every adapter's input", 0.0, 0.05)


def _targets() -> Advice:
    source = "TRL docs, lora_without_regret.md; tinker's LoRA primer; PEFT 0.21 utils/constants.py"
    return Advice(("all-linear",), source, "attention alone falls behind at equal parameters; PEFT's default is q, v")


def _saved(model: ModelSpec, job: Job) -> Advice | None:
    if not job.new_vocabulary:
        return None
    tied = " (LoraConfig.ensure_weight_tying, as the head shares the table)" if model.tie_word_embeddings else ""
    source = "TRL 1.16 trainer/sft_trainer.py; QwenLM/Qwen README, table of LoRA (emb)"
    return Advice(modules_for_new_tokens(model), source, f"new tokens have no rows that could be frozen{tied}")


def _epochs(job: Job) -> Advice:
    if job.task == "sft":
        return Advice(2, f"{_LLAMA_2}; Unsloth's guide: 1 to 3", "", 1, 3)
    if job.task == "dpo":
        return Advice(1, _ZEPHYR, "", 1, 3)
    if job.task == "cpt":
        return Advice(1, "Muennighoff et al. 2023, arXiv:2305.16264", "up to 4 lose little against new data", 1, 4)
    return Advice(1, "TRL 1.16 trainer/grpo_config.py", "each step samples anew", 1, 3)


def _warmup(task: Task) -> Advice:
    if task == "dpo":
        return Advice(0.1, _ZEPHYR, "share of all steps", 0.0, 0.1)
    if task == "rl":
        return Advice(0.0, "transformers 5.23 training_args.py, which GRPOConfig keeps", "share of all steps", 0.0, 0.1)
    return Advice(0.03, _ALPACA, "share of all steps", 0.0, 0.1)


def _scheduler(task: Task) -> Advice:
    if task == "rl":
        return Advice("linear", "transformers 5.23 training_args.py, which GRPOConfig keeps")
    return Advice("cosine", _ZEPHYR if task == "dpo" else f"{_LLAMA_2}; {_ALPACA}")


def _weight_decay(method: Method, task: Task) -> Advice:
    if method == "full" and task in ("sft", "cpt"):
        return Advice(0.1, _LLAMA_2, "", 0.0, 0.1)
    return Advice(0.0, "transformers 5.23 training_args.py; Unsloth's notebooks have 0.01", "", 0.0, 0.01)
