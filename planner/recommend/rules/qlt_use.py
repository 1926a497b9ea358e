"""QLT, by targets and use: where adapters sit, new vocabulary, how the result is served."""

from typing import ClassVar

from planner.formulas.adapters import adapters, inside
from planner.recommend.recipe import modules_for_new_tokens
from planner.recommend.rules.base import Case, Scope, graver, percent
from planner.result import Reason
from planner.spec import Block
from planner.units import format_bytes, format_count

SERVED_RANK = 16
"""vLLM's ``max_lora_rank`` unless told otherwise (docs, engine arguments)."""
SERVED_AT_ONCE = 8
"""SGLang's ``max_loras_per_batch`` unless told otherwise; vLLM's ``max_loras`` is 1."""

MOSTLY = 0.5


class ManyAdapters:
    """QLT019: several variants of one base are to be served.

    Why it matters: adapters share one base in memory and are swapped per request; fully trained copies share nothing.
                    Servers take low ranks and few adapters unless told otherwise.
    What helps:     LoRA of one rank for all; for vLLM --max-lora-rank and --max-loras, for SGLang
                    --max-loras-per-batch. Adapters on embeddings or head are refused by some servers.
    Source:         vLLM docs, engine arguments: max_lora_rank 16, max_loras 1. SGLang docs, server arguments:
                    max_loras_per_batch 8. Preference P2 of our decision table.
    """

    code: ClassVar[str] = "QLT019"
    slug: ClassVar[str] = "many-adapters"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        count, counts = case.job.adapters, case.subject.estimate.parameters
        if count < 2:
            return None
        if not case.train.uses_adapters:
            held = 2 * counts.total * count
            text = (
                f"{count} fully trained copies take {format_bytes(held)} in 16 bits to serve: adapters would share one "
                "base"
            )
            return Reason(code=self.code, text=text, number=held, unit="bytes", severity="warning")
        held, rank = 2 * counts.trainable * count, case.train.lora_rank
        flags = f"--max-loras {min(count, SERVED_AT_ONCE)}" + (f" --max-lora-rank {rank}" if rank > SERVED_RANK else "")
        text = f"{count} adapters of rank {rank} share one base and take {format_bytes(held)} in 16 bits: vllm {flags}"
        return Reason(code=self.code, text=text, number=held, unit="bytes", severity=graver(rank > SERVED_RANK))


class NewVocabulary:
    """QLT020: new tokens need rows of the embedding, and of the head, that are trained.

    Why it matters: a frozen table gives a new token a random vector for ever. Training the tables whole costs weights,
                    gradients and states of both: Qwen's own table goes from 20.1 to 33.7 GB for 7B.
    What helps:     --modules-to-save with the embedding and the head; for a handful of tokens PEFT's
                    trainable_token_indices, which trains their rows only.
    Source:         QwenLM/Qwen README, LoRA against LoRA (emb), 7B at length 256; TRL 1.16 trainer/sft_trainer.py adds
                    the head itself where a chat template adds tokens. Preference P7 of our decision table.
    """

    code: ClassVar[str] = "QLT020"
    slug: ClassVar[str] = "new-vocabulary"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        if not case.job.new_vocabulary or case.train.peft_type != "LORA":
            return None
        needed, saved = modules_for_new_tokens(case.scenario.model), case.train.modules_to_save
        missing = tuple(name for name in needed if not any(inside(name, given) for given in saved))
        if not missing:
            cost = case.saved_by(modules_to_save=())
            text = f"{' and '.join(needed)} are trained whole for the new tokens, at {format_bytes(cost)}"
            return Reason(code=self.code, text=text, number=cost, unit="bytes")
        cost = -case.saved_by(modules_to_save=(*saved, *missing))
        text = (
            f"new tokens have no trained rows: --modules-to-save {','.join((*saved, *missing))} raises the requirement "
            f"by {format_bytes(cost)}"
        )
        return Reason(code=self.code, text=text, number=cost, unit="bytes", severity="warning")


class MlpLeftOut:
    """QLT021: adapters leave out the matrices that matter most.

    Why it matters: adapters on attention alone fall behind at equal parameters; on the MLP they do not, and in PEFT's
                    benchmark they also forgot less. A mixture of experts whose experts carry none is nearly that case.
    What helps:     --lora-targets all-linear. For fused experts that PEFT does not map, target_parameters in an
                    adapter_config.json (--peft-config) name their tensors.
    Source:         tinker's LoRA primer; TRL docs, lora_without_regret.md; PEFT method_comparison/MetaMathQA. PEFT's
                    own default for Llama, Mistral and Qwen is query and value (0.21, utils/constants.py).
    """

    code: ClassVar[str] = "QLT021"
    slug: ClassVar[str] = "mlp-left-out"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        if case.train.peft_type != "LORA" or not case.scenario.model.blocks:
            return None
        bare, total = bare_mlp(case)
        if bare <= MOSTLY * total:
            return None
        what = "the experts" if case.scenario.model.is_moe else "the MLP"
        text = (
            f"no adapters on {format_count(bare)} of {format_count(total)} parameters of {what} "
            f"({percent(bare / total)}): attention alone learns less"
        )
        return Reason(code=self.code, text=text, number=bare, unit="parameters", severity="warning")


def bare_mlp(case: Case) -> tuple[int, int]:
    """Parameters of feed-forward matrices and experts: those without adapters, and all."""
    model, train = case.scenario.model, case.train
    found = adapters(model, train.lora_targets, train.modules_to_save, fused_experts=case.scenario.stack.fused_experts)
    adapted = found.modules | found.parameters | found.saved
    bare = total = 0
    for block, count in zip(model.blocks, model.block_counts, strict=True):
        for name, params in _feed_forward(block):
            total += count * params
            bare += 0 if name in adapted else count * params
        for name, params in _stacked(block):
            total += count * params
            separate = any(one.startswith(f"{name.rpartition('.')[0]}.") for one in adapted)  # as in transformers 4
            bare += 0 if name in adapted or separate else count * params
    return bare, total


def _feed_forward(block: Block) -> list[tuple[str, int]]:
    """Name and entries of every matrix of a block outside attention."""
    mlps = [block.mlp, *((block.experts.shared, block.experts.parallel_dense) if block.experts else ())]
    return [(linear.name, linear.weight_params) for mlp in mlps if mlp for linear in mlp.linears]


def _stacked(block: Block) -> list[tuple[str, int]]:
    """Name and entries of every tensor that holds the matrices of all experts."""
    tables = block.experts.tables if block.experts else ()
    return [(table.name, table.params) for table in tables if len(table.shape) > 2]
