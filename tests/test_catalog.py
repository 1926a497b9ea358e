"""From what users type, and from files that may be anything, to a model or to one clear line."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.catalog import list_models, load_model
from planner.errors import BrokenInput, PlannerError, UnknownName, UnsupportedScenario, UsageError
from planner.families import model_from_config, parse_config
from planner.formulas.params import model_params

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "rope_scaling": {"factor": 8.0, "rope_type": "llama3"},
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.0",
    "use_cache": True,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008],
    "pretraining_tp": 1,
    "_name_or_path": "meta-llama/Llama-3.1-8B",
    "auto_map": {"AutoModel": "modeling.Custom"},
}

# ---------------------------------------------------------------- names

NAMES = [
    ("llama-3.1-8b", "llama-3.1-8b"),
    ("Llama-3.1-8B", "llama-3.1-8b"),
    ("llama3.1:8b", "llama-3.1-8b"),
    ("Llama 3.1 8B", "llama-3.1-8b"),
    ("llama3-8b", "llama-3-8b"),
    ("qwen2.5-7b", "qwen2.5-7b"),
    ("Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b"),
    ("qwen-2.5-7b", "qwen2.5-7b"),
    ("qwen2-57b-a14b", "qwen2-57b-a14b"),
    ("opt-13b", "opt-13b"),
    ("opt-1.3b", "opt-1.3b"),
    ("mistral:7b", "mistral-7b-v0.1"),
    ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b-v0.3"),
    ("meta-llama/Meta-Llama-3-8B", "llama-3-8b"),
    ("unsloth/Meta-Llama-3.1-8B-bnb-4bit", "llama-3.1-8b"),
    (" gpt2 ", "gpt2"),
]


@pytest.mark.parametrize(("typed", "model_id"), NAMES)
def test_names_as_people_type_them(typed: str, model_id: str) -> None:
    assert load_model(typed).model.name == model_id


SIZES = [
    ("70b", "llama-3.1-70b"),
    ("7B", "llama-2-7b"),
    ("8b", "llama-3.1-8b"),
    ("27b", "gemma-3-27b"),
    ("8x7b", "mixtral-8x7b"),
]


@pytest.mark.parametrize(("size", "model_id"), SIZES)
def test_a_bare_size_says_what_it_was_taken_for(size: str, model_id: str) -> None:
    resolved = load_model(size)

    assert resolved.model.name == model_id
    assert resolved.line.startswith(f"{size} -> {model_id} (")


def test_a_bare_size_names_others_of_its_class() -> None:
    line = load_model("70b").line

    assert line.startswith("70b -> llama-3.1-70b (meta-llama/Llama-3.1-70B); other 70b-class models: ")
    assert line.endswith(": write the name for those")
    assert "llama-3.3-70b" in line


def test_a_foreign_repository_is_taken_by_its_name_and_says_so() -> None:
    assert load_model("someone/Llama-3.1-8B").line == (
        "someone/Llama-3.1-8B -> llama-3.1-8b (meta-llama/Llama-3.1-8B)"
        "; taken by its name, the repository itself was not read"
    )


def test_a_catalogue_model_brings_its_facts() -> None:
    model = load_model("deepseek-v3").model

    assert model.hub_id == "deepseek-ai/DeepSeek-V3"
    assert model.native_dtype == "float8_e4m3fn"
    assert any("stored in float8_e4m3fn" in note for note in model.notes)


@pytest.mark.parametrize("typed", ["lama-3.1-8b", "qwen2.5-7", "45b", "gpt5", "", "   ", "x" * 10_000, "a\0b", "🦙"])
def test_an_unknown_name_is_one_line_with_exit_2(typed: str) -> None:
    with pytest.raises(UnknownName) as caught:
        load_model(typed)

    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert "plan models" in str(caught.value)


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"did you mean llama-3\.1-8b"):
        load_model("lama-3.1-8b")


@pytest.mark.parametrize(
    "typed", ["80b", "qwen3.5-27b", "Qwen/Qwen3.5-27B", "mamba-2.8b", "deepseek-v3.2", "gemma-3n-e2b"]
)
def test_a_known_model_that_is_not_covered_is_exit_3(typed: str) -> None:
    with pytest.raises(UnsupportedScenario, match=r"not covered: its .* \(") as caught:
        load_model(typed)

    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


def test_listing_is_searchable() -> None:
    rows = list_models()

    assert len(rows) >= 150
    assert [row.params for row in rows] == sorted(row.params for row in rows)
    assert {row.id for row in list_models("qwen3 32b")} == {"qwen3-32b", "qwen3-vl-32b"}
    assert all(row.is_moe for row in list_models("moe"))
    assert "mixtral-8x7b" in {row.id for row in list_models("MoE apache")}
    assert all("27b" not in row.id for row in list_models("7b"))
    assert list_models("no such thing") == ()


# ---------------------------------------------------------------- paths


def write(folder: Path, config: object) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(config))
    return file


def test_a_directory_and_a_file_give_the_catalogue_model(tmp_path: Path) -> None:
    file = write(tmp_path, LLAMA)

    for path in (str(tmp_path), str(file)):
        resolved = load_model(path)
        assert model_params(resolved.model) == 8_030_261_248
        assert resolved.model.name == tmp_path.name
        assert resolved.line == f"{file} (read from disk)"


def test_a_relative_directory_is_found_after_the_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my-model").mkdir()
    write(tmp_path / "my-model", LLAMA)
    monkeypatch.chdir(tmp_path)

    assert load_model("my-model").model.name == "my-model"
    assert load_model("./my-model").model.name == "my-model"


def test_bad_paths_are_one_line_with_exit_2(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "config.json").mkdir()
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    bad = [str(tmp_path / name) for name in ("empty", "config.json", "none", "x" * 300, "loop.json")]
    bad += ["/dev/zero", "~nobody-at-all/model", "./a\nb", "./\x1b[2J", "/etc/passwd"]
    for path in bad:
        with pytest.raises(BrokenInput) as caught:
            load_model(path)
        assert caught.value.exit_code == 2
        assert str(caught.value).isprintable()


def test_an_adapter_names_its_base_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "meta-llama/Llama-3.1-8B"}))

    with pytest.raises(BrokenInput, match=r"an adapter for meta-llama/Llama-3\.1-8B"):
        load_model(str(tmp_path))


# ---------------------------------------------------------------- hostile files

DOCUMENTS = [
    (b"", "not valid JSON"),
    (b"{", "not valid JSON"),
    (b"[1, 2]", "holds a list"),
    (b'"llama"', "holds a str"),
    (b"null", "holds a NoneType"),
    (b"NaN", "holds a float"),
    (b'{"model_type": "llama", "model_type": "gpt2"}', "the key 'model_type' stands twice"),
    (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
    (b'{"hidden_size": ' * 50_000, "nested too deeply"),
    (b'{"hidden_size": ' + b"9" * 5000 + b"}", "not valid JSON"),
    (b"\xff\xfe\x00", "not text in UTF-8"),
    (b" " * (17 * 2**20), "larger than 16 MiB"),
]


@pytest.mark.parametrize(("data", "message"), DOCUMENTS, ids=[message for _, message in DOCUMENTS])
def test_what_is_no_config_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(BrokenInput, match=message) as caught:
        parse_config(data, "config.json")

    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"model_type": None}, "model_type is None"),
    ({"model_type": ["llama"]}, "model_type is "),
    ({"hidden_size": "4096"}, "hidden_size is '4096', which is not a whole number"),
    ({"hidden_size": 4096.0}, "hidden_size is 4096.0"),
    ({"hidden_size": True}, "hidden_size is True"),
    ({"hidden_size": None}, "hidden_size is null"),
    ({"hidden_size": 0}, "hidden_size is 0, which is not between 1"),
    ({"hidden_size": -4096}, "hidden_size is -4096"),
    ({"hidden_size": 2**24 + 1}, "hidden_size is 16777217"),
    ({"hidden_size": 10**4000}, "hidden_size is a huge number"),
    ({"hidden_size": float("nan")}, "hidden_size is nan"),
    ({"hidden_size": {"a": 1}}, "hidden_size is {'a': 1}"),
    ({"num_hidden_layers": 10_001}, "num_hidden_layers is 10001"),
    ({"num_attention_heads": 33}, "num_attention_heads is 33, which does not divide"),
    ({"num_key_value_heads": 5}, "num_key_value_heads is 5, which does not divide 32"),
    ({"vocab_size": []}, r"vocab_size is \[\]"),
    ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'"),
    ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1"),
    ({"attention_dropout": 1.5}, "attention_dropout is 1.5"),
    ({"attention_dropout": float("nan")}, "attention_dropout is nan"),
    ({"hidden_act": 3}, "hidden_act is 3"),
    ({"attention_bias": 0.5}, "attention_bias is 0.5"),
    ({"quantization_config": "gptq"}, "quantization_config is 'gptq'"),
    ({"text_config": "llama"}, "text_config is not a table"),
    ({"hidden_size": 2**24, "intermediate_size": 2**24, "num_hidden_layers": 10_000}, "more than 1e"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN, ids=[message for _, message in BROKEN])
def test_a_value_without_sense_names_its_field(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BrokenInput, match=message) as caught:
        model_from_config({**LLAMA, **change}, name="x")

    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "field", ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"]
)
def test_a_missing_size_is_not_filled_with_a_default(field: str) -> None:
    config = {key: value for key, value in LLAMA.items() if key != field}

    with pytest.raises(BrokenInput, match=f"{field} is missing"):
        model_from_config(config, name="x")


UNSUPPORTED: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "lama"}, "model_type 'lama' is not covered; nearest that is: llama"),
    ({"model_type": "x" * 500}, "is not covered"),
    (
        {"model_type": "qwen3_next"},
        r"qwen3_next is not covered: its linear-attention layers \(full_attention_interval\)",
    ),
    ({"model_type": "mamba2"}, "mamba2 is not covered: its state-space layers"),
    ({"hidden_act": "swoosh"}, "llama with hidden_act 'swoosh' is not understood"),
    ({"n_hash_layers": 3}, "the field 'n_hash_layers' = 3 of model_type llama is not understood"),
    ({"use_gated_attention": True}, "the field 'use_gated_attention' = True"),
    ({"layer_types": ["linear_attention"] * 32}, "the field 'layer_types'"),
    ({"model_type": "olmo", "clip_qkv": 8.0}, "olmo with clip_qkv 8.0 is not understood"),
    ({"model_type": "gemma2", "layer_types": ["linear_attention"] * 32}, "gemma2 with layer_types entry"),
    ({"quantization_config": {"quant_method": "gptq"}}, "quant_method 'gptq' is a format for inference"),
    ({"quantization_config": {"quant_method": None}}, "quant_method None"),
]


@pytest.mark.parametrize(("change", "message"), UNSUPPORTED, ids=[message[:60] for _, message in UNSUPPORTED])
def test_what_we_do_not_understand_is_exit_3_and_names_the_field(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedScenario, match=message) as caught:
        model_from_config({**LLAMA, **change}, name="x")

    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELDS = (*LLAMA, "head_dim", "layer_types", "sliding_window", "rope_parameters", "quantization_config", "text_config")
TYPES = ("llama", "qwen2", "gemma3_text", "gpt2", "falcon", "mpt", "mixtral", "deepseek_v3", "llama4_text", "opt")


@settings(max_examples=400, deadline=None)
@given(
    model_type=st.sampled_from(TYPES), changes=st.dictionaries(st.sampled_from(FIELDS) | st.text(), VALUES, max_size=4)
)
def test_no_config_whatsoever_is_a_traceback(model_type: str, changes: dict[str, Any]) -> None:
    complaint = None
    try:
        model_from_config({**LLAMA, "model_type": model_type, **changes}, name="x")
    except PlannerError as error:
        complaint = str(error)

    assert complaint is None or ("\n" not in complaint and len(complaint) < 400)


# ---------------------------------------------------------------- what real files look like


def test_a_multimodal_config_is_planned_for_its_text_part() -> None:
    text = {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34}
    config = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": {**text, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024},
        "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"},
        "mm_tokens_per_image": 256,
    }

    model = model_from_config(config, name="gemma")

    assert model_params(model) == model_params(load_model("gemma-3-4b").model) == 3_880_263_168
    assert model.notes == ("gemma3: planned for its text part alone; a vision or audio tower adds its own weights",)


def test_a_nested_text_config_without_type_takes_that_of_its_parent() -> None:
    inner = {key: value for key, value in LLAMA.items() if key != "model_type"}

    assert model_from_config({"model_type": "mistral3", "text_config": inner}, name="x").model_type == "mistral"


def test_native_low_precision_checkpoints_are_planned_in_16_bits() -> None:
    model = model_from_config({**LLAMA, "quantization_config": {"quant_method": "fp8"}}, name="x")

    assert model_params(model) == 8_030_261_248
    assert model.notes == ("the checkpoint is stored in fp8; planned as its 16-bit weights, which trainers start from",)


def test_layers_of_two_kinds_become_two_blocks() -> None:
    model = load_model("gemma-3-1b").model

    assert [block.attention.window for block in model.blocks] == [512, None]
    assert model.block_counts == (22, 4)  # every sixth of 26 layers attends to everything


def test_layers_without_rotation_are_kept_apart() -> None:
    model = load_model("smollm3-3b").model

    assert {block.attention.rope for block in model.blocks} == {"half", "none"}
    assert model.block_counts == (27, 9)


def test_dropouts_of_the_config_are_kept() -> None:
    gpt2, seed = load_model("gpt2").model, load_model("seed-oss-36b").model

    assert (gpt2.embedding_dropout, gpt2.blocks[0].attention.dropout, gpt2.blocks[0].residual_dropout) == (
        0.1,
        0.1,
        0.1,
    )
    assert (seed.blocks[0].attention.dropout, seed.blocks[0].residual_dropout) == (0.1, 0.1)


# ---------------------------------------------------------------- the Hub, with a library of our own making


class FakeError(Exception):
    """Stands for one class of ``huggingface_hub.errors``."""


def fake_hub(monkeypatch: pytest.MonkeyPatch, **behaviour: Any) -> None:
    """A ``huggingface_hub`` that answers or fails as told."""
    kinds = (
        "RepositoryNotFoundError",
        "GatedRepoError",
        "HfHubHTTPError",
        "LocalEntryNotFoundError",
        "EntryNotFoundError",
    )
    errors = ModuleType("huggingface_hub.errors")
    for kind in kinds:
        setattr(errors, kind, type(kind, (FakeError,), {}))

    def model_info(*_: Any, **__: Any) -> Any:
        if "info" in behaviour:
            raise getattr(errors, behaviour["info"], OSError)("no luck\nsecond line")
        return SimpleNamespace(safetensors=SimpleNamespace(total=behaviour.get("total")))

    def download(*_: Any, local_files_only: bool, **__: Any) -> str:
        if "file" in behaviour:
            raise getattr(errors, behaviour["file"])("no luck")
        assert local_files_only == ("info" in behaviour)
        return str(behaviour["config"])

    hub = ModuleType("huggingface_hub")
    hub.HfApi = lambda: SimpleNamespace(model_info=model_info)  # type: ignore[attr-defined]
    hub.errors = errors  # type: ignore[attr-defined]
    hub.hf_hub_download = download  # type: ignore[attr-defined]
    utils = ModuleType("huggingface_hub.utils")
    utils.disable_progress_bars = lambda: None  # type: ignore[attr-defined]
    for name, module in (("", hub), (".errors", errors), (".utils", utils)):
        monkeypatch.setitem(sys.modules, f"huggingface_hub{name}", module)


def test_a_repository_that_the_catalogue_lacks_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_hub(monkeypatch, total=8_030_261_248, config=write(tmp_path, LLAMA))

    resolved = load_model("someone/New-Model")

    assert resolved.line == "someone/New-Model (read from the Hub)"
    assert resolved.model.hub_id == "someone/New-Model"
    assert resolved.model.notes == ()


def test_other_weights_than_the_formula_counts_are_noted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_hub(monkeypatch, total=9_000_000_000, config=write(tmp_path, LLAMA))

    assert load_model("someone/New-Model").model.notes == (
        "the repository stores 9B parameters, its text model has 8.03B",
    )


def test_without_network_the_local_cache_serves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_hub(monkeypatch, info="ConnectError", config=write(tmp_path, LLAMA))

    assert "could not be checked" in load_model("someone/New-Model").model.notes[0]


HUB_FAILURES = [
    ({"info": "RepositoryNotFoundError"}, "is neither in the catalogue nor on the Hub"),
    ({"info": "HfHubHTTPError"}, "could not be read from the Hub: no luck"),
    ({"info": "ConnectError", "file": "LocalEntryNotFoundError"}, "the Hub cannot be reached"),
    ({"file": "GatedRepoError"}, "is gated: accept its licence"),
    ({"file": "EntryNotFoundError"}, "holds no config.json"),
]


@pytest.mark.parametrize(("behaviour", "message"), HUB_FAILURES, ids=[message for _, message in HUB_FAILURES])
def test_each_way_in_which_the_hub_fails(
    monkeypatch: pytest.MonkeyPatch, behaviour: dict[str, str], message: str
) -> None:
    fake_hub(monkeypatch, **behaviour)

    with pytest.raises((UsageError, BrokenInput), match=message) as caught:
        load_model("someone/New-Model")

    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_without_the_library_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)

    with pytest.raises(UsageError, match=r"pip install huggingface_hub, or give a local config\.json"):
        load_model("someone/New-Model")


# ---------------------------------------------------------------- weight


def test_loading_a_model_imports_nothing_heavy() -> None:
    script = (
        "import sys; from planner.catalog import load_model; load_model('70b');"
        "heavy = {'torch', 'transformers', 'numpy', 'pydantic', 'huggingface_hub', 'typer', 'rich'} & set(sys.modules);"
        "print(*sorted(heavy))"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [], "")


def test_the_index_command_refuses_other_arguments() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "planner.catalog", "--write"], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (2, "usage: python -m planner.catalog --write-index\n")
