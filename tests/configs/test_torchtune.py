"""torchtune's recipes: every key has a fate, builders are models, references are followed, every export comes back."""

from collections.abc import Iterator
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.catalog import find_name, load_model
from planner.configs import torchtune
from planner.configs.document import parse_document
from planner.configs.exporting import differences, export, read_back
from planner.configs.references import resolved
from planner.configs.torchtune_keys import COMPONENTS, LOOPS
from planner.configs.torchtune_models import BUILDERS, builders_for, built
from planner.configs.understood import Understood
from planner.errors import BrokenInput, UnsupportedScenario
from planner.formulas.adapters import module_params
from planner.formulas.counts import lora_linear_params
from planner.recommend.request import Request
from planner.spec import Job
from planner.stacks import load_stack
from tests.configs.fates import classified
from tests.configs.returned import leave, peak, request

NAMES = (Path(__file__).parent / "names" / "torchtune.txt").read_text(encoding="utf-8").split()
"""torchtune 0.6.1: top keys that recipes which train read or ship with, and arguments of builders."""

ADAMW = {"_component_": "torch.optim.AdamW", "fused": True}
BASE: dict[str, Any] = {
    "model": {"_component_": "torchtune.models.llama3_1.llama3_1_8b"},
    "optimizer": ADAMW,
    "tokenizer": {"max_seq_len": 2048},
}
LORA: dict[str, Any] = {
    "_component_": "torchtune.models.llama3_1.lora_llama3_1_8b",
    "lora_attn_modules": ["q_proj", "v_proj"],
    "lora_rank": 8,
}


def read(**keys: Any) -> Understood:
    return torchtune.read(parse_document(yaml.safe_dump({**BASE, **keys}), "recipe.yaml"))


def unmodelled(found: Understood) -> set[str]:
    return {one.key for one in found.of("unmodelled")}


# ---------------------------------------------------------------- keys


@pytest.mark.parametrize("name", [name for name in NAMES if "." not in name])
def test_every_key_of_the_recipes_is_classified(name: str) -> None:
    assert classified(lambda keys: read(**keys), name)


@pytest.mark.parametrize("name", [name.partition(".")[2] for name in NAMES if "." in name])
def test_every_argument_of_the_builders_is_classified(name: str) -> None:
    told = [one for one in read(model={**LORA, name: _value(name)}).readings if one.key == f"model.{name}"]
    assert [one.fate for one in told] != ["unknown"]
    assert told


def _value(name: str) -> Any:
    return {"lora_attn_modules": ["q_proj"], "lora_rank": 4, "lora_alpha": 8, "lora_dropout": 0.1}.get(name, True)


def test_a_key_that_nobody_knows_is_told() -> None:
    assert [one.key for one in read(batchsize=3, colour="red").of("unmodelled")] == ["batchsize"]
    assert [one.key for one in read(colour="red").of("unknown")] == ["colour"]


@pytest.mark.parametrize(
    ("keys", "settings"),
    [
        ({"batch_size": 3, "gradient_accumulation_steps": 5}, {"micro_batch_size": 3, "grad_accumulation": 5}),
        ({"dtype": "bf16"}, {"weights_dtype": "bf16", "adapter_dtype": "bf16", "autocast": "none"}),
        ({"dtype": "fp32"}, {"weights_dtype": "fp32", "adapter_dtype": "fp32", "autocast": "none"}),
        ({"fsdp_cpu_offload": True}, {"offload": ("optimizer", "parameters")}),
        ({"enable_activation_offloading": True}, {"offload": ("activations",)}),
        ({"fsdp_cpu_offload": False, "enable_activation_offloading": False}, {"offload": ()}),
        ({"fsdp_reshard_after_forward": False, "tensor_parallel_dim": 2}, {"reshard_after_forward": False}),
        ({"loss": {"_component_": "torch.nn.CrossEntropyLoss"}}, {"loss": "full"}),
        ({"loss": {"_component_": "torchtune.modules.loss.CEWithChunkedOutputLoss"}}, {"loss": "chunked"}),
        ({"loss": {"_component_": "torchtune.rlhf.loss.DPOLoss"}}, {"objective": "dpo"}),
        ({"optimizer": {"_component_": "torch.optim.AdamW"}}, {"optimizer": "adamw_foreach"}),
        ({"optimizer": {"_component_": "torch.optim.AdamW", "foreach": False}}, {"optimizer": "adamw_loop"}),
        ({"optimizer": {"_component_": "bitsandbytes.optim.PagedAdamW"}}, {"optimizer": "paged_adamw_32bit"}),
        ({"optimizer": ADAMW}, {"optimizer": "adamw_fused"}),
        ({"compile": True}, {"kernels": "compiled"}),
        ({"compile": False}, {"kernels": "eager"}),
    ],
)
def test_what_a_key_says(keys: dict[str, Any], settings: dict[str, Any]) -> None:
    found = read(**keys)

    assert {name: found.settings[name] for name in settings} == settings
    assert not unmodelled(found)


@pytest.mark.parametrize(
    "keys",
    [
        {"optimizer_in_bwd": True},
        {"ac_mode": "selective"},
        {"device": "cpu"},
        {"dtype": "fp16"},
        {"optimizer": {"_component_": "torch.optim.Adafactor"}},
        {"optimizer": {**ADAMW, "amsgrad": True}},
        {"loss": {"_component_": "torchtune.rlhf.loss.PPOLoss"}},
        {"quantizer": {"_component_": "torchtune.training.quantization.Int8DynActInt4WeightQATQuantizer"}},
        {"teacher_model": {"_component_": "torchtune.models.llama3_1.llama3_1_8b"}},
        {"model": {**LORA, "use_dora": True}},
    ],
)
def test_what_we_do_not_model_is_told(keys: dict[str, Any]) -> None:
    assert {one.partition(".")[0] for one in unmodelled(read(**keys))} == set(keys)


def test_switched_off_it_says_nothing() -> None:
    found = read(compile=False, optimizer_in_bwd=False, quantizer=None, ac_mode=None)
    assert not unmodelled(found)
    assert not found.of("unknown")


def test_a_recipe_that_trains_nothing_is_refused() -> None:
    with pytest.raises(UnsupportedScenario, match="trains nothing: it is a recipe without an optimizer"):
        read(optimizer=None)


def test_lengths_that_are_not_cut_are_told() -> None:
    assert any("max_seq_len is not set" in note for note in read(tokenizer={"max_seq_len": None}).notes)
    assert not any("max_seq_len" in note for note in read().notes)


def test_embedding_and_head_are_apart_where_a_key_names_both() -> None:
    apart = read(custom_sharded_layers=["tok_embeddings", "output"])
    assert load_stack(apart.stack).behaviour.fsdp2_units == "outer"
    for names in (["tok_embeddings"], []):
        assert load_stack(read(custom_sharded_layers=names).stack).behaviour.fsdp2_units == "layers"


def test_data_and_epochs_are_the_jobs() -> None:
    assert read(epochs=2, dataset={"packed": True, "source": "x"}).job == {"epochs": 2.0, "packing": True}
    assert read(dataset=[{"source": "x"}, {"source": "y"}]).job == {}


# ---------------------------------------------------------------- models and adapters


def test_builders_build_models_of_the_catalogue() -> None:
    for one in BUILDERS:
        assert ("/" in one.model) == (find_name(one.model) is None), one.name
        assert built(one.component) == (one, "full")
        assert built(one.lora) == (one, "lora")
        assert built(one.lora.replace("lora_", "qlora_", 1)) == (one, "qlora")
    assert next(builders_for("llama-3.1-8b")).name == "llama3_1_8b"
    assert len({one.component for one in BUILDERS}) == len(BUILDERS)


def test_fused_builders_are_those_whose_class_has_joined_matrices() -> None:
    for one in BUILDERS:
        if "/" not in one.model:
            names = module_params(load_model(one.model).model)
            assert one.fused == any("qkv_proj" in name for name in names), one.name


def test_another_builder_needs_a_model() -> None:
    found = read(model={"_component_": "my.models.tiny"})
    assert (found.model, found.method) == (None, "full")
    assert [one.key for one in found.of("unknown")] == ["model._component_"]


@pytest.mark.parametrize(
    ("model", "method", "targets"),
    [
        (LORA, "lora", ("q_proj", "v_proj")),
        ({**LORA, "quantize_base": True}, "qlora", ("q_proj", "v_proj")),
        ({**LORA, "_component_": "torchtune.models.llama3_1.qlora_llama3_1_8b"}, "qlora", ("q_proj", "v_proj")),
        ({**LORA, "apply_lora_to_mlp": True}, "lora", ("q_proj", "v_proj", "gate_proj", "up_proj", "down_proj")),
        ({**LORA, "apply_lora_to_output": True}, "lora", ("q_proj", "v_proj", "lm_head")),
        (
            {**LORA, "lora_attn_modules": ["k_proj", "q_proj", "output_proj", "v_proj"], "apply_lora_to_mlp": True},
            "lora",
            ("all-linear",),
        ),
    ],
)
def test_adapters_are_under_transformers_names(model: dict[str, Any], method: str, targets: tuple[str, ...]) -> None:
    found = read(model=model)

    assert (found.method, found.settings["lora_targets"]) == (method, targets)
    assert (found.settings.get("quant") == "nf4") == (method == "qlora")


def test_joined_matrices_would_have_other_adapters() -> None:
    # One adapter of a joined matrix has one down-projection; three apart have three.
    apart = 3 * lora_linear_params(d_in=3072, d_out=3072, r=8)
    assert lora_linear_params(d_in=3072, d_out=3 * 3072, r=8) < apart

    found = read(model={**LORA, "_component_": "torchtune.models.phi3.lora_phi3_mini"})
    assert unmodelled(found) == {"model.lora_attn_modules"}
    assert found.settings["lora_targets"] == ("qkv_proj",)
    with pytest.raises(BrokenInput, match="lora_attn_modules 'w1' is not one of q_proj, k_proj, v_proj, output_proj"):
        read(model={**LORA, "lora_attn_modules": ["w1"]})


# ---------------------------------------------------------------- references


def follow(text: str) -> Any:
    return dict(resolved(parse_document(text, "recipe.yaml")).data)


def test_references_are_followed() -> None:
    found = follow("a: 3\nb: ${a}\nc: {d: '${a}-${b}', e: [x, '${c.d}']}\nf: ${c}")
    assert found["b"] == 3
    assert found["c"] == {"d": "3-3", "e": ["x", "3-3"]}
    assert found["f"] == found["c"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: ${a}", "refers to itself"),
        ("a: ${b}\nb: 'x${a}'", "refers to itself"),
        ("a: {b: '${a}'}", "refers to itself"),
        ("a: ${b}", "refers to 'b', which is not in the file"),
        ("a: {x: 1}\nb: 'x${a}'", "puts the section 'a' into a text"),
        ("a0: xxxxxxxx\n" + "\n".join(f"a{n + 1}: '${{a{n}}}${{a{n}}}'" for n in range(20)), "grows beyond"),
        ("a0: [1, 2]\n" + "\n".join(f"a{n + 1}: ['${{a{n}}}', '${{a{n}}}']" for n in range(20)), "unfolds|deep"),
        ("a0: 1\n" + "\n".join(f"a{n + 1}: {{x: '${{a{n}}}'}}" for n in range(60)), "deep"),
    ],
)
def test_references_without_end_or_aim_are_refused(text: str, told: str) -> None:
    with pytest.raises(BrokenInput, match=told):
        follow(text)


def test_nothing_of_the_machine_enters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH", "7")

    assert read(output_dir="${oc.env:HOME}/out").of("ignored")
    with pytest.raises(BrokenInput, match=r"batch_size '[$]{oc.env:BATCH}' is not a whole number"):
        read(batch_size="${oc.env:BATCH}")
    with pytest.raises(BrokenInput, match="asks for what is not in the file: write it out"):
        read(model={"_component_": "torchtune.models.${oc.env:X}"})
    with pytest.raises(BrokenInput, match=r"dtype .* asks for what is not in the file: write it out"):
        read(dtype="${oc.env:X}")


# ---------------------------------------------------------------- exports

BESIDE: tuple[dict[str, Any], ...] = (
    *({"optimizer": name} for name in COMPONENTS),
    {"gradient_checkpointing": False, "loss": "full"},
    {"offload": ("activations",), "grad_accumulation": 4},
    {"weights_dtype": "fp32", "adapter_dtype": "fp32", "seq_len": 512},
)
ADAPTED: tuple[dict[str, Any], ...] = (
    {"lora_targets": ("v_proj", "q_proj"), "lora_rank": 64, "lora_alpha": 16.0, "lora_dropout": 0.05},
    {"lora_targets": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")},
    {"lora_targets": ("o_proj", "gate_proj", "up_proj", "down_proj")},
)
CARDS: tuple[dict[str, Any], ...] = (
    {"gpus": 2},
    {"gpus": 8, "offload": ("optimizer", "parameters")},
    {"gpus": 8, "reshard_after_forward": False},
    {"gpus": 8, "offload": ("optimizer", "parameters"), "gradient_checkpointing": False},
)
SDPA: dict[str, Any] = {"attention": "sdpa"}


def grid() -> Iterator[Request]:
    for method, settings in product(("full", "lora", "qlora"), BESIDE):
        yield request(method, **SDPA, **settings)
    for method, settings in product(("lora", "qlora"), ADAPTED):
        yield request(method, **SDPA, **settings)
    for method, settings in product(("full", "lora", "qlora"), CARDS):
        yield request(method, **SDPA, **settings)
    yield request("lora", job=Job(tokens=10**6, sequences=1000, epochs=2.0, packing=True), **SDPA)


GRID = tuple(grid())


def named(asked: Request) -> str:
    """What tells a run from the others."""
    return "-".join(map(str, (*asked.methods, asked.gpus, *asked.settings.values())))


@pytest.mark.parametrize("asked", GRID, ids=named)
def test_what_leaves_comes_back_with_the_same_bytes(asked: Request) -> None:
    written, left = leave("torchtune", asked, torchtune)
    back = read_back(written, asked)

    assert differences(left, back) == {}
    assert peak(left) == peak(back)


def text_of(asked: Request) -> str:
    return export("torchtune", asked).files[0].text


def test_the_recipe_is_that_of_the_cards() -> None:
    def launched(method: str, gpus: int) -> str:
        return export("torchtune", Request(model="8b", gpu="h100", gpus=gpus, methods=(method,), stack="")).launch  # type: ignore[arg-type]

    assert launched("qlora", 1) == "tune run lora_finetune_single_device --config recipe.yaml"
    assert launched("lora", 2) == "tune run --nproc_per_node 2 lora_finetune_distributed --config recipe.yaml"
    assert launched("full", 8) == "tune run --nproc_per_node 8 full_finetune_distributed --config recipe.yaml"
    assert "--nnodes 2 " in launched("full", 16)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (Request(model="qwen3-8b", gpu="h100", methods=("lora",), stack=""), "has no builder of 'qwen3-8b'"),
        (Request(model="phi-4", gpu="h100", methods=("lora",), stack=""), "one by one"),
        (Request(model="8b", gpu="t4", methods=("qlora",), stack=""), "--weights-dtype fp16 is not planned"),
        (
            Request(model="8b", gpu="h100", methods=("lora",), stack="", settings={"lora_targets": ("up_proj",)}),
            "torchtune cannot adapt exactly",
        ),
        (Request(model="8b", gpu="h100", methods=("qlora",), stack="", settings={"quant": "fp4"}), "no fp4 weights"),
        (
            Request(model="8b", gpu="h100", methods=("lora",), stack="", settings={"kernels": "fused"}),
            "--kernels fused is not planned",
        ),
        (
            Request(model="8b", gpu="h100", gpus=2, methods=("lora",), stack="", settings={"sharding": "ddp"}),
            "--sharding ddp is not planned",
        ),
        (
            Request(model="8b", gpu="h100", methods=("full",), stack="", settings={"optimizer": "adafactor"}),
            "cannot be given --optimizer adafactor",
        ),
    ],
)  # fmt: skip
def test_what_torchtune_cannot_do_is_an_error_that_names_it(asked: Request, told: str) -> None:
    with pytest.raises(UnsupportedScenario, match=told):
        export("torchtune", asked)


def test_the_loops_of_adamw_are_told_by_its_arguments() -> None:
    for name, arguments in LOOPS.items():
        text = text_of(Request(model="8b", gpu="h100", methods=("lora",), settings={"optimizer": name}, stack=""))
        assert yaml.safe_load(text)["optimizer"].items() >= {"_component_": "torch.optim.AdamW", **arguments}.items()


# ---------------------------------------------------------------- torchtune itself


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchtune_takes_what_is_written() -> None:
    config = pytest.importorskip("torchtune.config", reason="torchtune is not installed")
    omegaconf = pytest.importorskip("omegaconf")
    for asked in GRID[::4]:
        written, _ = leave("torchtune", asked, torchtune)
        recipe = omegaconf.OmegaConf.create(yaml.safe_load(written.files[0].text))
        config.validate(recipe)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchtune_has_every_builder() -> None:
    pytest.importorskip("torchtune", reason="torchtune is not installed")
    for one in (one for one in BUILDERS if "/" not in one.model):  # those that see want torchvision, too
        for path in (one.component, one.lora):
            module, _, name = path.rpartition(".")
            assert callable(getattr(import_module(module), name)), path
        module, _, name = f"torchtune.models.{one.tokenizer}".rpartition(".")
        assert hasattr(import_module(module), name), one.tokenizer
