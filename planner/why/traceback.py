"""Which phase of a job a traceback ends in, from the frames that it prints."""

import re
from typing import NamedTuple

from planner.result import Phase

FRAME = re.compile(r'File "([^"\n]+)", line (\d+), in ([^\n]+)(?:\n[ \t]+(?!File ")([^\n]+))?')
RANK = re.compile(r"^\[rank\d+\]:[ ]?", re.MULTILINE)
"""torchrun writes it before every line."""


class Frame(NamedTuple):
    """One line of a traceback: where, in which function, and the code there if it is printed."""

    file: str
    line: int
    function: str
    code: str

    @property
    def place(self) -> str:
        """File and line, as short as is still telling."""
        return f"{'/'.join(self.file.replace(chr(92), '/').split('/')[-2:])}:{self.line}"


class Place(NamedTuple):
    """The phase that a traceback ends in, and the frame that says so."""

    phase: Phase
    frame: Frame


SIGNS: tuple[tuple[Phase, str], ...] = (
    ("evaluation", r"::(evaluation_loop|prediction_loop|prediction_step|nested_concat|gather_for_metrics)::"),
    ("generation", r"generation[/\\].*::(generate|_sample|_beam_search)::"),
    ("merge", r"::(merge_and_unload|merge_adapter|_unload_and_optionally_merge)::"),
    ("save", r"::(save_pretrained|save_model|_save_checkpoint|save_state)::"),
    ("resume", r"::(_load_from_checkpoint|_load_optimizer_and_scheduler|load_state)::"),
    (
        "load",
        r"::(from_pretrained|_load_pretrained_model|set_module_tensor_to_device|get_peft_model|prepare_model"
        r"|prepare_model_for_kbit_training|dispatch_model)::|prepare_model_for_kbit_training\(",
    ),
    (
        "optimizer_step",
        r"torch[/\\]optim[/\\]|bitsandbytes[/\\]optim|[/\\]optimizer\.py::|::.*\boptimizer\.step\(",
    ),
    ("backward", r"torch[/\\]autograd[/\\]|::backward::|::.*\.backward\("),
    (
        "loss",
        r"[/\\]loss[/\\]|::(cross_entropy|ForCausalLMLoss|fixed_cross_entropy)::"
        r"|::.*(cross_entropy|loss_fct|loss_function|lm_head)\(|::.*logits\.float\(\)",
    ),
    ("forward", r"modeling_\w+\.py::|::(forward|training_step|compute_loss)::"),
)
"""Patterns of a frame, written ``file::function::code``. What encloses others stands before what it encloses: an
evaluation runs forward passes, and backward computes some again."""


HINTS: tuple[tuple[str, str], ...] = (
    ("WHY112", r"::(ForCausalLMLoss|fixed_cross_entropy)::"),
    ("WHY115", r"::eager_attention_forward::"),
    ("WHY116", r"::sdpa_attention_forward::"),
    ("WHY117", r"::_?flash_attention_forward::|flash_attn_interface\.py::"),
    ("WHY119", r"torch[/\\]utils[/\\]checkpoint\.py::"),
    ("WHY124", r"torch[/\\]optim[/\\]adamw?\.py::"),
    ("WHY125", r"::_multi_tensor_adamw?::"),
    ("WHY126", r"::_fused_adamw?::"),
    ("WHY127", r"bitsandbytes[/\\]optim[/\\]"),
    ("WHY132", r"liger_kernel[/\\]"),
    ("WHY140", r"::prepare_model_for_kbit_training::|::.*prepare_model_for_kbit_training\("),
)
"""Frames that only a certain setting runs through, by the code of the change that it would be."""


class Hint(NamedTuple):
    """A frame that speaks for a change."""

    code: str
    frame: Frame


def hints(text: str) -> tuple[Hint, ...]:
    """The changes that the last traceback's frames speak for, whatever was planned."""
    found = frames(_last(text))
    return tuple(
        Hint(code, frame)
        for code, pattern in HINTS
        for frame in [next((one for one in found if re.search(pattern, _written(one))), None)]
        if frame is not None
    )


def _written(frame: Frame) -> str:
    return f"{frame.file}::{frame.function}::{frame.code}"


def frames(text: str) -> tuple[Frame, ...]:
    """The frames of a text, outermost first."""
    plain = RANK.sub("", text)
    found = FRAME.findall(plain)
    return tuple(Frame(file, int(line), function.strip(), (code or "").strip()) for file, line, function, code in found)


def place(text: str) -> Place | None:
    """The phase in which a text's traceback ends; ``None`` where its frames do not say."""
    found = frames(_last(text))
    for phase, pattern in SIGNS:
        for frame in reversed(found):
            if re.search(pattern, _written(frame)):
                return Place(phase, frame)
    return None


def _last(text: str) -> str:
    """The traceback above the last out-of-memory message; of errors that caused one another, that one's."""
    end = max(text.rfind("out of memory"), text.rfind("you tried to allocate"), text.rfind("ALLOC_FAILED"))
    before = text[:end] if end >= 0 else text
    return before[max(before.rfind("Traceback (most recent call last)"), 0) :]
