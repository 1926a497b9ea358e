"""TRL's own trainers on the CPU, on a tiny model with random weights and a tokenizer made on the spot."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from planner.families import model_from_config
from planner.measure.here import card_of_device, cpu_here
from planner.spec import Cluster, Scenario
from planner.stacks import resolve
from tests.estimators.real import largest_sum

torch: Any = pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")
transformers: Any = pytest.importorskip("transformers")
tokenizers: Any = pytest.importorskip("tokenizers")
datasets: Any = pytest.importorskip("datasets")
peft: Any = pytest.importorskip("peft")
trl: Any = pytest.importorskip("trl")

from planner.build.standing import quantisation_states  # noqa: E402

SEQ_LEN, COMPLETION, GROUP, BATCH = 32, 8, 2, 2

SIZES: Mapping[str, object] = MappingProxyType(
    {
        "hidden_size": 128,
        "intermediate_size": 320,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
)

ARGUMENTS: Mapping[str, Any] = MappingProxyType(
    {
        "per_device_train_batch_size": BATCH,
        "max_steps": 2,
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "optim": "adamw_torch",
    }
)


class Measured(NamedTuple):
    """Bytes of a trainer's second step: what stands through it, its gradients, and the most that it allocates."""

    weights: int
    reference: int
    gradients: int
    optimizer: int
    above: int


def folder_of(path: Path) -> Path:
    """A model and a tokenizer as a trainer loads them."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{number}": number for number in range(3, 512)}}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w3"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(path)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model("llama", **SIZES))
    model.save_pretrained(path)
    return path


def scenario_of(method: str, **settings: object) -> Scenario:
    """The same job as a scenario on this processor."""
    model = model_from_config({**SIZES, "model_type": "llama"}, name="tiny")
    chosen = {
        "seq_len": SEQ_LEN,
        "micro_batch_size": BATCH,
        "lora_rank": 4,
        "optimizer": "adamw_foreach",
        "weights_dtype": "fp32",
        "autocast": "none",
        "attention": "sdpa",
        **settings,
    }
    return resolve(model, Cluster(gpu=card_of_device(cpu_here())), method, chosen)  # type: ignore[arg-type]


def dpo_trainer(path: Path, method: str, **arguments: object) -> Any:
    """A ``DPOTrainer`` on pairs of full length."""
    words = " ".join(f"w{number}" for number in range(3, 3 + SEQ_LEN // 2))
    row = dict.fromkeys(("prompt", "chosen", "rejected"), words)
    given = {**ARGUMENTS, "max_length": SEQ_LEN, "model_init_kwargs": FP32, **arguments}
    return trl.DPOTrainer(
        model=str(path),
        args=trl.DPOConfig(output_dir=str(path / "out"), **given),
        train_dataset=datasets.Dataset.from_list([row] * 8),
        peft_config=_lora(method),
        quantization_config=_four_bits() if method == "qlora" else None,
    )


def grpo_trainer(path: Path, method: str, **arguments: object) -> Any:
    """A ``GRPOTrainer`` whose completions never end early."""
    prompt = " ".join(f"w{number}" for number in range(3, 3 + SEQ_LEN - COMPLETION))
    given = {
        **ARGUMENTS,
        "num_generations": GROUP,
        "max_completion_length": COMPLETION,
        "generation_kwargs": {"min_new_tokens": COMPLETION},
        "model_init_kwargs": FP32,
        **arguments,
    }
    return trl.GRPOTrainer(
        model=str(path),
        reward_funcs=lambda completions, **_: [float(len(one)) for one in completions],
        args=trl.GRPOConfig(output_dir=str(path / "out"), **given),
        train_dataset=datasets.Dataset.from_list([{"prompt": prompt}] * 8),
        peft_config=_lora(method),
    )


FP32 = {"dtype": "float32"}
BF16 = {"dtype": "bfloat16"}


def _four_bits() -> Any:
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _lora(method: str) -> Any:
    if method == "full":
        return None
    return peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")


def measured(trainer: Any) -> Measured:
    """Two steps of a trainer, the second under the profiler."""
    found: dict[str, int] = {}
    step = trainer.training_step

    def watched(model: Any, inputs: Any, *arguments: Any) -> Any:
        if trainer.state.global_step == 0:
            return step(model, inputs, *arguments)
        found["optimizer"] = sum(
            tensor.nbytes
            for state in trainer.optimizer.optimizer.state.values()
            for tensor in state.values()
            if tensor.ndim
        )
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
            loss = step(model, inputs, *arguments)
        found["above"] = largest_sum(profiler)
        found["gradients"] = sum(one.grad.nbytes for one in model.parameters() if one.grad is not None)
        return loss

    trainer.training_step = watched
    trainer.train()
    second = trainer.ref_model
    return Measured(
        weights=sum(one.nbytes for one in trainer.model.parameters())
        + sum(scales.nbytes for _, scales in quantisation_states(trainer.model)),
        reference=0 if second is None else sum(one.nbytes for one in second.parameters()),
        gradients=found["gradients"],
        optimizer=found["optimizer"],
        above=found["above"],
    )
