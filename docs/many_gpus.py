"""The generated parts of docs/many-gpus.md: our answers beside public reports, and beside DeepSpeed's estimators."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from docs.tables import table
from planner.formulas.zero import (
    ModelStates,
    estimate_zero2_model_states_mem_needs,
    estimate_zero3_model_states_mem_needs,
)
from planner.recommend.candidates import candidate
from planner.recommend.names import understand
from planner.recommend.request import Request, Setting, command, request_of
from planner.render.words import VERDICTS
from planner.result import Candidate
from planner.spec import Method, Sharding
from planner.spec.training import Offload
from planner.units import GIB
from planner.validation.report import as_printed


class Told(NamedTuple):
    """A public report: what ran, what was said of it, and the question that comes nearest."""

    run: str
    said: str
    source: str
    date: str
    question: Request
    differs: str
    """What lies between their figure and ours."""


PEFT_FSDP = "[PEFT, FSDP guide](https://huggingface.co/docs/peft/accelerate/fsdp)"
PEFT_DEEPSPEED = "[PEFT, DeepSpeed guide](https://huggingface.co/docs/peft/accelerate/deepspeed)"
FSDP_QLORA = "[Answer.AI, fsdp_qlora](https://github.com/AnswerDotAI/fsdp_qlora)"
TORCHTUNE = "[torchtune, README](https://github.com/pytorch/torchtune)"
BLOG_405B = "[Hugging Face on Llama 3.1](https://huggingface.co/blog/llama31)"
ALPACA = "[Stanford Alpaca](https://github.com/tatsu-lab/stanford_alpaca)"
FASTCHAT = "[FastChat](https://github.com/lm-sys/FastChat)"

GUIDE: Mapping[str, Setting] = {"lora_rank": 8, "lora_dropout": 0.1, "optimizer": "adamw_foreach", "loss": "full"}
SMALL: Mapping[str, Setting] = {"micro_batch_size": 2, "grad_accumulation": 2, **GUIDE}
LARGE: Mapping[str, Setting] = {"micro_batch_size": 8, "grad_accumulation": 4, **GUIDE}
TUNE: Mapping[str, Setting] = {"micro_batch_size": 2, "autocast": "none", "sharding": "fsdp"}
IN_RAM: Mapping[str, Setting] = {"offload": ("optimizer", "parameters")}
OLD: Mapping[str, Setting] = {"weights_dtype": "fp32"}
QKV = ("q_proj", "k_proj", "v_proj")
NEWER = "our libraries are two years newer"


def asks(
    model: str, gpu: str, gpus: int, method: Method, settings: Mapping[str, Setting], stack: str = "trl"
) -> Request:
    """A question about 2048 tokens a sequence, unless it says otherwise."""
    return request_of(
        model=model, gpu=gpu, gpus=gpus, method=method, stack=stack, settings={"seq_len": 2048, **settings}
    )


TOLD = (
    Told(
        "70B, QLoRA, two cards of 24 GB, weights in host memory, 2 x 512 tokens",
        "runs on two RTX 3090 or 4090; just over 128 GB of RAM",
        FSDP_QLORA,
        "2024-03",
        asks("llama-2-70b", "4090", 2, "qlora", {"seq_len": 512, "micro_batch_size": 2, "sharding": "fsdp", **IN_RAM}),
        "their RAM is the peak of loading, with a script of their own that reads 16-bit weights; ours that of today's "
        "libraries, with which each rank packs a model of its own, in RAM where its card is too small for it",
    ),
    Told(
        "70B, QLoRA, two cards of 24 GB, weights in host memory, 2 x 2048 tokens",
        "19.6 GB a card, about 107 GB of RAM",
        PEFT_FSDP,
        "2024-04",
        asks("llama-2-70b", "24gb", 2, "qlora", {"sharding": "fsdp", **IN_RAM, **SMALL}),
        f"{NEWER}: FSDP 1 held embedding and head whole, and kept a layer's output through its backward. Their RAM was "
        "read off the system; ours leaves out the pages of the checkpoint's files, which it gives back",
    ),
    Told(
        "the same without offload",
        "35.6 GB a card",
        PEFT_FSDP,
        "2024-04",
        asks("llama-2-70b", "a100-40gb", 2, "qlora", {"sharding": "fsdp", **SMALL}),
        f"{NEWER}, as before; a screenshot, whose GB may be 10^9 or 2^30 bytes",
    ),
    Told(
        "the same by ZeRO-3",
        "36.6 GB a card",
        PEFT_DEEPSPEED,
        "2024-03",
        asks("llama-2-70b", "a100-40gb", 2, "qlora", {"sharding": "zero3", **SMALL}),
        "a card that is nearly full shows what it has, not what the run would take",
    ),
    Told(
        "70B, LoRA, 8 H100, ZeRO-3, 8 x 2048 tokens",
        "64 GB a card",
        PEFT_DEEPSPEED,
        "2024-03",
        asks("llama-2-70b", "h100", 8, "lora", {"sharding": "zero3", **LARGE}),
        NEWER,
    ),
    Told(
        "the same by FSDP",
        "72 to 80 GB a card",
        PEFT_FSDP,
        "2024-04",
        asks("llama-2-70b", "h100", 8, "lora", {"sharding": "fsdp", **LARGE}),
        f"{NEWER}: FSDP 1 held embedding and head whole, and its cache fills a card that has room",
    ),
    Told(
        "Llama 3.1 70B, LoRA of rank 16 on q, k and v, 8 A100, 2 x 2048 tokens",
        "27.6 GiB a card",
        TORCHTUNE,
        "2024-11",
        asks(
            "llama-3.1-70b",
            "a100-80gb",
            8,
            "lora",
            {"lora_rank": 16, "lora_targets": QKV, "adapter_dtype": "bf16", "loss": "chunked", **TUNE},
            "plain",
        ),
        "theirs was compiled; which of torch's figures they print is not stated",
    ),
    Told(
        "Llama 3.1 70B, full, 8 A100, weights and optimizer in host memory, 2 x 2048 tokens",
        "13.9 GiB a card",
        TORCHTUNE,
        "2024-11",
        asks("llama-3.1-70b", "a100-80gb", 8, "full", {"loss": "chunked", **IN_RAM, **TUNE}, "plain"),
        "theirs was compiled; which of torch's figures they print is not stated",
    ),
    Told(
        "Llama 3.1 405B, QLoRA of rank 16, 8 A100, 2 x 2048 tokens",
        "44.8 GiB a card",
        TORCHTUNE,
        "2024-11",
        asks("llama-3.1-405b", "a100-80gb", 8, "qlora", {"lora_rank": 16, "adapter_dtype": "bf16", **TUNE}, "plain"),
        "theirs was compiled, which computes the loss without fp32 copies of all logits, and their 4-bit type shards "
        "its scales too, where those of bitsandbytes stay whole on each card",
    ),
    Told(
        "Llama 3.1 405B, LoRA",
        "950 GB in all",
        BLOG_405B,
        "2024-07",
        asks("llama-3.1-405b", "h100", 32, "lora", {}),
        "an estimate of theirs, of states: 810 GB of weights and little beside; ours has sequences of 2048 tokens, "
        "gathered layers and the context, on 32 cards",
    ),
    Told(
        "Llama 3.1 405B, full",
        "3.25 TB in all: more than 32 H100 have",
        BLOG_405B,
        "2024-07",
        asks("llama-3.1-405b", "h100", 32, "full", {}),
        "an estimate of theirs, 8 bytes a parameter; ours has fp32 weights, gradients and moments, as bf16 autocast "
        "under FSDP makes them: 16 bytes",
    ),
    Told(
        "LLaMA 7B, full, 4 A100 of 80 GB, 4 x 512 tokens, nothing recomputed",
        "runs",
        ALPACA,
        "2023-03",
        asks(
            "llama-7b",
            "a100-80gb",
            4,
            "full",
            {"seq_len": 512, "micro_batch_size": 4, "grad_accumulation": 8, **OLD, "gradient_checkpointing": False},
            "hf",
        ),
        "that it runs is all that is stated",
    ),
    Told(
        "LLaMA 7B, full, 4 A100 of 40 GB, 2 x 2048 tokens",
        "runs",
        FASTCHAT,
        "2023-04",
        asks("llama-7b", "a100-40gb", 4, "full", {"micro_batch_size": 2, "grad_accumulation": 16, **OLD}, "hf"),
        "that it runs is all that is stated",
    ),
)


# ---------------------------------------------------------------- beside public reports


def many_gpus_told() -> str:
    """One row a report, and below it what differs and the commands."""
    rows = [_row(number, told) for number, told in enumerate(TOLD, start=1)]
    names = ("", "run", "published", "ours: allocated", "nvidia-smi", "RAM", "verdict", "source, date")
    differs = "\n".join(f"{number}. {told.differs}." for number, told in enumerate(TOLD, start=1))
    commands = "\n".join(f"{number:>2}  {command(told.question)}" for number, told in enumerate(TOLD, start=1))
    return "\n\n".join(
        [
            table(names, rows, right=[0, 3, 4, 5]),
            f"What lies between their figures and ours:\n\n{differs}",
            f"The questions, by their numbers:\n\n```text\n{commands}\n```",
        ]
    )


def _row(number: int, told: Told) -> tuple[object, ...]:
    found = answer(told.question)
    peak, host = found.estimate.peak, found.estimate.host.required_on(found.scenario.cluster)
    cards = found.scenario.cluster.world_size if "in all" in told.said else 1
    of = f" on {cards}" if cards > 1 else ""
    return (
        number,
        told.run,
        told.said,
        f"{gib(cards * peak.allocated_bytes)}{of}",
        f"{gib(cards * peak.device_bytes)}{of}",
        gib(host) if host else "",
        VERDICTS[found.verdict][0],
        f"{told.source}, {told.date}",
    )


def answer(question: Request) -> Candidate:
    """The one candidate that is asked for, and none that is tuned."""
    ask, _ = understand(question)
    (method,) = ask.methods
    return candidate(ask, method, as_printed)


def gib(count: int, places: int = 1) -> str:
    """Bytes in the unit of the page."""
    return f"{count / GIB:,.{places}f} GiB"


# ---------------------------------------------------------------- beside DeepSpeed's estimators


class Estimated(NamedTuple):
    """One setting of DeepSpeed's estimators for one machine, and the plan's name of it."""

    stage: Sharding
    offload: tuple[Offload, ...]


SETTINGS = (
    Estimated("zero2", ()),
    Estimated("zero2", ("optimizer",)),
    Estimated("zero3", ()),
    Estimated("zero3", ("optimizer",)),
    Estimated("zero3", ("optimizer", "parameters")),
)
CARDS = 2


def many_gpus_estimators() -> str:
    """GPT-J 6B on two cards: what DeepSpeed's estimators say, and what we do."""
    rows = [_estimated(setting) for setting in SETTINGS]
    names = ("ZeRO", "offloaded", "estimator: GPU", "ours: states", "ours: allocated", "nvidia-smi", "estimator: RAM")
    return table((*names, "ours: RAM"), rows, right=[2, 3, 4, 5, 6, 7])


def _estimated(setting: Estimated) -> tuple[str, ...]:
    done = answer(asked(setting))
    found = done.estimate
    theirs, peak = estimated(setting), found.phases[found.peak.phase]
    ram = found.host.required_on(done.scenario.cluster)
    return (
        setting.stage.removeprefix("zero"),
        ", ".join(setting.offload) or "nothing",
        gib(theirs.gpu, 2),
        gib(peak.weights + peak.gradients + peak.optimizer, 2),
        gib(found.peak.allocated_bytes, 2),
        gib(found.peak.device_bytes, 2),
        gib(theirs.cpu),
        gib(ram) if ram else "",
    )


def asked(setting: Estimated) -> Request:
    """The question of which DeepSpeed estimates the states."""
    offload: Mapping[str, Setting] = {"offload": setting.offload} if setting.offload else {}
    settings = {"seq_len": 512, "sharding": setting.stage, **offload}
    return asks("gpt-j-6b", "a100-80gb", CARDS, "full", settings)


def estimated(setting: Estimated) -> ModelStates:
    """What DeepSpeed's estimator of the stage says for one machine."""
    found = answer(asked(setting))
    params, largest = found.estimate.parameters.total, found.scenario.model.lm_head.params
    optimizer, weights = ("optimizer" in setting.offload, "parameters" in setting.offload)
    if setting.stage == "zero2":
        return estimate_zero2_model_states_mem_needs(params, gpus_per_node=CARDS, cpu_offload=optimizer)
    return estimate_zero3_model_states_mem_needs(
        params, largest, gpus_per_node=CARDS, cpu_offload=optimizer, cpu_offload_params=weights
    )


SECTIONS: Mapping[str, Callable[[], str]] = {
    "many_gpus_told": many_gpus_told,
    "many_gpus_estimators": many_gpus_estimators,
}
