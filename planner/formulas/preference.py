"""What preference and reinforcement learning hold and compute besides a step's own passes.

Counts in, bytes or operations out. Symbols: ``b`` samples, ``s`` tokens of a sequence, ``c`` of them sampled.
"""

PAIR = 2
"""Sequences of one sample of DPO: the chosen answer and the rejected one, each with the prompt."""

ID_BYTES = 8
"""Token ids and masks are int64. trl 1.16 trainer/grpo_trainer.py, _generate_and_score_completions."""


def rollout_bytes(*, rows: int, s: int, completion: int, referred: bool) -> int:
    """What GRPO's trainer keeps of a rollout until the next one replaces it.

    Shapes:    ids and masks of prompts (rows, s - c) and completions (rows, c) in int64; advantages (rows,) in fp32;
               the reference's log probabilities (rows, c) in fp32
    Formula:   2*8*rows*s + 4*rows (+ 4*rows*c)
    Source:    trl 1.16 trainer/grpo_trainer.py, _prepare_inputs (``_buffered_inputs``)
    Valid:     completions of full length; text alone
    Excludes:  log probabilities of an older policy, which only a rollout for several optimizer steps has

    >>> rollout_bytes(rows=8, s=1024, completion=256, referred=True)
    139296
    """
    return 2 * ID_BYTES * rows * s + 4 * rows + (4 * rows * completion if referred else 0)


def cached_reads(*, prompt: int, tokens: int) -> int:
    """Positions that decoding reads from a cache, over all of its passes.

    Shapes:    the pass of token i, from the second on, reads those of prompt + i positions, its own too
    Formula:   sum over 0 < i < c of (p + i) = (c-1)*p + c*(c-1)/2
    Source:    transformers 5.23 generation/utils.py, _sample: the first token comes from the prompt's own pass
    Valid:     without sliding windows
    Excludes:  the prompt's pass

    >>> cached_reads(prompt=10, tokens=3)  # 11 + 12
    23
    """
    passes = max(tokens - 1, 0)
    return passes * prompt + passes * (passes + 1) // 2
