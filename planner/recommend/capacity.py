"""What low-rank adapters can hold, and the rank that a data set asks for: an order of magnitude, not a limit."""

from planner.formulas.adapters import ALL_LINEAR, adapters
from planner.spec import ModelSpec, Task

TOKENS_PER_PARAM = 2
"""Supervised tokens that one adapter parameter can hold: a network stores about 2 bits per parameter
(arXiv:2404.05405), and supervised data carries about 1 bit per token ("LoRA Without Regret", Thinking Machines,
2025)."""

LARGEST_RANK = 256
"""Rank beyond which full fine-tuning is the better answer: TRL's rank for supervised fine-tuning
(lora_without_regret.md)."""

LEAST_RANK = 16
"""Rank below which nothing is gained: TRL 1.16 trainer/model_config.py, and the largest that vLLM serves unasked."""

SMALL_DATA = 50_000_000
"""Tokens below which the least rank does: at 8B it holds 84 M, and on instruction data of this size LoRA of any rank
from 16 on reached full fine-tuning (tinker's LoRA primer). The cut is ours."""

RL_RANK = 16
"""Reinforcement learning: ranks of 1 to 32 suffice, since an episode carries about 1 bit, and rank 1 reached full
fine-tuning (TRL, lora_without_regret.md: SmolLM3-3B, 500 steps). Within that range we take the largest that vLLM serves
unasked (``max_lora_rank`` 16): 32 buys nothing that was measured, and less saves little."""

PREFERENCE_RANKS = (16, 64)
"""Preference data, of which each pair tells less than a demonstration: tinker's DPO recipe takes 32."""

LARGE_CORPUS = 1_000_000_000
"""Tokens of continued pretraining from which adapters fall behind, whatever their rank: at 20 B they did so by much
(Biderman et al. 2024, arXiv:2405.09673); the order of magnitude below that is ours."""


def params_per_rank(model: ModelSpec, targets: tuple[str, ...] = (ALL_LINEAR,), *, fused_experts: bool = True) -> int:
    """Trainable entries that one more unit of rank adds; 0 where nobody knows the matrices.

    Shapes:    per adapted matrix A (r, d_in), B (d_out, r)
    Formula:   sum over adapted matrices of d_in + d_out
    Source:    Hu et al. 2021, arXiv:2106.09685, section 4.1; tinker-cookbook hyperparam_utils.py lists the same sums
    Valid:     plain LoRA
    Excludes:  modules that are trained whole
    """
    return adapters(model, targets, fused_experts=fused_experts).per_rank if model.blocks and targets else 0


def capacity(per_rank: int, rank: int) -> int:
    """Supervised tokens that adapters of this rank can hold.

    Formula:   2 * p1 * r
    Source:    2 bits per parameter (arXiv:2404.05405) at 1 bit per token ("LoRA Without Regret")
    Valid:     an order of magnitude; beyond it training gets less efficient, it does not stop
    Excludes:  modules that are trained whole

    >>> capacity(2_621_440, 16), capacity(2_621_440, 256)
    (83886080, 1342177280)
    """
    return TOKENS_PER_PARAM * per_rank * rank


def rank_for(tokens: int | None, per_rank: int, task: Task = "sft") -> int:
    """The rank that these tokens of data ask for.

    Formula:   next power of two of ceil(D / (2*p1)), within 16 to 256; 16 below 50 M tokens
    Source:    ``capacity``; reinforcement learning and preference data: ``RL_RANK``, ``PREFERENCE_RANKS``
    Valid:     where full fine-tuning is not the better answer: see ``full_from``
    Excludes:  what the rank costs in memory

    >>> [rank_for(tokens, 2_621_440) for tokens in (None, 20_000_000, 84_000_000, 5_000_000_000)]
    [16, 16, 32, 256]
    >>> rank_for(5_000_000_000, 2_621_440, "rl"), rank_for(5_000_000_000, 2_621_440, "dpo")
    (16, 64)
    """
    if task == "rl":
        return RL_RANK
    least, most = PREFERENCE_RANKS if task == "dpo" else (LEAST_RANK, LARGEST_RANK)
    if tokens is None or not per_rank or (tokens < SMALL_DATA and task != "cpt"):
        return least
    return min(max(next_power_of_two(least_rank(tokens, per_rank)), least), most)


def least_rank(tokens: int, per_rank: int) -> int:
    """The smallest rank whose capacity holds ``tokens``.

    >>> least_rank(83_886_080, 2_621_440), least_rank(83_886_081, 2_621_440)
    (16, 17)
    """
    return max(-(-tokens // (TOKENS_PER_PARAM * per_rank)), 1)


def full_from(per_rank: int, task: Task = "sft") -> int | None:
    """Supervised tokens beyond which full fine-tuning is the better answer; ``None`` where it never is.

    Formula:   2 * p1 * 256; continued pretraining at most 1e9
    Source:    ``capacity`` at the largest rank; Biderman et al. 2024; TRL's table: reinforcement learning of any size
               and preference data stay with adapters
    Valid:     as ``capacity``
    Excludes:  whether full fine-tuning fits

    >>> full_from(2_621_440), full_from(12_943_360), full_from(12_943_360, "cpt"), full_from(2_621_440, "rl")
    (1342177280, 6627000320, 1000000000, None)
    """
    if task in ("rl", "dpo") or not per_rank:
        return None
    most = capacity(per_rank, LARGEST_RANK)
    return min(most, LARGE_CORPUS) if task == "cpt" else most


def token_marks(per_rank: int, task: Task = "sft") -> tuple[int, ...]:
    """Supervised tokens beyond which another rank, or full fine-tuning, is asked for; fewest first.

    >>> token_marks(2_621_440)[:2], token_marks(2_621_440)[-1] == full_from(2_621_440)
    ((83886080, 167772160), True)
    >>> token_marks(2_621_440, "rl")
    ()
    """
    most = full_from(per_rank, task)
    doubled = [capacity(per_rank, 1 << power) for power in range(LARGEST_RANK.bit_length())]
    marks = {SMALL_DATA - 1, *doubled, *(() if most is None else (most,))}
    last = max(marks) if most is None else most

    def asked(tokens: int) -> tuple[int, bool]:
        return rank_for(tokens, per_rank, task), most is not None and tokens > most

    return tuple(sorted(mark for mark in marks if mark <= last and asked(mark) != asked(mark + 1)))


def next_power_of_two(count: int) -> int:
    """The smallest power of two that is not below ``count``.

    >>> next_power_of_two(1), next_power_of_two(16), next_power_of_two(17)
    (1, 16, 32)
    """
    return 1 << (count - 1).bit_length()
