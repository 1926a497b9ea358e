"""SPD: where a setting costs time. Seconds come with a time model; until then, counts and ratios."""

from typing import ClassVar

from planner.recommend.rules.base import Case, Scope
from planner.result import Reason

LAUNCH_BOUND_TOKENS = 1024
"""Tokens per micro-step below which launching kernels, not computing, sets the pace of eager Hugging Face code: 4 to
5 ms per layer and micro-step whatever the GPU (Qwen 1.8B and 14B tables; PEFT benchmark on L40S)."""


class LaunchBound:
    """SPD001: so few tokens per micro-step that the GPU waits for the CPU.

    Why it matters: eager Hugging Face code takes 4 to 5 ms per layer and micro-step on any card; below one to two
                    thousand tokens a faster card changes nothing.
    What helps:     a larger --micro-batch-size with less --grad-accumulation; packing; compiled or fused kernels.
    Source:         QwenLM/Qwen tables (1.8B: 125 ms over 24 layers, 14B: 200 ms over 40); PEFT method_comparison on
                    L40S.
    """

    code: ClassVar[str] = "SPD001"
    slug: ClassVar[str] = "launch-bound"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        tokens = case.train.tokens
        if not case.is_choice or tokens >= LAUNCH_BOUND_TOKENS:
            return None
        text = (
            f"{tokens} tokens per micro-step keep no GPU busy: "
            f"below {LAUNCH_BOUND_TOKENS}, kernel launches set the pace"
        )
        return Reason(code=self.code, text=text, number=tokens, unit="tokens")
