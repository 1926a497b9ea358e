"""Exports that are started with the very command that they name: they train, and the saved adapter loads.

A tiny Llama with a tiny tokenizer, on the processor. What a processor cannot do is overridden on the command line, not
in the files: FlashAttention (sdpa), cards (use_cpu, DS_ACCELERATOR=cpu), the length of the run (max_steps).
"""

import json
import os
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from planner.configs.exporting import Exported, export
from planner.recommend.request import Request

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "datasets", "trl")
MISSING = [name for name in LIBRARIES if find_spec(name) is None]
LONGEST = 900
"""Seconds; a busy machine takes its time."""

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # of libraries about each other
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]

HELD: dict[str, Any] = {"seq_len": 64, "micro_batch_size": 2, "grad_accumulation": 2}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, its tokenizer, and data of eight rows."""
    from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: PLC0415
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: PLC0415

    found = tmp_path_factory.mktemp("launched")
    names = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{number}" for number in range(60))]
    words = Tokenizer(models.WordLevel({name: place for place, name in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(found / "model")
    config = LlamaConfig(
        vocab_size=len(names),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(found / "model")
    texts = [{"text": " ".join(f"w{row * place % 60}" for place in range(5 + row))} for row in range(8)]
    pairs = [{"prompt": f"w{row}", "chosen": "w1 w2 w3", "rejected": "w4 w5"} for row in range(8)]
    prompts = [{"prompt": f"w{row} w{row + 1}"} for row in range(8)]
    for name, rows in (("texts.jsonl", texts), ("pairs.jsonl", pairs), ("prompts.jsonl", prompts)):
        (found / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return found


def exported(home: Path, folder: Path, target: str, rows: str = "texts.jsonl", **settings: Any) -> Exported:
    """The files of a run in ``folder``."""
    request = Request(model=str(home / "model"), gpu="4090", methods=("lora",), settings={**HELD, **settings}, stack="")
    found = export(target, request, dataset=str(home / rows))
    for file in found.files:
        (folder / file.name).write_text(file.text, encoding="utf-8")
    return found


def launch(folder: Path, found: Exported, *overrides: str, **environment: str) -> str:
    """Run the export's own command, with overrides behind it; what it wrote."""
    command = shlex.split(found.launch)
    command[0] = str(Path(sys.executable).with_name(command[0]))
    if not Path(command[0]).exists():
        pytest.skip(f"not installed: {command[0]}")
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "WANDB_DISABLED": "true"}
    caches = {
        "HF_HOME": str(folder / "cache"),
        "ACCELERATE_CONFIG_FILE": "",
        "TRITON_CACHE_DIR": str(folder / "triton"),
    }
    done = subprocess.run(
        [*command, *overrides],
        cwd=folder,
        env={**os.environ, **offline, **caches, **environment},
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def check_adapter(home: Path, saved: Path) -> None:
    """The adapter loads with PEFT, has the planned rank, and has learned: B starts as zeros."""
    from peft import PeftModel  # noqa: PLC0415
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(home / "model"), saved)
    learned = {name: value for name, value in model.named_parameters() if "lora_B" in name}
    assert len(learned) == 14, "seven matrices of two layers"
    assert all(value.shape[1] == 16 for value in learned.values())
    assert any(bool(value.any()) for value in learned.values())


def test_trl_trains_what_was_planned(home: Path, tmp_path: Path) -> None:
    found = exported(home, tmp_path, "trl")

    wrote = launch(tmp_path, found, "--attn_implementation", "sdpa", "--use_cpu", "true", "--max_steps", "3")

    assert found.launch == "trl sft --config sft.yaml"
    assert "train_loss" in wrote
    check_adapter(home, tmp_path / "output")


def test_trl_trains_on_pairs(home: Path, tmp_path: Path) -> None:
    found = exported(home, tmp_path, "trl", rows="pairs.jsonl", objective="dpo")

    wrote = launch(tmp_path, found, "--attn_implementation", "sdpa", "--use_cpu", "true", "--max_steps", "2")

    assert found.launch == "trl dpo --config dpo.yaml"
    assert "rewards/margins" in wrote
    check_adapter(home, tmp_path / "output")


def test_trl_trains_on_samples(home: Path, tmp_path: Path) -> None:
    lengths = {"num_generations": 2, "completion_len": 8, "seq_len": 32}
    found = exported(home, tmp_path, "trl", rows="prompts.jsonl", objective="grpo", **lengths)
    reward = "def length(completions, **_):\n    return [float(len(one)) for one in completions]\n"
    (tmp_path / "rewards.py").write_text(reward, encoding="utf-8")

    settings = ("--attn_implementation", "sdpa", "--use_cpu", "true", "--max_steps", "2")
    wrote = launch(tmp_path, found, *settings, "--reward_funcs", "rewards.length")

    assert found.launch == "trl grpo --config grpo.yaml"
    assert "train_loss" in wrote
    assert (tmp_path / "output" / "adapter_model.safetensors").exists()


def test_accelerate_trains_what_was_planned(home: Path, tmp_path: Path) -> None:
    found = exported(home, tmp_path, "accelerate")

    launch(tmp_path, found, "attn_implementation=sdpa", "use_cpu=true", "max_steps=3")

    check_adapter(home, tmp_path / "output")
    state = json.loads((tmp_path / "output" / "checkpoint-3" / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["global_step"] == 3


WITHOUT_A_COMPILER = """\
import sys, types
class Absent:
    NAME = name = "absent"
    def is_compatible(self, verbose=False):
        return False
comm = types.ModuleType("deepspeed.ops.op_builder.cpu.comm")
comm.CCLCommBuilder = comm.ShareMemCommBuilder = Absent
sys.modules[comm.__name__] = comm
"""
"""On a processor DeepSpeed compiles C++ for what ranks of one machine say to each other (a minute, and a compiler);
where that cannot be had gloo carries it, as in ``deepspeed.comm.torch.build_shm_op`` on other systems than Linux."""


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="not installed: deepspeed")
def test_deepspeed_trains_what_was_planned(home: Path, tmp_path: Path) -> None:
    found = exported(home, tmp_path, "deepspeed", sharding="zero2")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WITHOUT_A_COMPILER, encoding="utf-8")
    surroundings = {"DS_ACCELERATOR": "cpu", "PYTHONPATH": str(tmp_path / "site")}

    launch(tmp_path, found, "attn_implementation=sdpa", "use_cpu=true", "max_steps=2", **surroundings)

    check_adapter(home, tmp_path / "output")
    saved = list((tmp_path / "output" / "checkpoint-2").rglob("*_optim_states.pt"))
    assert saved, "ZeRO's own shards of the optimizer"


@pytest.mark.parametrize("overrides", [(), ("dataset_name=null",)])
def test_without_a_dataset_nothing_starts(home: Path, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    """Without a dataset the scripts stop before they load anything, and say what to set."""
    target = "accelerate" if overrides else "trl"
    request = Request(model=str(home / "model"), gpu="4090", methods=("lora",), settings=HELD, stack="")
    found = export(target, request)
    for file in found.files:
        (tmp_path / file.name).write_text(file.text, encoding="utf-8")

    with pytest.raises(AssertionError, match="dataset"):
        launch(tmp_path, found, *(overrides or ("--use_cpu", "true")))
