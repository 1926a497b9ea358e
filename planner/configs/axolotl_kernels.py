"""axolotl's fused kernels: its own for adapters, Liger's, and heads that make no full logits.

axolotl 0.19.0 utils/schemas/config.py, check_auto_enable_lora_kernels; integrations/liger and
integrations/cut_cross_entropy; monkeypatch/loss/chunked.py.
"""

from typing import NamedTuple

from planner.configs.axolotl_keys import CUT, LIGER, LIGER_PARTS, LORA_KERNELS, PLUGINS_IGNORED
from planner.configs.keys import Keys
from planner.errors import BrokenInput
from planner.recommend.request import Setting
from planner.spec import Method

LIGER_VERSION = "0.8"
"""axolotl 0.19.0 requires liger-kernel 0.8.1."""

NOT_LOADED = "Liger's plugin is not in plugins"

CHUNKS = 8
"""monkeypatch/loss/chunked.py, CEWithChunkedOutputLoss: num_output_chunks."""


class Fused(NamedTuple):
    """Settings of kernels, what the stack's text has to name for them, and whether Liger's head computes the loss."""

    settings: dict[str, Setting]
    plugins: tuple[str, ...]
    liger_head: bool


def kernels(keys: Keys, method: Method) -> Fused:
    """What runs as one kernel, and whose head there is."""
    plugins = _plugins(keys)
    adapted = _adapters(keys, method)
    parts = _liger(keys, loaded=LIGER in plugins)
    loss, head = _loss(keys, plugins)
    if keys.peek("rl"):  # pairs and samples are scored from the logits that a model returns without labels
        loss, head = None, False
    found: dict[str, Setting] = {"loss": loss} if loss else {}
    if method == "full":
        found["kernels"] = "fused" if parts else "eager"
    elif adapted is False and parts:
        keys.tell(LORA_KERNELS[0], "unmodelled", sets="kernels", why="Liger's kernels are planned with axolotl's own")
    elif adapted is not None:
        found["kernels"] = "fused" if adapted else "eager"
    named = [name for name, there in (("liger", parts), ("liger_loss", head)) if there]
    return Fused(found, tuple(f"{name}={LIGER_VERSION}" for name in named), liger_head=head)


def _plugins(keys: Keys) -> list[str]:
    """Plugins by their paths; one that we do not know may change anything."""
    found: list[str] = keys.take("plugins", "names", "kernels", [])
    unknown = [name for name in found if name not in (LIGER, CUT) and not name.endswith(PLUGINS_IGNORED)]
    if unknown:
        why = f"{unknown[0].rpartition('.')[2]} changes the model or the step"
        keys.tell("plugins", "unmodelled", sets="kernels", why=why)
    return found


def _adapters(keys: Keys, method: Method) -> bool | None:
    """Whether axolotl's own kernels stand in for adapters; ``None`` where it switches them on by itself."""
    given = {name: keys.take(name, "flag", "kernels") for name in LORA_KERNELS}
    if method == "full":
        keys.ignore(*LORA_KERNELS, why="no adapters are trained")
        return None
    in_8_bits = bool(keys.peek("load_in_8bit"))
    if all(flag is None for flag in given.values()) and "lora_embedding_kernel" not in keys:
        by_itself = not (keys.peek("rl") or in_8_bits or keys.peek("trust_remote_code"))
        return None if by_itself else False
    on = [name for name, flag in given.items() if flag]
    if on and (in_8_bits or keys.peek("trust_remote_code")):
        raise BrokenInput(f"{keys.file}: {on[0]} goes neither with 8-bit weights nor with trust_remote_code")
    if on and len(on) < len(given):
        off = next(name for name in given if name not in on)
        keys.tell(off, "unmodelled", sets="kernels", why="axolotl's kernels are planned all together")
        return None
    return bool(on)


def _liger(keys: Keys, *, loaded: bool) -> bool:
    """Whether Liger's norm, rotary embedding and MLP stand in the model."""
    older = keys.take("liger_swiglu", "flag", "kernels")
    parts = {name: keys.take(name, "flag", "kernels", absent=False) for name in LIGER_PARTS}
    parts["liger_glu_activation"] = parts["liger_glu_activation"] or bool(older)
    if not loaded:
        for name in (*LIGER_PARTS, "liger_swiglu"):
            if name in keys:
                keys.tell(name, "ignored", why=NOT_LOADED)
        keys.ignore("liger_*", why=NOT_LOADED)
        return False
    if any(parts.values()) and not all(parts.values()):
        off = next(name for name, on in parts.items() if not on)
        keys.tell(off, "unmodelled", sets="kernels", why="Liger's kernels are planned together: rope, norm and MLP")
    return all(parts.values())


def _loss(keys: Keys, plugins: list[str]) -> tuple[str | None, bool]:
    """How the loss is computed, and whether Liger's head does it."""
    cut = CUT in plugins and keys.take("cut_cross_entropy", "flag", "loss", absent=True)
    keys.ignore("cut_cross_entropy", why="its plugin is not in plugins")
    liger = keys.take("liger_fused_linear_cross_entropy", "flag", "loss", absent=False)
    if liger and LIGER not in plugins:
        keys.tell("liger_fused_linear_cross_entropy", "ignored", why=NOT_LOADED)
        liger = False
    chunked = keys.take("chunked_cross_entropy", "flag", "loss", absent=False)
    if sum(map(bool, (cut, liger, chunked))) > 1:
        raise BrokenInput(f"{keys.file}: more than one of the cut, Liger's and the chunked cross entropy")
    if chunked and keys.take("chunked_cross_entropy_num_chunks", "whole", "loss", CHUNKS) != CHUNKS:
        keys.tell("chunked_cross_entropy_num_chunks", "unmodelled", why=f"we model axolotl's own {CHUNKS} chunks")
    if chunked:
        return "chunked", False
    return ("fused" if cut or liger else None), bool(liger)
