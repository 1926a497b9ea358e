"""The one table of options: what every command that describes a job takes.

A value that the user did not give stays ``None`` and never reaches the request, so that stack,
model and our own defaults can fill it and say so. Text becomes numbers here; whether a number has a
meaning is for the library to say.
"""

import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import typer

from planner.errors import UsageError, option, quoted
from planner.units import parse_bytes

Values = Mapping[str, Any]
"""Parsed options by name; ``None`` or ``False`` or an empty list when not given."""

Kind = Literal["text", "integer", "number", "bytes", "path", "list", "switch", "flag", "argument", "arguments"]


class Option(NamedTuple):
    """One option: its name, what it takes, what holds without it."""

    name: str
    kind: Kind
    help: str
    default: str = ""
    metavar: str = ""
    short: str = ""

    @property
    def flag(self) -> str:
        """The option as it is typed."""
        return option(self.name)

    @property
    def declarations(self) -> tuple[str, ...]:
        """All forms in which it is typed."""
        if self.kind == "switch":
            return (f"{self.flag}/--no-{self.flag[2:]}",)
        return (self.flag, self.short) if self.short else (self.flag,)


MODEL = (
    Option("model", "text", "a size (70b), catalogue name, Hub id, directory or config.json", metavar="MODEL"),
    Option("gpu", "text", "a GPU of `plan gpus`, a class such as 24gb, or local: what is here", metavar="GPU"),
)
JOB = (
    Option("gpus", "integer", "cards in all", "1", "N"),
    Option("nodes", "integer", "machines that they stand in", "as few as hold them", "N"),
    Option("network_gbps", "number", "of each machine's adapters together", "the profile's", "GBIT"),
    Option("host_memory", "bytes", "RAM that the job may take on each machine, as 64GiB", "no limit", "SIZE"),
    Option("method", "list", "full, lora or qlora; may be repeated", "all three", "METHOD"),
    Option("seq_len", "integer", "tokens in a sequence", "2048", "N"),
    Option("micro_batch_size", "integer", "sequences on each GPU in one forward pass", "1", "N"),
    Option("grad_accumulation", "integer", "forward passes before an optimizer step", "1", "N"),
    Option("lora_rank", "integer", "rank of the adapters", "16", "N"),
    Option("lora_alpha", "number", "scale of the adapters", "2 x rank", "X"),
    Option("lora_dropout", "number", "dropout before the adapters", "0", "X"),
    Option("lora_targets", "text", "modules that get adapters, with commas", "all-linear", "NAMES"),
    Option("peft_config", "path", "an adapter_config.json: adapters of any kind in PEFT", metavar="FILE"),
    Option("modules_to_save", "text", "modules trained whole beside the adapters, with commas", "none", "NAMES"),
    Option("adapter_dtype", "text", "fp32 or bf16", "the stack's", "DTYPE"),
    Option("quant", "text", "nf4, fp4 or int8 (qlora)", "nf4", "KIND"),
    Option("double_quant", "switch", "quantise the quantisation constants too", "on"),
    Option("quant_storage", "text", "dtype that holds quantised weights", "uint8; bf16 where sharded", "DTYPE"),
    Option("weights_dtype", "text", "of base weights, all weights in full: bf16, fp16, fp32", "bf16", "DTYPE"),
    Option("autocast", "text", "none, bf16 or fp16", "the stack's", "DTYPE"),
    Option(
        "optimizer", "text", "adamw, adamw_8bit, paged_adamw_8bit, adafactor, lion, sgd, muon, ...", "adamw", "NAME"
    ),
    Option("gradient_checkpointing", "switch", "recompute activations instead of keeping them", "on"),
    Option("attention", "text", "flash, sdpa or eager", "flash where the card can", "KIND"),
    Option(
        "kernels",
        "text",
        "eager, fused (Triton, as in Liger and Unsloth), or compiled (torchtune's torch.compile)",
        "eager, or the stack's",
        "KIND",
    ),
    Option("loss", "text", "full, chunked or fused", "the stack's", "KIND"),
    Option(
        "stack", "text", "plain, hf, trl, axolotl, llamafactory, unsloth, torchtune; or hf,torch=2.4", "trl", "STACK"
    ),
    Option("sharding", "text", "none, ddp, zero1, zero2, zero3, fsdp or hsdp", "none; fsdp from 2 GPUs", "KIND"),
    Option("reshard_after_forward", "switch", "fsdp: free a layer's weights until its backward pass", "on"),
    Option("zero_buckets", "text", "zero: auto (as transformers fills it in) or deepspeed", "auto", "SIZES"),
    Option("overlap_comm", "switch", "zero1, zero2: a second bucket fills while the first is sent", "off"),
    Option("offload", "text", "optimizer, parameters, activations, with commas; or all", "none", "NAMES"),
    Option("offload_device", "text", "cpu, or nvme under zero3", "cpu", "DEVICE"),
    Option("pin_memory", "switch", "offload to page-locked memory", "on"),
    Option("tensor_parallel", "integer", "GPUs that share each layer", "1", "N"),
    Option("sequence_parallel", "switch", "divide along the sequence what tensor parallelism leaves whole", "off"),
    Option("pipeline_parallel", "integer", "stages of layers", "1", "N"),
    Option("virtual_stages", "integer", "chunks of layers on each stage: 1 is 1F1B, more interleave", "1", "N"),
    Option("context_parallel", "integer", "GPUs that share each sequence, in a ring", "1", "N"),
    Option("ulysses_parallel", "integer", "GPUs that share each sequence, and swap it for heads", "1", "N"),
    Option("expert_parallel", "integer", "GPUs that share the experts", "1", "N"),
    Option("objective", "text", "sft, dpo or grpo", "sft, or what --task means", "KIND"),
    Option("reference", "text", "none, copy (a second model) or base (under the adapters)", "the trainer's", "KIND"),
    Option("num_generations", "integer", "grpo: completions of each prompt", "8", "N"),
    Option("completion_len", "integer", "grpo: tokens of the sequence that are sampled", "512", "N"),
    Option("moments", "text", "evaluation, generation, save, resume, merge, with commas; or all", "none", "NAMES"),
    Option("eval_batch_size", "integer", "sequences in a batch of evaluation or generation", "8", "N"),
    Option("eval_samples", "integer", "sequences that are evaluated", "32", "N"),
    Option("eval_accumulation_steps", "integer", "batches after which logits move to the host", "at the end", "N"),
    Option("eval_logits", "switch", "gather logits for metrics in evaluation", "on"),
    Option("new_tokens", "integer", "tokens that are generated after the prompt", "128", "N"),
    Option("headroom", "bytes", "memory to leave free on each card, for instance 1GiB", "0", "SIZE"),
    Option("evidence", "text", "closed-form or traced", "closed-form", "KIND"),
)
PROFILES = Option("profiles", "path", "folder with GPU profiles of your own", metavar="DIR")
FORMAT = Option("format", "text", "text, json or markdown", "text", "FORMAT")
HELP = Option("help", "flag", "show this text and stop", short="-h")
VERSION = Option("version", "flag", "print this version and those of the libraries that are here, and stop")
COMPLETION = (
    Option("install_completion", "flag", "let this shell complete commands, options and names, and stop"),
    Option("show_completion", "flag", "print the script that does so, and stop"),
)

REQUEST = (*MODEL, *JOB, PROFILES, FORMAT)
"""What describes a job: the options of plan, compare and explain."""

NOT_SETTINGS = (
    "model",
    "gpu",
    "gpus",
    "nodes",
    "network_gbps",
    "host_memory",
    "method",
    "stack",
    "headroom",
    "evidence",
    "profiles",
    "format",
)


def takes(options: Sequence[Option]) -> Callable[[Callable[[typer.Context, Values], None]], Callable[..., None]]:
    """Give a function of parsed values the signature that typer reads options from."""
    parameters = [inspect.Parameter("context", _KEYWORD, annotation=typer.Context)]
    parameters.extend(_parameter(option) for option in (*options, HELP))

    def decorate(body: Callable[[typer.Context, Values], None]) -> Callable[..., None]:
        def command(context: typer.Context, **values: object) -> None:
            body(context, values)

        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__doc__ = body.__doc__
        return command

    return decorate


_KEYWORD = inspect.Parameter.KEYWORD_ONLY

COMPLETE_VARIABLE = "_PLAN_COMPLETE"
"""What a shell sets when it asks for words instead of running a command."""


def _completer(option: Option) -> Any:  # noqa: ANN401  (a function of typer's, or None)
    """What proposes an option's words, where a shell asks: a command that runs needs none, and should start at once."""
    if COMPLETE_VARIABLE not in os.environ:
        return None
    from planner.cli.completion import completer  # noqa: PLC0415

    return completer(option)


@cache
def _parameter(option: Option) -> inspect.Parameter:
    """What typer reads an option from; commands share most of theirs."""
    if option.kind in ("argument", "arguments"):
        info: Any = typer.Argument(
            help=option.help, metavar=option.metavar, show_default=False, autocompletion=_completer(option)
        )
        words: Any = list[str] | None if option.kind == "arguments" else str | None
        return inspect.Parameter(option.name, _KEYWORD, default=None, annotation=Annotated[words, info])
    text = f"{option.help} [{option.default}]" if option.default else option.help
    info = typer.Option(
        *option.declarations,
        help=text,
        metavar=option.metavar or None,
        show_default=False,
        autocompletion=_completer(option),
    )
    annotation: Any = {"switch": bool | None, "flag": bool, "list": list[str] | None}.get(option.kind, str | None)
    default = False if option.kind == "flag" else None
    return inspect.Parameter(option.name, _KEYWORD, default=default, annotation=Annotated[annotation, info])


_INTEGER = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d{1,18}(\.\d{0,18})?|\.\d{1,18})(e[+-]?\d{1,2})?", re.ASCII | re.IGNORECASE)


def integer(flag: str, text: str) -> int:
    """A whole number as people write one.

    >>> integer("--seq-len", "2048")
    2048
    """
    if not _INTEGER.fullmatch(text.strip()):
        raise UsageError(f"{flag} {text[:40]!r} is not a whole number (of at most 18 digits)")
    return int(text)


def number(flag: str, text: str) -> float:
    """A finite decimal number."""
    if not _NUMBER.fullmatch(text.strip()):
        raise UsageError(f"{flag} {text[:40]!r} is not a number")
    return float(text)


def rate(flag: str, text: str) -> float:
    """Gbit/s."""
    try:
        return number(flag, text)
    except UsageError as error:
        raise UsageError(f"{error}: write it in Gbit/s, for instance 100") from None


def size(flag: str, text: str) -> int:
    """Bytes with their unit.

    >>> size("--cap", "24GiB") // 2**30
    24
    """
    try:
        return parse_bytes(text)
    except UsageError as error:
        raise UsageError(f"{flag} {error}") from None


def settings(values: Values) -> dict[str, Any]:
    """Training settings that the user gave, by ``TrainSpec`` field, with text turned into numbers."""
    found = {}
    for one in JOB:
        value = values.get(one.name)
        if one.name in NOT_SETTINGS or value is None:
            continue
        if one.kind == "integer":
            value = integer(one.flag, value)
        elif one.kind == "number":
            value = number(one.flag, value)
        found[one.name] = value
    return found


def profiles_dir(values: Values) -> Path | None:
    """The folder of ``--profiles``, which must exist."""
    text = values.get("profiles")
    if text is None:
        return None
    path = Path(text)
    if not _is_dir(path):
        raise UsageError(f"--profiles {quoted(text[:80])} is not a folder: name one that holds GPU profiles (*.toml)")
    return path


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that no folder can have
        return False
