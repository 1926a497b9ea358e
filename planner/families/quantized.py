"""Checkpoints that are stored quantised: which of them training starts from, and as what."""

from collections.abc import Mapping

from planner.errors import BrokenInput, UnsupportedScenario
from planner.families.fields import show

DEQUANTISED = {"fp8", "mxfp4"}
"""Native formats of the first release (DeepSeek, gpt-oss), which trainers turn into bf16 before the first step."""

REVERSIBLE = {"bitsandbytes"}
"""The same weights that ``--method qlora`` makes from the 16-bit ones."""


def storage_note(config: Mapping[str, object], text: Mapping[str, object], where: str) -> tuple[str, ...]:
    """What the reader must know of a quantised checkpoint; formats that cannot be trained are refused."""
    settings = text.get("quantization_config") or config.get("quantization_config")
    if not settings:
        return ()
    if not isinstance(settings, dict):
        raise BrokenInput(f"{where}: quantization_config is {show(settings)}, which is not a table of settings")
    method = settings.get("quant_method")
    if isinstance(method, str) and method in DEQUANTISED:
        return (f"the checkpoint is stored in {method}; planned as its 16-bit weights, which trainers start from",)
    if isinstance(method, str) and method in REVERSIBLE:
        return ("the checkpoint is already quantised by bitsandbytes; planned as the 16-bit model it was made from",)
    raise UnsupportedScenario(
        f"{where}: quantization_config.quant_method {show(method)} is a format for inference; "
        "plan for the model's unquantised repository"
    )
