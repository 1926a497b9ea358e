"""Writes a run as a script for Unsloth: its loader, its adapters, and TRL's trainer, which it patches."""

import json
from collections.abc import Iterable, Iterator

from planner.configs.hf_write import (
    MISSING_DATASET,
    dataset_file,
    flash_setup,
    recipe_lines,
    refuse,
    rendezvous,
)
from planner.configs.script import Expression
from planner.configs.transformers_keys import TRAINING
from planner.configs.unsloth_keys import CHECKPOINTS, OF_ADAPTERS
from planner.configs.written import Chosen, File, Line, Written, comments
from planner.errors import UnsupportedScenario
from planner.spec import TrainSpec

FILE = "train.py"
DTYPES = {"bf16": "torch.bfloat16", "fp16": "torch.float16", "fp32": "torch.float32"}
SEED = 3407
"""Of Unsloth's own scripts."""

PACKAGES = ("unsloth", "trl", "transformers", "torch", "peft", "accelerate", "bitsandbytes")


def write(chosen: Chosen) -> Written:
    """``train.py`` and its launch; raise ``UnsupportedScenario`` for what Unsloth does not do."""
    refuse(chosen, "unsloth")
    _refuse(chosen.train)
    cluster = chosen.scenario.cluster
    return Written(
        files=(File(FILE, "\n".join(_lines(chosen)) + "\n"),),
        configs=(FILE,),
        launch=_launch(chosen),
        setup=flash_setup(chosen),
        gpus=chosen.gpus,
        nodes=cluster.nodes,
        packages=PACKAGES,
    )


def _launch(chosen: Chosen) -> str:
    if chosen.gpus == 1:
        return f"python {FILE}"
    return " ".join(["torchrun", "--nproc_per_node", str(chosen.scenario.cluster.gpus), *rendezvous(chosen), FILE])


def _refuse(train: TrainSpec) -> None:
    if train.objective != "sft":
        raise UnsupportedScenario(f"unsloth cannot express --objective {train.objective}: plan export trl can")
    if train.autocast == "none":
        raise UnsupportedScenario("unsloth cannot express --autocast none: its trainers always switch one on")
    if train.gradient_checkpointing and set(train.offload) not in ({"activations"}, set()):
        raise UnsupportedScenario(f"unsloth cannot express --offload {','.join(train.offload)}: activations alone")
    if not train.gradient_checkpointing and train.offload:
        raise UnsupportedScenario("unsloth cannot express --offload without checkpoints: --gradient-checkpointing")


# ---------------------------------------------------------------- the script


def _lines(chosen: Chosen) -> Iterator[str]:
    yield from comments(chosen.heading)
    yield "from unsloth import FastLanguageModel  # before the others: it patches them"
    yield ""
    yield "import torch"
    yield "from datasets import load_dataset"
    yield "from trl import SFTConfig, SFTTrainer"
    yield ""
    yield from _call("model, tokenizer = FastLanguageModel.from_pretrained", _loader(chosen))
    if chosen.train.uses_adapters:
        yield from _call("model = FastLanguageModel.get_peft_model", _adapters(chosen.train), first="model")
    yield from _dataset(chosen)
    yield from _call("config = SFTConfig", _config(chosen))
    yield "trainer = SFTTrainer(model=model, processing_class=tokenizer, train_dataset=dataset, args=config)"
    yield "trainer.train()"
    yield 'model.save_pretrained("output")'


def _call(target: str, lines: Iterable[Line], first: str = "") -> Iterator[str]:
    yield f"{target}("
    if first:
        yield f"    {first},"
    for line in lines:
        yield f"    {line.key}={_literal(line.value)}," + (f"  # {line.why}" if line.why else "")
    yield ")"


def _literal(value: object) -> str:
    """A value as Python has it, with double quotes; what is an expression already stays."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, str) and not isinstance(value, Expression):
        return json.dumps(value, ensure_ascii=False)
    return str(value) if isinstance(value, str) else repr(value)


def _loader(chosen: Chosen) -> Iterator[Line]:
    train = chosen.train
    yield Line("model_name", chosen.model)
    yield Line("max_seq_length", train.seq_len, "tokens of a sequence; longer ones are cut")
    yield Line("dtype", Expression(DTYPES[train.weights_dtype]))
    yield Line("load_in_4bit", train.quantized and train.quant != "int8")
    if train.quantized and train.quant == "int8":
        yield Line("load_in_8bit", True)
    if train.method == "lora":
        yield Line("load_in_16bit", True)
    if not train.uses_adapters:
        yield Line("full_finetuning", True)
        yield Line("float32_mixed_precision", train.weights_dtype == "fp32", "weights in fp32, computing in 16 bits")
    yield _checkpoints(train)


def _checkpoints(train: TrainSpec) -> Line:
    wanted = (train.gradient_checkpointing, tuple(train.offload))
    word = next(theirs for theirs, ours in CHECKPOINTS.items() if ours == wanted)
    if word is True:
        return Line("use_gradient_checkpointing", True, "layer inputs stay on the card")
    return Line("use_gradient_checkpointing", word, "layer inputs wait in RAM" if word else "layers keep all")


def _adapters(train: TrainSpec) -> Iterator[Line]:
    for key in OF_ADAPTERS:
        value = getattr(train, key.setting)
        if value != ():
            yield Line(key.name, key.write(value))
    names = list(train.lora_targets)
    yield Line("target_modules", names[0] if names == ["all-linear"] else names)
    yield Line("bias", "none")
    yield _checkpoints(train)
    yield Line("random_state", SEED)


def _dataset(chosen: Chosen) -> Iterator[str]:
    file = dataset_file(chosen)
    if file is not None:
        yield f'dataset = load_dataset("{file[0]}", data_files={_literal(file[1])}, split="train")'
    elif chosen.dataset:
        yield f'dataset = load_dataset({_literal(chosen.dataset)}, split="train")'
    else:
        yield f'dataset = load_dataset("...", split="train")  # {MISSING_DATASET}'


REASONS = {
    "per_device_train_batch_size": "sequences on one card at a time",
    "gradient_accumulation_steps": "micro-batches before each update",
}


def _config(chosen: Chosen) -> Iterator[Line]:
    train = chosen.train
    keys = {key.name: key for key in TRAINING}
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps", "optim"):
        yield Line(name, keys[name].write(getattr(train, keys[name].setting)), REASONS.get(name, ""))
    yield Line("bf16", train.autocast == "bf16")
    yield Line("fp16", train.autocast == "fp16")
    yield Line("max_length", train.seq_len)
    yield Line("packing", chosen.job.packing)
    yield from recipe_lines(chosen)
    if chosen.gpus > 1:
        yield Line("ddp_find_unused_parameters", False)
    yield Line("logging_steps", 1)
    yield Line("seed", SEED)
    yield Line("report_to", "none")
    yield Line("output_dir", "output")
