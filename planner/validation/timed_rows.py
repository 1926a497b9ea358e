"""Published times as questions to the time model: a scenario, what differed from it, and seconds of one step.

A row that our options cannot express for its memory may well be timed: shapes, tokens and card are enough. Each row
that is left out says why (``Left``).
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

from planner.catalog import load_model
from planner.errors import PlannerError
from planner.families.build import model_from_config
from planner.hardware import load_gpu
from planner.spec import Cluster, Method, ModelSpec, Scenario
from planner.stacks import resolve
from planner.throughput.work import Load
from planner.validation.anchors import Case, Timed, Unmodelled, load_anchors
from planner.validation.checks import scenario_of
from planner.validation.timed_facts import (
    ALPACA_TOKENS,
    CARDS,
    CLOCKS,
    MACHINE,
    MODELS,
    MPT_SHAPES,
    MPT_VOCABULARY,
    NATURAL,
    NETWORKS,
    PEFT_LOAD,
    SLOWER_MEMORY,
    TARGETS,
)


@dataclass(frozen=True, kw_only=True)
class TimedRun:
    """One published time. ``seconds``: of one optimizer step.

    ``recomputed``: share of the layers' forward that is repeated, where that is neither all nor nothing; ``compiled``:
    by torch.compile or Thunder; ``dense``: attention computes what causality masks; ``wide_sums``: gradients travel in
    fp32; ``clock``: of the memory, against the card's own.
    """

    id: str
    source: str
    scenario: Scenario
    load: Load
    seconds: float
    recomputed: float | None = None
    compiled: bool = False
    dense: bool = False
    wide_sums: bool = False
    clock: float = 1.0


class Left(NamedTuple):
    """A row that is left out, and why."""

    id: str
    source: str
    why: str


class _LeaveOut(Exception):
    """Says why."""


@cache
def timed_rows() -> tuple[tuple[TimedRun, ...], tuple[Left, ...]]:
    """Every anchor row with a time: as a question, or left out."""
    runs: list[TimedRun] = []
    left: list[Left] = []
    for file in load_anchors():
        for row in file.rows:
            if not row.timed:
                continue
            try:
                runs.append(_run(row))
            except _LeaveOut as why:
                left.append(Left(row.id, file.source.id, str(why)))
    return tuple(runs), tuple(left)


def _run(row: Case | Unmodelled) -> TimedRun:
    _refuse(row)
    try:
        run = _case(row) if isinstance(row, Case) else _unmodelled(row)
    except PlannerError as error:
        raise _LeaveOut(str(error).split(":")[0]) from None
    if run.scenario.model.is_moe and row.source.id == "axolotl":
        raise _LeaveOut("flex attention, cut cross entropy and offloaded checkpoints at once")
    return run


def _refuse(row: Case | Unmodelled) -> None:
    source, stated = row.source.id, row.stated
    if source in _WHOLE:
        raise _LeaveOut(_WHOLE[source])
    if row.id in _TF32:
        raise _LeaveOut("TF32 products, which no setting of ours asks for")
    if isinstance(row, Case):
        if row.at_most and source not in _KNOWN_LENGTHS:
            raise _LeaveOut(NATURAL)
        return
    compute, quant = str(stated.get("compute_dtype", "")), str(stated.get("quant", ""))
    if "fp8" in compute or "int8" in str(stated.get("weights_dtype", "")):
        raise _LeaveOut("8-bit products")
    if row.reason == "quantisation" or "gptq" in quant:
        raise _LeaveOut("GPTQ kernels")
    if row.reason == "method" and "4-bit" not in row.detail:
        raise _LeaveOut("another method than full, LoRA and QLoRA")
    if "not published" in row.detail or row.reason == "architecture":
        raise _LeaveOut("shape of the model is not in the catalogue")
    if "power limited" in str(row.gpu):
        raise _LeaveOut("card with a power limit that is not stated")
    if "gradient_checkpointing" not in stated and source == "torchtune":
        raise _LeaveOut("whether activations were checkpointed is not stated")
    if "offload" in stated:
        raise _LeaveOut("optimizer on the processor, whose memory is not stated")
    if "unpacked" in str(stated.get("lengths", "")) or "NOT packed" in str(stated.get("lengths", "")):
        raise _LeaveOut(NATURAL)
    if stated.get("seq_len") is None:
        raise _LeaveOut(NATURAL)


_TF32 = frozenset({"rasbt-gpt124m-tensorcores", "rasbt-gpt124m-fusedadamw"})

_KNOWN_LENGTHS = frozenset({"peft-metamath"})
"""Sources that bound the longest batch only, but print what follows the mean."""

_WHOLE: Mapping[str, str] = MappingProxyType(
    {
        "ms-swift": NATURAL,
        "litgpt-config-hub": NATURAL,
        "ftune": NATURAL,
        "unsloth": NATURAL,
        "mezo-time": "card is not stated",
        "hf-fsdp-blog": "evaluation and saving are in the time",
        "hf-perf-docs": "shape of the model is not in the catalogue",
        "qwen-vl": "a vision tower runs beside the language model",
        "training-hub": "epochs with loading and saving, batches of mixed lengths",
        "lomo": "that activations were checkpointed is told by the bytes alone",
        "axolotl": "flex attention, cut cross entropy and offloaded checkpoints at once",
    }
)
"""Sources of which no row is a time of a step that we can put."""


# ---------------------------------------------------------------- cases


def _case(row: Case) -> TimedRun:
    scenario, card = scenario_of(row), str(row.stated.get("gpu"))
    if card in CARDS:  # memory is planned for a class of cards, time for the one that it was
        scenario = replace(scenario, cluster=replace(scenario.cluster, gpu=load_gpu(CARDS[card])))
    load, scope = _load(row, scenario), _best(row.timed)
    return TimedRun(
        id=row.id,
        source=row.source.id,
        scenario=scenario,
        load=load,
        seconds=_seconds(scope, scenario, load),
        wide_sums=row.source.id == "torchao",
        clock=SLOWER_MEMORY.get(card, 1.0),
    )


def _best(timed: tuple[Timed, ...]) -> Timed:
    """A time of steps rather than one of a whole run."""
    return next((item for item in timed if not item.scope.startswith("run")), timed[0])


def _load(row: Case, scenario: Scenario) -> Load:
    train = scenario.train
    if row.source.id == "litgpt-tables":
        return Load(train.micro_batch_size * ALPACA_TOKENS, ALPACA_TOKENS)
    if row.source.id == "peft-metamath":
        return Load(*PEFT_LOAD)
    return Load(train.tokens, train.seq_len)


def _seconds(timed: Timed, scenario: Scenario, load: Load) -> float:
    """Seconds of one optimizer step from what was printed."""
    train, ranks = scenario.train, scenario.cluster.world_size
    tokens = load.tokens * train.grad_accumulation
    scope = timed.scope
    if timed.metric == "tokens_per_s":
        if "not stated" in scope:
            raise _LeaveOut("tokens in all or per GPU is not stated")
        everywhere = scope.startswith(("all GPUs", "as plotted"))
        return tokens * (ranks if everywhere else 1) / timed.value
    if timed.metric == "samples_per_s":
        raise _LeaveOut(NATURAL)
    if scope.startswith("run: "):
        return timed.value / _micro_steps(scope, scenario) * train.grad_accumulation
    if scope.startswith("micro-step"):
        return timed.value * train.grad_accumulation
    return timed.value


def _micro_steps(scope: str, scenario: Scenario) -> float:
    """``run: 4 epochs of 1900 samples`` or ``run: 5000 steps`` in micro-steps of one GPU."""
    words = scope.split()
    if words[2].startswith("step"):
        return float(words[1]) * scenario.train.grad_accumulation
    per_pass = scenario.train.micro_batch_size * scenario.cluster.world_size
    return float(words[1]) * float(words[4]) / per_pass


# ---------------------------------------------------------------- rows in the words of their source


def _unmodelled(row: Unmodelled) -> TimedRun:
    stated = row.stated
    checkpointing = stated.get("gradient_checkpointing", True)
    scenario = _scenario(row)
    tokens = scenario.train.tokens
    load = Load(tokens, scenario.train.seq_len)
    if row.source.id == "litgpt-tables":
        load = Load(scenario.train.micro_batch_size * ALPACA_TOKENS, ALPACA_TOKENS)
    return TimedRun(
        id=row.id,
        source=row.source.id,
        scenario=scenario,
        load=load,
        seconds=_seconds(row.timed[0], scenario, load),
        recomputed=_recomputed(checkpointing),
        compiled=bool(stated.get("torch_compile", False)),
        dense=row.source.id == "llm-foundry" or _masked(row),
        wide_sums=row.source.id in ("llm-foundry", "torchao"),
        clock=CLOCKS.get((str(stated.get("cluster")), str(row.gpu)), SLOWER_MEMORY.get(str(row.gpu), 1.0)),
    )


def _masked(row: Unmodelled) -> bool:
    """Torchtune masks packed samples: without a compiler by a dense mask, which no flash kernel takes."""
    return row.source.id in ("torchtune", "torchtune-odissei") and not row.stated.get("torch_compile")


def _recomputed(checkpointing: object) -> float | None:
    """Torchtitan's per-operation policy keeps every second product: we take 0.35 of a forward."""
    if not isinstance(checkpointing, str) or checkpointing in ("none", "full"):
        return None
    return 0.5 if "2nd layer" in checkpointing else 0.35


def _scenario(row: Unmodelled) -> Scenario:
    stated = row.stated
    gpus = row.gpus or 1
    cluster = Cluster(
        gpu=load_gpu(_card(row)),
        gpus=min(gpus, MACHINE),
        nodes=max(gpus // MACHINE, 1),
        network_gbps=NETWORKS.get((row.source.id, str(row.gpu))),
    )
    method: Method = "qlora" if row.method == "qlora" else "lora" if row.method == "lora" else "full"
    scenario = resolve(_model(row.model), cluster, method, _settings(row, method), _stack(row))
    fused = ("norm", "loss") if row.source.id == "llm-foundry" else scenario.stack.fused_parts
    if stated.get("torch_compile"):
        fused = ("norm", "rope", "swiglu", "lora", "loss")
    return replace(scenario, stack=replace(scenario.stack, fused_parts=fused))


def _card(row: Unmodelled) -> str:
    name = CARDS.get(str(row.gpu))
    if name is None:
        raise _LeaveOut("card is not stated")
    return name


@cache
def _model(name: str) -> ModelSpec:
    shape = MPT_SHAPES.get(name)
    if shape is None:
        return load_model(MODELS.get(name, name)).model
    width, heads, layers = shape
    config = {"model_type": "mpt", "d_model": width, "n_heads": heads, "n_layers": layers, "expansion_ratio": 4}
    config |= {"vocab_size": MPT_VOCABULARY, "no_bias": True, "tie_word_embeddings": True, "max_seq_len": 65536}
    spec = model_from_config(config, name=name)
    return replace(spec, attends=("flash", *spec.attends))  # llm-foundry's own class has the kernel


def _stack(row: Unmodelled) -> str:
    return "plain,torch=2.5,transformers=4.46" if row.method != "qlora" else "plain"


def _settings(row: Unmodelled, method: Method) -> dict[str, Any]:
    stated = row.stated
    settings: dict[str, Any] = {
        "seq_len": stated["seq_len"],
        "micro_batch_size": stated.get("micro_batch_size", 1),
        "grad_accumulation": stated.get("grad_accumulation", 1),
        "gradient_checkpointing": stated.get("gradient_checkpointing", True) not in (False, "none")
        and _recomputed(stated.get("gradient_checkpointing", True)) is None,
        "attention": "flash",
        "weights_dtype": "bf16",
        "autocast": "bf16" if "fp32" in str(stated.get("weights_dtype", "")) else "none",
        "optimizer": _optimizer(stated),
        "kernels": "fused" if stated.get("torch_compile") or row.source.id == "llm-foundry" else "eager",
        "loss": "full",
        "sharding": _sharding(row),
        "reshard_after_forward": "SHARD_GRAD_OP" not in str(stated.get("parallelism")),
    }
    if method != "full":
        settings |= {"lora_rank": stated.get("lora_rank", 8), "lora_targets": _targets(stated), "adapter_dtype": "bf16"}
    if method == "qlora" and settings["sharding"] == "fsdp":
        settings["quant_storage"] = "bf16"
    return settings


def _optimizer(stated: Mapping[str, Any]) -> str:
    name = str(stated.get("optimizer", ""))
    if "8bit" in name or "8-bit" in name:
        return "adamw_8bit"
    return "adamw_fused" if "fused" in name and "off" not in name else "adamw_foreach"


def _targets(stated: Mapping[str, Any]) -> tuple[str, ...]:
    names = [str(name).partition("(")[0] for name in stated.get("lora_targets", ("q_proj", "v_proj"))]
    return tuple(module for name in names for module in TARGETS.get(name, (name,)))


def _sharding(row: Unmodelled) -> str:
    said = str(row.stated.get("parallelism", "none"))
    if (row.gpus or 1) == 1:
        return "none"
    return "fsdp" if "FSDP" in said else "zero3" if "ZeRO-3" in said else "ddp"


def counted(left: tuple[Left, ...]) -> Iterator[tuple[str, int]]:
    """Reasons for leaving out, with how many rows each explains, most first."""
    yield from sorted(Counter(row.why for row in left).items(), key=lambda item: (-item[1], item[0]))
