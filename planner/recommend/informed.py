"""Open settings that data and task decide before any method is estimated: length, rank, modules trained whole."""

from dataclasses import replace

from planner.formulas.adapters import ALL_LINEAR
from planner.recommend.capacity import full_from, params_per_rank, rank_for
from planner.recommend.recipe import modules_for_new_tokens
from planner.recommend.request import Ask, Setting
from planner.spec import TrainSpec
from planner.spec.dataset import suggested_seq_len
from planner.spec.job import OBJECTIVE_OF
from planner.stacks.rules import load_stack
from planner.stacks.values import checked


def informed(ask: Ask) -> Ask:
    """The question with what the job settles filled in; what the user set is held."""
    settings = {name: value for name, value in _implied(ask).items() if name not in ask.request.settings}
    return ask.planning(settings) if settings else ask


def with_tokens(ask: Ask, tokens: int) -> Ask:
    """The question as it would be with so many supervised tokens: what the data settles is settled anew."""
    opened = ask.opened("lora_rank")
    job = replace(ask.job, supervised_tokens=tokens)
    return informed(replace(opened, request=replace(opened.request, job=job)))


def per_rank(ask: Ask) -> int:
    """Adapter parameters of each unit of rank; 0 where nobody knows the matrices."""
    names = checked("lora_targets", ask.request.settings.get("lora_targets", (ALL_LINEAR,)))
    fused = load_stack(ask.request.stack).behaviour.fused_experts
    return params_per_rank(ask.model, names, fused_experts=fused)  # type: ignore[arg-type]


def beyond_adapters(ask: Ask) -> bool:
    """Whether the data is more than adapters of any rank hold.

    Adapters stay the answer where several are to be served on one base, and where general skills must be kept.
    """
    job = ask.job
    learned = job.learned_tokens
    most = full_from(per_rank(ask), job.task)
    return not (learned is None or most is None or job.adapters > 1 or job.keep_skills) and learned > most


def _implied(ask: Ask) -> dict[str, Setting]:
    job, implied = ask.job, dict[str, Setting]()
    if (objective := OBJECTIVE_OF.get(job.task)) is not None:
        implied["objective"] = objective
    if job.lengths is not None and job.lengths.longest:
        implied["seq_len"] = suggested_seq_len(job.lengths, ask.model.max_position_embeddings)
    if "peft_config" in ask.request.settings:
        return implied
    rank = rank_for(job.learned_tokens, per_rank(ask), job.task)
    if rank != TrainSpec.lora_rank:
        implied["lora_rank"] = rank
    if job.new_vocabulary:
        implied["modules_to_save"] = modules_for_new_tokens(ask.model)
    return implied
