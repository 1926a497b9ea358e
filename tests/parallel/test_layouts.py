"""Layouts that cannot run are refused in one line with the nearest that can; the others settle what is open."""

import importlib
from typing import Any

import pytest

from planner.errors import PlannerError, UnsupportedScenario, UsageError
from planner.planning import plan_for
from planner.spec import Method
from planner.stacks.layouts import TENSOR_PLANS, refuse_recording
from tests.parallel.samples import scenario

REFUSED = [
    # llama-3.1-8b: 32 layers, 32 heads, 8 for keys and values, hidden 4096, MLP 14336; mixtral-8x7b: 8 experts
    (
        "llama-3.1-8b", "full", 8, {"tensor_parallel": 3},
        "--tensor-parallel 3 does not divide the 32 heads of llama-3.1-8b: use 2 or 4",
    ),
    (
        "llama-3.1-8b", "full", 8, {"context_parallel": 3},
        "groups of 3 ranks do not divide 8 GPUs: use --gpus 6 or --gpus 24",
    ),
    (
        "llama-3.1-8b", "full", 8, {"tensor_parallel": 4, "pipeline_parallel": 4},
        "groups of 4 x 4 = 16 ranks do not divide 8 GPUs: use --gpus 16",
    ),
    (
        "llama-3.1-8b", "full", 6, {"tensor_parallel": 3},
        "--tensor-parallel 3 does not divide the 32 heads of llama-3.1-8b: use 2 or 4",
    ),
    (
        "llama-3.1-8b", "full", 16, {"tensor_parallel": 16},
        "--tensor-parallel 16 does not divide the 8 key-value heads of llama-3.1-8b: use 8, or --sequence-parallel, "
        "under which they are copied",
    ),
    (
        "llama-3.1-8b", "full", 12, {"ulysses_parallel": 12},
        "--ulysses-parallel 12 does not divide the 32 heads of llama-3.1-8b on each rank: use 8 or 16",
    ),
    (
        "gpt2", "full", 8, {"tensor_parallel": 8, "sequence_parallel": True},
        "--tensor-parallel 8 does not divide the 12 heads of gpt2: use 6 or 12",
    ),
    (
        "gpt2", "full", 2, {"tensor_parallel": 2},
        "transformers has no tensor-parallel plan that divides all of a gpt2 layer: add --sequence-parallel for "
        "Megatron-LM's layout",
    ),
    (
        "llama-3.1-8b", "full", 64, {"pipeline_parallel": 64},
        "--pipeline-parallel 64 is more than the 32 layers of llama-3.1-8b: use 32",
    ),
    (
        "llama-3.1-8b", "full", 4, {"pipeline_parallel": 4, "virtual_stages": 3},
        "--virtual-stages 3 does not cut the 32 layers of llama-3.1-8b on 4 stages into equal chunks: use 2 or 4",
    ),
    (
        "llama-3.1-8b", "full", 4, {"pipeline_parallel": 4, "virtual_stages": 2, "grad_accumulation": 6},
        "interleaved stages take micro-batches by 4, the number of stages, not 6: use --grad-accumulation 4 or 8",
    ),
    (
        "llama-3.1-8b", "full", 8, {"context_parallel": 8, "seq_len": 4090},
        "--seq-len 4090 is not a multiple of the 16 parts of a sequence: use 4080 or 4096",
    ),
    (
        "llama-3.1-8b", "full", 8, {"expert_parallel": 8},
        "--expert-parallel divides experts, and llama-3.1-8b has none: use --tensor-parallel",
    ),
    (
        "mixtral-8x7b", "full", 16, {"expert_parallel": 16},
        "--expert-parallel 16 does not divide the 8 experts of mixtral-8x7b: use 8",
    ),
    (
        "mixtral-8x7b", "full", 8, {"expert_parallel": 8, "tensor_parallel": 4},
        "--expert-parallel 8 does not divide the 2 ranks that train on different data: use 2",
    ),
    (
        "llama-3.1-8b", "full", 8, {"sequence_parallel": True},
        "--sequence-parallel divides what tensor-parallel ranks have whole: add --tensor-parallel 2",
    ),
    (
        "llama-3.1-8b", "full", 8, {"virtual_stages": 2},
        "--virtual-stages cuts the stages of a pipeline: add --pipeline-parallel 2",
    ),
    (
        "llama-3.1-8b", "qlora", 8, {"tensor_parallel": 2},
        "bitsandbytes' 4-bit and 8-bit weights have no tensor parallelism in transformers: use --tensor-parallel 1 "
        "--sharding fsdp, or --method lora",
    ),
    (
        "llama-3.1-8b", "qlora", 8, {"pipeline_parallel": 2},
        "no engine with stages, sequence parallelism or experts on ranks of their own trains bitsandbytes' weights: "
        "use --method lora, or --sharding fsdp alone",
    ),
    (
        "llama-3.1-8b", "full", 8, {"context_parallel": 2, "ulysses_parallel": 2},
        "Accelerate shares a sequence in a ring or by heads, not both: use --context-parallel 4 --ulysses-parallel 1",
    ),
    (
        "llama-3.1-8b", "full", 8, {"context_parallel": 2, "attention": "flash"},
        "Accelerate's context parallelism is a ring of sdpa: use --attention sdpa",
    ),
    (
        "llama-3.1-8b", "full", 8, {"ulysses_parallel": 2, "attention": "eager"},
        "ranks that share a sequence need a fused attention kernel: use --attention sdpa",
    ),
    (
        "llama-3.1-8b", "full", 8, {"tensor_parallel": 2, "loss": "fused"},
        "--loss fused needs the whole head on each GPU: use --loss full",
    ),
    (
        "mixtral-8x7b", "full", 8, {"expert_parallel": 8, "sharding": "fsdp"},
        "experts on ranks of their own are planned as Megatron-LM and DeepSpeed-MoE have them, not under fsdp: use "
        "--sharding zero1",
    ),
    (
        "llama-3.1-8b", "full", 8, {"pipeline_parallel": 2, "sharding": "zero2"},
        "DeepSpeed has no pipeline beside ZeRO-2, which divides gradients: use --sharding zero1",
    ),
    (
        "llama-3.1-8b", "full", 8, {"context_parallel": 2, "sharding": "zero3"},
        "Accelerate's context parallelism is FSDP2's, not zero3's: use --sharding fsdp",
    ),
    (
        "llama-3.1-8b", "full", 8, {"ulysses_parallel": 2, "sharding": "fsdp"},
        "Ulysses parallelism is DeepSpeed's, not fsdp's: use --sharding zero3",
    ),
    (
        "llama-3.1-8b", "full", 8, {"tensor_parallel": 2, "sharding": "ddp"},
        "Accelerate has no DDP beside tensor parallelism: use --sharding fsdp",
    ),
    (
        "llama-3.1-8b", "full", 8, {"tensor_parallel": 8, "sharding": "fsdp"},
        "--sharding fsdp has nothing to divide: all 8 GPUs hold different parts; use --sharding none, or --gpus 16",
    ),
    (
        "llama-3.1-8b", "lora", 8, {"tensor_parallel": 8, "moments": "save"},
        "--moments save of a model that is divided among GPUs is not planned: leave out --moments",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "method", "gpus", "settings", "line"), REFUSED, ids=[row[-1][:40] for row in REFUSED]
)
def test_what_cannot_run_is_refused_with_the_nearest_that_can(
    model: str, method: Method, gpus: int, settings: dict[str, Any], line: str
) -> None:
    with pytest.raises(PlannerError) as refused:
        scenario(model, method, gpus=gpus, **settings)

    assert str(refused.value) == line
    assert isinstance(refused.value, UsageError | UnsupportedScenario)


NEAREST = [
    ("llama-3.1-8b", 6, {"tensor_parallel": 2}),
    ("llama-3.1-8b", 9, {"context_parallel": 3, "seq_len": 6144}),
    ("llama-3.1-8b", 16, {"tensor_parallel": 16, "sequence_parallel": True}),
    ("llama-3.1-8b", 16, {"ulysses_parallel": 16}),
    ("gpt2", 6, {"tensor_parallel": 6, "sequence_parallel": True, "seq_len": 1020}),
    ("llama-3.1-8b", 32, {"pipeline_parallel": 32}),
    ("llama-3.1-8b", 4, {"pipeline_parallel": 4, "virtual_stages": 4, "grad_accumulation": 8}),
    ("llama-3.1-8b", 8, {"context_parallel": 8, "seq_len": 4080}),
    ("mixtral-8x7b", 8, {"expert_parallel": 2, "tensor_parallel": 4, "sequence_parallel": True}),
]


@pytest.mark.parametrize(("model", "gpus", "settings"), NEAREST)
def test_the_nearest_ones_that_are_named_do_run(model: str, gpus: int, settings: dict[str, Any]) -> None:
    found = scenario(model, gpus=gpus, **settings)

    assert found.layout.model * found.layout.sequences == gpus


SETTLED = [
    # every GPU holds another part: nothing to shard; a pipeline needs a micro-batch for each stage
    (8, {"tensor_parallel": 8}, {"sharding": "none", "loss": "full"}),
    (32, {"tensor_parallel": 8, "pipeline_parallel": 4}, {"sharding": "none", "grad_accumulation": 4}),
    (16, {"pipeline_parallel": 4}, {"sharding": "zero1", "grad_accumulation": 4, "loss": "full"}),
    (16, {"tensor_parallel": 2, "sequence_parallel": True}, {"sharding": "fsdp"}),
    (16, {"context_parallel": 4}, {"sharding": "fsdp", "attention": "sdpa", "grad_accumulation": 1}),
    (16, {"ulysses_parallel": 4}, {"sharding": "zero3", "attention": "flash"}),
    (16, {"tensor_parallel": 4}, {"sharding": "fsdp"}),
]


@pytest.mark.parametrize(("gpus", "settings", "expected"), SETTLED)
def test_a_layout_settles_what_is_left_open(gpus: int, settings: dict[str, Any], expected: dict[str, Any]) -> None:
    found = scenario("llama-3.1-8b", gpus=gpus, **settings)

    assert {name: getattr(found.train, name) for name in expected} == expected


def test_what_the_user_sets_is_held() -> None:
    found = scenario("llama-3.1-8b", gpus=16, pipeline_parallel=4, grad_accumulation=2, sharding="ddp")

    assert (found.train.grad_accumulation, found.train.sharding) == (2, "ddp")
    assert found.origins["grad_accumulation"] == "user"


def test_a_divided_model_is_not_recorded() -> None:
    with pytest.raises(UnsupportedScenario, match="planned by closed form only"):
        refuse_recording(scenario("llama-3.1-8b", tensor_parallel=2).train)

    refuse_recording(scenario("llama-3.1-8b").train)  # sharding alone is


# ---------------------------------------------------------------- transformers' own plans

COLUMNS, ROWS = {"colwise", "packed_colwise", "mla_kv_a_proj"}, {"rowwise"}
WHOLE = {"replicated_with_grad_allreduce", "moe_tp_experts"}


def divides_all(plan: dict[str, str]) -> bool:
    """Whether a plan divides an attention part and every MLP, and gathers nothing that it divided."""
    parts = {name.split("layers.*.")[-1].split(".")[0] for name in plan}
    styles = set(plan.values())
    attention = any(style in ROWS and "mlp" not in name and "expert" not in name for name, style in plan.items())
    return attention and len(parts) > 1 and styles <= COLUMNS | ROWS | WHOLE | {"packed_rowwise"}


def test_the_plans_are_those_of_the_installed_transformers() -> None:
    mapping = pytest.importorskip("transformers").CONFIG_MAPPING
    catalog = importlib.import_module("planner.catalog")
    types = sorted({listing.model_type for listing in catalog.list_models()})
    plans = {name: getattr(mapping[name], "base_model_tp_plan", None) or {} for name in types}

    latent = {"glm4_moe_lite", "deepseek_v3"}  # they leave a compression undivided, or attention whole
    assert {name for name, plan in plans.items() if divides_all(plan)} - latent == set(TENSOR_PLANS)


@pytest.mark.parametrize(
    ("model", "gpus", "method", "settings"),
    [
        ("llama-3.1-70b", 16, "full", {"tensor_parallel": 8}),  # one data-parallel rank in each machine
        ("llama-3.1-70b", 32, "full", {"tensor_parallel": 8, "sharding": "hsdp"}),
        ("llama-3.1-405b", 128, "full", {"tensor_parallel": 8, "pipeline_parallel": 8}),  # stages without an embedding
        ("llama-3.1-405b", 64, "lora", {"tensor_parallel": 8, "pipeline_parallel": 4}),
    ],
)
def test_usual_layouts_of_several_machines_are_planned(
    model: str, gpus: int, method: Method, settings: dict[str, Any]
) -> None:
    found = plan_for(model=model, gpu="h100", gpus=gpus, method=method, **settings)

    assert all(one.step is not None and one.step.seconds > 0 for one in found.candidates)
