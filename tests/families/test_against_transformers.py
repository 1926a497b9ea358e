"""Every family against the real class: names, shapes and kinds of modules, layer by layer, on the meta device."""

import re
from typing import Any

import pytest

from planner.families import COVERED, model_from_config
from planner.families.fields import REQUIRED
from planner.formulas.adapters import block_parts
from planner.formulas.params import model_params, outer_params
from planner.spec import Block, Linear, ModelSpec, Norm
from tests.families.tiny import CASES, Config, tiny, title

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

LAYER = re.compile(r"^(?:.*\.)?(?:layers|h|blocks)\.(\d+)\.(.*)$")


def build(config: Config) -> Any:
    """The text class of transformers with these fields, without memory."""
    fields = {key: value for key, value in config.items() if key != "model_type"}
    settings = transformers.AutoConfig.for_model(config["model_type"], **fields)
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(settings)


def by_layer(named: Any) -> dict[int, dict[str, Any]]:
    """Things with dotted names, grouped by layer, under their path inside it."""
    layers: dict[int, dict[str, Any]] = {}
    for name, thing in named:
        match = LAYER.match(name)
        if match:
            layers.setdefault(int(match[1]), {})[match[2]] = thing
    return layers


def layer_params(spec: ModelSpec, index: int) -> dict[str, int]:
    """Parameters of one layer by the path of the module or table that holds them."""
    return {part.name: part.params for part in block_parts(spec.blocks[spec.layout[index]]) if part.params}


def gathered(found: dict[str, Any], names: list[str]) -> dict[str, int]:
    """Entries of the real parameters under each of our names; what no name covers stays under its own."""
    totals: dict[str, int] = {}
    for path, parameter in found.items():
        owner = next((name for name in names if path == name or path.startswith(f"{name}.")), path)
        totals[owner] = totals.get(owner, 0) + parameter.numel()
    return totals


@pytest.mark.parametrize("case", CASES, ids=title)
def test_every_layer_holds_the_parameters_that_transformers_builds(case: tuple[str, Config]) -> None:
    config = tiny(*case)
    real, spec = build(config), model_from_config(config, name="tiny")

    layers = by_layer(real.named_parameters())

    assert len(spec.layout) == len(layers)
    for index, found in layers.items():
        ours = layer_params(spec, index)
        assert gathered(found, sorted(ours, key=len, reverse=True)) == ours
    assert model_params(spec) == sum(parameter.numel() for parameter in real.parameters())


@pytest.mark.parametrize("case", CASES, ids=title)
def test_linears_have_the_names_shapes_and_biases_of_the_real_modules(case: tuple[str, Config]) -> None:
    config = tiny(*case)
    real, spec = build(config), model_from_config(config, name="tiny")
    conv = transformers.pytorch_utils.Conv1D

    for index, modules in by_layer(real.named_modules()).items():
        block = spec.blocks[spec.layout[index]]
        found = {
            name: (module.weight.numel(), module.bias is not None, type(module) not in (torch.nn.Linear, conv))
            for name, module in modules.items()
            if isinstance(module, torch.nn.Linear | conv) and not is_router(block, name)
        }
        assert {item.name: (item.weight_params, item.bias, item.subclass) for item in block.linears} == found
        for linear in block.linears:
            check_shape(linear, modules[linear.name], conv)


def is_router(block: Block, name: str) -> bool:
    """Llama 4's router is a linear module; in our model every router is a table."""
    return block.experts is not None and name == block.experts.router.name.removesuffix(".weight")


def check_shape(linear: Linear, module: Any, conv: type) -> None:
    """``Conv1D`` stores the transpose."""
    shape = (linear.d_in, linear.d_out) if isinstance(module, conv) else (linear.d_out, linear.d_in)
    assert tuple(module.weight.shape) == shape, linear.name


@pytest.mark.parametrize("case", CASES, ids=title)
def test_everything_outside_the_layers_is_counted(case: tuple[str, Config]) -> None:
    config = tiny(*case)
    real, spec = build(config), model_from_config(config, name="tiny")

    outside = sum(p.numel() for name, p in real.named_parameters() if not LAYER.match(name))
    leaves = {name.rpartition(".")[2] for name, module in real.named_modules() if not LAYER.match(name)}

    assert outer_params(spec) == outside
    norms = [norm.name for norm in (spec.final_norm, *spec.extra_norms) if norm]
    tables, linears = [table.name for table in spec.embeddings], [linear.name for linear in spec.extra_linears]
    assert {*norms, *tables, *linears, spec.lm_head.name} <= leaves


@pytest.mark.parametrize("case", CASES, ids=title)
def test_a_config_that_transformers_saved_gives_the_same_model(case: tuple[str, Config]) -> None:
    config = tiny(*case)
    settings = build(config).config.to_dict()

    saved = model_from_config({**settings, "model_type": config["model_type"]}, name="tiny")

    assert model_params(saved) == model_params(model_from_config(config, name="tiny"))
    assert saved.layout == model_from_config(config, name="tiny").layout


def norm_kind(module: Any) -> str:
    """Which of our kinds a norm is, by what its forward does."""
    if type(module) is torch.nn.LayerNorm or type(module).__name__ in ("LayerNorm", "StableLmLayerNormPerHead"):
        return "layer"
    name = type(module).__name__
    if "LayerNorm" in name:
        return "layer_fp32"
    scaled_before_cast = ("Gemma", "Olmo2", "Olmo3", "GptOss")
    return "rms_fp32" if name.startswith(scaled_before_cast) else "rms"


@pytest.mark.parametrize("case", CASES, ids=title)
def test_norms_are_of_the_kind_that_the_class_computes(case: tuple[str, Config]) -> None:
    config = tiny(*case)
    real, spec = build(config), model_from_config(config, name="tiny")

    for index, modules in by_layer(real.named_modules()).items():
        block = spec.blocks[spec.layout[index]]
        for norm in block.all_norms:
            assert norm.kind == norm_kind(modules[norm.name]), norm.name


@pytest.mark.parametrize("case", CASES, ids=title)
def test_attention_kernels_are_those_that_the_class_offers(case: tuple[str, Config]) -> None:
    config = tiny(*case)
    real, spec = build(config), model_from_config(config, name="tiny")

    assert ("sdpa" in spec.attends) == bool(real._supports_sdpa)
    assert ("flash" in spec.attends) == bool(real._supports_flash_attn)


ACTIVATION_CLASSES = {
    "SiLUActivation": "silu",
    "SiLU": "silu",
    "GELUActivation": "gelu",
    "GELU": "gelu",
    "NewGELUActivation": "gelu_new",
    "GELUTanh": "gelu_tanh",
    "ReLU": "relu",
    "ReLUSquaredActivation": "relu2",
    "XIELUActivation": "xielu",
    "BloomGelu": "gelu_bloom",
}


@pytest.mark.parametrize("case", CASES, ids=title)
def test_activations_are_those_of_the_real_modules(case: tuple[str, Config]) -> None:
    config = tiny(*case)
    real, spec = build(config), model_from_config(config, name="tiny")

    for index, modules in by_layer(real.named_modules()).items():
        block = spec.blocks[spec.layout[index]]
        parts = (block.mlp, block.experts, block.experts.shared if block.experts else None)
        ours = {part.activation for part in parts if part}
        found = {ACTIVATION_CLASSES[kind] for m in modules.values() if (kind := type(m).__name__) in ACTIVATION_CLASSES}
        assert found == ours - {"swiglu_clamped"}  # gpt-oss computes its own, without a module


OURS_ON_PURPOSE = {
    "max_position_embeddings": "absent means unknown, since nothing but learned positions depends on it",
    "rope_parameters": "only its partial_rotary_factor matters, and each family's style has that default",
    "num_key_value_heads": "latent attention has none of its own",
}
NO_FIELD_OF_THE_CLASS = {
    ("gemma", "hidden_activation"),  # read by older versions, and still in files
    ("gemma3_text", "sliding_window_pattern"),  # keyword arguments of __post_init__
    ("cohere2", "sliding_window_pattern"),
    ("ernie4_5", "attention_dropout"),  # without dropout
    ("ernie4_5_moe", "attention_dropout"),
    ("mpt", "attention_dropout"),  # in attn_config, which is checked
}


@pytest.mark.parametrize("model_type", sorted(COVERED))
def test_defaults_are_those_of_the_configuration_class(model_type: str) -> None:
    family = COVERED[model_type]
    fields = type(transformers.AutoConfig.for_model(model_type)).__dataclass_fields__

    for name, default in family.fields.items():
        spelt = next((key for key in (name, *family.renamed.get(name, ())) if key in fields), None)
        if spelt is None:
            assert default is None or (model_type, name) in NO_FIELD_OF_THE_CLASS or name == "hidden_act", name
        elif default is not REQUIRED and fields[spelt].default != default:
            assert name in OURS_ON_PURPOSE, (name, default, fields[spelt].default)


def test_every_family_has_a_case() -> None:
    assert {model_type for model_type, _ in CASES} == set(COVERED)


def test_a_norm_multiplied_in_fp32_is_told_from_one_that_is_cast_first() -> None:
    # Gemma: float() * (1 + weight).float(), then the cast; Llama: the cast, then weight * hidden.
    gemma, llama = (model_from_config(tiny(kind, {}), name=kind) for kind in ("gemma", "llama"))

    assert isinstance(gemma.final_norm, Norm)
    assert gemma.final_norm.kind == "rms_fp32"
    assert llama.final_norm is not None
    assert llama.final_norm.kind == "rms"
