"""From what users type, and from files on disk, to a model or to one clear line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from planner.catalog import list_models, load_model
from planner.errors import BrokenInput, UnknownName, UnsupportedScenario
from planner.families import model_from_config
from planner.formulas.params import model_params
from tests.families.llama import LLAMA

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
