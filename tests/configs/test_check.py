"""``plan check``: a guard whose exit code can be trusted, on files that anybody may have written."""

import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from planner.cli import main

SFT = """
model_name_or_path: meta-llama/Llama-3.1-8B
dataset_name: trl-lib/Capybara
per_device_train_batch_size: 2
gradient_accumulation_steps: 8
use_peft: true
lora_r: 32
load_in_4bit: true
max_length: 2048
learning_rate: 2.0e-4
"""


class Checking:
    """``plan check`` in a folder of its own: the exit code and what was printed."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys

    def file(self, name: str, text: str) -> str:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text, encoding="utf-8")
        return name

    def __call__(self, *words: str) -> tuple[int, str, str]:
        code = main(["check", *words])
        told = self._capsys.readouterr()
        return code, told.out, told.err

    def answer(self, *words: str) -> dict[str, Any]:
        code, out, err = self(*words, "--format", "json")
        assert code in (0, 4), err
        found: dict[str, Any] = json.loads(out)
        return found


@pytest.fixture
def checking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Checking:
    monkeypatch.chdir(tmp_path)
    return Checking(tmp_path, capsys)


def test_the_exit_code_is_the_verdict(checking: Checking) -> None:
    name = checking.file("sft.yaml", SFT)

    assert checking(name, "--gpu", "4090")[0] == 0
    assert checking(name, "--gpu", "rtx3080-10gb", "--micro-batch-size", "64")[0] == 4


def test_the_sentence_comes_first_and_every_key_is_told(checking: Checking) -> None:
    _, out, _ = checking(checking.file("sft.yaml", SFT + "colour: red\n"), "--gpu", "4090")

    assert out.startswith("sft.yaml fits: qlora of llama-3.1-8b needs ")
    for word in ("max_length", "lora-rank 32", "without influence: dataset_name, learning_rate", "colour"):
        assert word in out, word


def test_the_plan_is_of_the_files_settings_and_of_the_trainers_own_defaults(checking: Checking) -> None:
    found = checking.answer(checking.file("sft.yaml", SFT), "--gpu", "4090")

    assert len(found["candidates"]) == 1
    scenario = found["scenario"]
    assert scenario["seq_len"] == {"value": 2048, "from": "user"}
    assert scenario["lora_rank"] == {"value": 32, "from": "user"}
    assert scenario["lora_targets"]["from"] == "stack"
    assert scenario["lora_alpha"] == {"value": 32.0, "from": "stack"}
    assert {one["fate"] for one in found["config"]["keys"]} == {"used", "ignored"}
    assert found["config"]["unset"]["lora_alpha"] == 32.0


def test_options_lie_over_the_file(checking: Checking) -> None:
    name = checking.file("sft.yaml", SFT)
    found = checking.answer(name, "--gpu", "4090", "--micro-batch-size", "1", "--method", "lora")

    assert found["scenario"]["micro_batch_size"] == {"value": 1, "from": "user"}
    assert found["candidates"][0]["method"] == "lora"
    assert found["config"]["overridden"] == ["micro_batch_size"]


def test_without_a_card_it_is_the_smallest_class_that_runs_it(checking: Checking) -> None:
    name = checking.file("sft.yaml", SFT)
    found = checking.answer(name)
    gpu = found["gpu"]["id"]

    assert f"no --gpu: {gpu} is the smallest class of cards that runs it" in found["notes"]
    assert checking(name, "--gpu", gpu)[0] == 0
    assert (
        checking.answer(name, "--micro-batch-size", "4096")["notes"][0]
        == "no --gpu: 141gb is the largest class of cards"
    )


def test_a_class_that_cannot_do_what_the_file_asks_is_passed_over(checking: Checking) -> None:
    """Weak cards of 16 GB have no FlashAttention; without a card named, the next larger class is the answer."""
    text = SFT.replace("load_in_4bit: true", "load_in_4bit: true\nattn_implementation: flash_attention_2")
    name = checking.file("sft.yaml", text)

    for size in ("2", "4", "8", "16"):
        found = checking.answer(name, "--micro-batch-size", size)
        assert found["candidates"][0]["verdict"] != "does_not_fit"
        assert found["scenario"]["attention"]["value"] == "flash"


def test_ways_out_ask_of_the_same_file(checking: Checking) -> None:
    name = checking.file("sft.yaml", SFT + "torch_compile: true\n")
    found = checking.answer(name, "--gpu", "12gb", "--micro-batch-size", "16", "--ignore", "torch_compile")
    ways = [*found["recommendation"]["changes"], *found["recommendation"]["rent"]]

    assert ways
    for way in ways:
        assert way["command"].startswith("plan check sft.yaml --ignore torch_compile --gpu "), way["command"]
    again = ways[0]["command"].split()[2:]
    assert checking.answer(*again)["candidates"][0]["verdict"] == ways[0]["candidate"]["verdict"]


def test_a_key_that_changes_the_answer_ends_with_3(checking: Checking) -> None:
    name = checking.file("sft.yaml", SFT + "torch_compile: true\n")

    code, out, err = checking(name, "--gpu", "4090")
    assert (code, out) == (3, "")
    assert "sft.yaml: torch_compile True changes the answer" in err
    assert err.count("\n") == 1
    assert checking(name, "--gpu", "4090", "--ignore", "torch_compile")[0] == 0


def test_a_slip_of_a_key_that_matters_is_no_warning(checking: Checking) -> None:
    code, _, err = checking(checking.file("sft.yaml", SFT + "max_lenght: 9000\n"), "--gpu", "4090")

    assert code == 3
    assert "did you mean max_length?" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "name a configuration"),
        (("absent.yaml",), "does not exist"),
        (("sft.yaml", "--trainer", "trk"), "unknown trainer 'trk'; did you mean trl?"),
        (("sft.yaml", "--gpu", "4900"), "unknown gpu"),
        (("sft.yaml", "--stack", "trl,trl=x"), "is not PACKAGE=VERSION"),
        (("sft.yaml", "sft.yaml"), "both describe a run"),
        (("other.yaml",), "no key tells whose configuration this is"),
        (("wrong.yaml",), "max_length 'long' is not a whole number"),
    ],
)
def test_what_has_no_meaning_is_one_line(checking: Checking, words: tuple[str, ...], message: str) -> None:
    checking.file("sft.yaml", SFT)
    checking.file("other.yaml", "colour: red\n")
    checking.file("wrong.yaml", SFT.replace("2048", "long"))

    code, out, err = checking(*words)

    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("someone/a-model-of-theirs", "nothing is fetched unasked: --model someone/a-model-of-theirs looks it up"),
        ("../outside", "lies elsewhere, and is not read unasked"),
        ("/etc", "lies elsewhere, and is not read unasked"),
        ("nothing of the kind", "is not known here: add --model"),
        ("", "names no model: add --model"),
    ],
)
def test_no_model_is_looked_up_that_was_not_asked_for(checking: Checking, model: str, message: str) -> None:
    text = SFT.replace("meta-llama/Llama-3.1-8B", model)
    (checking.folder.parent / "outside").mkdir(exist_ok=True)

    code, _, err = checking(checking.file("sft.yaml", text), "--gpu", "4090")

    assert code == 2
    assert message in err


def test_a_builder_that_is_not_torchtunes_is_named(checking: Checking) -> None:
    text = "model: {_component_: torchtune.models.nope.x}\noptimizer: {_component_: torch.optim.AdamW}\n"
    code, _, err = checking(checking.file("tune.yaml", text), "--gpu", "h100")

    assert code == 2
    assert "model._component_ 'torchtune.models.nope.x' is none of torchtune's own models: --model says" in err


def test_advice_names_no_trainer_that_does_not_plan_it(checking: Checking) -> None:
    """Axolotl's grpo is read and refused; Unsloth's pairs are not planned."""
    rl = checking.file(
        "rl.yml", "base_model: meta-llama/Llama-3.1-8B\nadapter: lora\nlora_r: 8\nsequence_len: 512\nrl: orpo\n"
    )
    factory = "model_name_or_path: meta-llama/Llama-3.1-8B\nstage: dpo\nfinetuning_type: lora\nuse_unsloth: true\n"

    assert "of trainers we model dpo and ipo)" in checking(rl, "--gpu", "h100")[2]
    assert "for sft alone" in checking(checking.file("lf.yaml", factory), "--gpu", "h100")[2]


def test_a_trl_file_that_tells_no_trainer_is_said_to_be_read_as_sft(checking: Checking) -> None:
    either, sft = checking.file("either.yaml", SFT), checking.file("sft.yaml", SFT + "packing: false\n")

    assert "--trainer dpo reads it as pairs" in " ".join(checking(either, "--gpu", "80gb")[1].split())
    assert "read as trl sft" not in checking(either, "--gpu", "80gb", "--trainer", "sft")[1]
    assert "read as trl sft" not in checking(sft, "--gpu", "80gb")[1]


def test_the_command_may_name_the_model(checking: Checking) -> None:
    name = checking.file("sft.yaml", SFT.replace("meta-llama/Llama-3.1-8B", "someone/a-model-of-theirs"))

    assert checking.answer(name, "--gpu", "4090", "--model", "8b")["model"]["name"] == "llama-3.1-8b"


def test_a_model_that_lies_beside_the_file_is_read(checking: Checking) -> None:
    config = {
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 256, "max_position_embeddings": 4096,
        "architectures": ["LlamaForCausalLM"],
    }  # fmt: skip
    checking.file("run/tiny/config.json", json.dumps(config))
    name = checking.file("run/sft.yaml", SFT.replace("meta-llama/Llama-3.1-8B", "./tiny"))

    assert checking(name, "--gpu", "4090")[0] == 0


def test_files_that_it_names_are_read_beside_it_only(checking: Checking) -> None:
    stage = json.dumps({"zero_optimization": {"stage": 3}, "train_micro_batch_size_per_gpu": "auto"})
    checking.file("run/ds.json", stage)
    checking.file("ds_elsewhere.json", stage)
    beside = checking.file("run/sft.yaml", SFT + "deepspeed: ds.json\n")
    climbing = checking.file("run/climbing.yaml", SFT + "deepspeed: ../ds_elsewhere.json\n")
    absent = checking.file("run/absent.yaml", SFT + "deepspeed: nowhere.json\n")

    found = checking.answer(beside, "--gpu", "4090", "--gpus", "2")
    assert found["scenario"]["sharding"]["value"] == "zero3"
    assert len(found["config"]["files"]) == 2
    assert "lies elsewhere, and is not read unasked" in checking(climbing, "--gpu", "4090", "--gpus", "2")[2]
    assert "is not beside it" in checking(absent, "--gpu", "4090", "--gpus", "2")[2]
    assert checking(climbing, "ds_elsewhere.json", "--gpu", "4090", "--gpus", "2")[0] == 0


def test_companions_that_disagree_are_an_error(checking: Checking) -> None:
    main_file = checking.file("sft.yaml", SFT)
    other = checking.file(
        "ds.json", json.dumps({"zero_optimization": {"stage": 2}, "train_micro_batch_size_per_gpu": 4})
    )

    code, _, err = checking(main_file, other, "--gpu", "4090", "--gpus", "2")

    assert code == 2
    assert "make them agree" in err


def test_names_from_a_file_cannot_write_on_the_terminal(checking: Checking) -> None:
    name = checking.file("sft.yaml", SFT + '"\\e[31mred": "\\e[2J"\n')

    _, out, _ = checking(name, "--gpu", "4090")

    assert "\x1b" not in out
    assert "\\x1b[31mred" in out


def test_numbers_that_are_none_are_text_in_json(checking: Checking) -> None:
    found = checking.answer(checking.file("sft.yaml", SFT + "colour: .nan\n"), "--gpu", "4090")

    assert {"key": "colour", "value": "nan"}.items() <= found["config"]["keys"][-1].items()


def test_notes_stand_without_an_empty_table_and_adapters_are_told_once(checking: Checking) -> None:
    lora = {"peft_type": "LORA", "r": 8, "target_modules": ["q_proj"], "base_model_name_or_path": "Qwen/Qwen2.5-0.5B"}
    name = checking.file("adapter_config.json", json.dumps(lora))

    for form in ("text", "markdown"):
        _, out, _ = checking(name, "--gpu", "h100", "--format", form)
        assert "notes on the files" in out
        assert "|  |" not in out
        assert "{" not in out.partition("not said")[0]


def test_the_commands_cards_and_passes_lie_over_those_of_the_files(checking: Checking) -> None:
    """One card and one pass are what a command without options says, too."""
    name = checking.file("sft.yaml", SFT + "num_train_epochs: 3\nnum_processes: 2\n")

    both = checking.answer(name, "--gpu", "4090")
    assert (both["gpu"]["count"], both["job"]["epochs"]) == (2, 3.0)
    mine = checking.answer(name, "--gpu", "4090", "--gpus", "1", "--epochs", "1")
    assert (mine["gpu"]["count"], mine["job"]["epochs"]) == (1, 1.0)


def test_a_key_to_ignore_that_no_file_has_is_an_error(checking: Checking) -> None:
    name = checking.file("sft.yaml", SFT)

    assert checking(name, "--gpu", "4090", "--ignore", "lora_rr") == (
        2,
        "",
        "error: --ignore 'lora_rr': no key of sft.yaml has that name; did you mean lora_r?\n",
    )
    assert "leave it out" in checking(name, "--gpu", "4090", "--ignore", "ZZZ")[2]


def test_a_key_that_counts_is_not_ignored(checking: Checking) -> None:
    """It counted all the same, without a word."""
    name = checking.file("sft.yaml", SFT)
    code, out, err = checking(name, "--gpu", "4090", "--ignore", "lora_r")

    assert (code, out) == (2, "")
    assert "--ignore 'lora_r': what sft.yaml says there is planned: leave it out" in err
    assert checking(name, "--gpu", "4090", "--ignore", "learning_rate")[0] == 0


def test_a_conflict_names_both_files_and_both_keys(checking: Checking) -> None:
    """The launcher's file says what the engine's contradicts; the trainer's has nothing to do with it."""
    sft = checking.file("sft.yaml", SFT)
    launcher = checking.file("fsdp.yaml", "distributed_type: FSDP\nnum_processes: 2\n")
    engine = checking.file("zero.json", '{"zero_optimization": {"stage": 3}, "gradient_accumulation_steps": "auto"}')

    code, out, err = checking(sft, launcher, engine, "--gpu", "4090")
    assert (code, out) == (2, "")
    assert err == (
        "error: fsdp.yaml says distributed_type 'FSDP' (sharding fsdp), but zero.json says zero_optimization.stage 3 "
        "(sharding zero3): make them agree\n"
    )
    other = checking.file("other.json", '{"zero_optimization": {"stage": 3}, "gradient_accumulation_steps": 4}')
    assert "sft.yaml says gradient_accumulation_steps 8, but other.json says" in checking(sft, other)[2]


def test_what_is_piped_in_is_checked(checking: Checking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(SFT.encode()), closed=False))

    code, out, _ = checking("-", "--gpu", "4090")
    assert code == 0
    assert out.startswith("stdin fits: qlora of llama-3.1-8b needs ")
    assert "read once" in checking("-", "-", "--gpu", "4090")[2]


def test_the_help_shows_no_default_where_the_files_hold(checking: Checking) -> None:
    _, out, _ = checking("--help")

    assert "[2048]" not in out
    assert "[trl]" not in out
    assert "may be repeated" in out  # keys to ignore
    assert "as the files say" in " ".join(out.split())


def test_nothing_is_said_of_offloading_where_nothing_is_offloaded(checking: Checking) -> None:
    """Readers say that nothing moves, by an empty setting."""
    script = checking.file(
        "train.py",
        'm = FastLanguageModel.from_pretrained("unsloth/Meta-Llama-3.1-8B", max_seq_length=2048, load_in_4bit=True)\n'
        "m = FastLanguageModel.get_peft_model(m, r=16, use_gradient_checkpointing=True)\n"
        "SFTTrainer(model=m, args=SFTConfig(per_device_train_batch_size=2))\n",
    )
    _, out, _ = checking(script, "--gpu", "24gb")

    assert "What would change the choice" in out
    assert "offloading" not in out.partition("What would change the choice")[2].partition("unsloth sets")[0]


def test_each_file_has_a_table_of_its_own(checking: Checking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    sft = checking.file("sft.yaml", SFT)
    launcher = checking.file("launch.yaml", "distributed_type: MULTI_GPU\nnum_processes: 2\nmachine_rank: 0\n")
    _, out, _ = checking(sft, launcher, "--gpu", "4090")
    first, _, second = out.partition("launch.yaml: keys that decide memory and time")

    assert "sft.yaml: keys that decide memory and time" in first
    assert "num_processes" not in first
    assert "without influence: dataset_name, learning_rate" in first
    assert "without influence: machine_rank" in second


def test_long_keys_are_divided_where_their_names_are(checking: Checking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    _, out, _ = checking(checking.file("sft.yaml", SFT), "--gpu", "4090")
    rows = out.partition("without influence")[0].splitlines()
    words = [line.split()[0] for line in rows if line.strip()]

    for key in ("per_device_train_batch_size", "gradient_accumulation_steps"):
        assert key not in words  # it has no room
        parts = next(words[place : place + 2] for place, word in enumerate(words) if key.startswith(word))
        assert "".join(parts) == key
        assert parts[0].endswith("_")


def test_evaluation_that_is_not_planned_is_told(checking: Checking) -> None:
    name = checking.file("sft.yaml", SFT + "eval_strategy: steps\nnum_processes: 2\n")
    _, alone, _ = checking(name, "--gpu", "4090", "--gpus", "1")
    _, several, _ = checking(name, "--gpu", "4090")

    assert "moments evaluation" in alone
    assert "evaluation is planned without a function for metrics" in " ".join(alone.split())
    assert "gpus 1, by the command" in alone
    assert "not planned here" in several
    assert "evaluation is not planned among several cards" in several
    assert "evaluation is planned" not in several


def test_what_a_key_switches_off_is_not_told_as_unsaid(checking: Checking) -> None:
    """``use_liger_kernel: false`` stood among the keys, and ``kernels`` among what the trainer takes by itself."""
    silent, said = checking.file("silent.yaml", SFT), checking.file("said.yaml", SFT + "use_liger_kernel: false\n")
    unsaid, told = (checking(name, "--gpu", "4090")[1].partition("not said")[2] for name in (silent, said))

    assert re.search(r"^ +kernels +eager$", unsaid, re.MULTILINE)
    assert not re.search(r"^ +kernels +eager$", told, re.MULTILINE)
