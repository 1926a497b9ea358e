"""Trains what a file of arguments says: transformers' Trainer, and PEFT's adapters where they are asked for.

Called as: train.py training_args.json [NAME=VALUE ...]; values on the command line stand before those of the file.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from datasets import load_dataset
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    DataCollatorForSeq2Seq,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
)


@dataclass
class Arguments:
    """What TrainingArguments have no names for."""

    model_name_or_path: str
    max_length: int
    dtype: str
    attn_implementation: str
    dataset_name: str | None = None
    data_files: str | None = None
    use_peft: bool = False
    lora_r: int = 16
    lora_alpha: float = 32.0
    lora_dropout: float = 0.0
    lora_target_modules: list[str] | None = None
    lora_modules_to_save: list[str] | None = None
    use_rslora: bool = False
    load_in_4bit: bool = False
    load_in_8bit: bool = False
    bnb_4bit_quant_type: str = "nf4"
    use_bnb_nested_quant: bool = False
    bnb_4bit_quant_storage: str = "uint8"


def arguments(argv: list[str]) -> tuple[Arguments, TrainingArguments]:
    """The file's values, and those of the command line over them."""
    path, *words = [word for word in argv if not word.startswith("--")]  # those are the launcher's own
    with open(path, encoding="utf-8") as file:
        values = json.load(file)
    for word in words:
        name, _, value = word.partition("=")
        try:
            values[name] = json.loads(value)
        except json.JSONDecodeError:
            values[name] = value
    args, training = HfArgumentParser((Arguments, TrainingArguments)).parse_dict(values)
    return args, training


def load_model(args: Arguments, training: TrainingArguments) -> Any:
    """The model in its dtype, or quantised."""
    dtype = getattr(torch, args.dtype)
    quantized = args.load_in_4bit or args.load_in_8bit
    config = BitsAndBytesConfig(
        load_in_4bit=args.load_in_4bit,
        load_in_8bit=args.load_in_8bit,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_type=args.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=args.use_bnb_nested_quant,
        bnb_4bit_quant_storage=getattr(torch, args.bnb_4bit_quant_storage),
    )
    model = AutoModelForCausalLM.from_pretrained(
        args.model_name_or_path,
        dtype=dtype,
        attn_implementation=args.attn_implementation,
        quantization_config=config if quantized else None,
    )
    model.config.use_cache = False
    return adapted(model, args, training) if args.use_peft else model


def adapted(model: Any, args: Arguments, training: TrainingArguments) -> Any:
    """The model with LoRA; a quantised one is prepared as PEFT advises."""
    kwargs = training.gradient_checkpointing_kwargs or {}
    if args.load_in_4bit or args.load_in_8bit:
        model = prepare_model_for_kbit_training(
            model,
            use_gradient_checkpointing=training.gradient_checkpointing,
            gradient_checkpointing_kwargs=kwargs,
        )
    elif training.gradient_checkpointing and kwargs.get("use_reentrant"):
        model.enable_input_require_grads()
    targets = args.lora_target_modules
    return get_peft_model(
        model,
        LoraConfig(
            task_type="CAUSAL_LM",
            r=args.lora_r,
            lora_alpha=args.lora_alpha,
            lora_dropout=args.lora_dropout,
            target_modules=targets[0] if targets and targets == ["all-linear"] else targets,
            modules_to_save=args.lora_modules_to_save,
            use_rslora=args.use_rslora,
        ),
    )


def tokenized(row: Mapping[str, Any], tokenizer: Any, length: int) -> dict[str, list[int]]:
    """Token ids of a conversation, a prompt with its completion, or a text; all of them bear loss."""
    if "messages" in row:
        ids = tokenizer(tokenizer.apply_chat_template(row["messages"], tokenize=False), add_special_tokens=False)
    else:
        text = row["text"] if "text" in row else row["prompt"] + row["completion"]
        ids = tokenizer(text + (tokenizer.eos_token or ""))
    ids = ids["input_ids"][:length]
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": list(ids)}


def main() -> None:
    """Load, train, save."""
    args, training = arguments(sys.argv[1:])
    if not args.dataset_name:
        raise SystemExit("dataset_name is not set: name a dataset in training_args.json")
    tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    data = load_dataset(args.dataset_name, data_files=args.data_files)
    data = data.map(lambda row: tokenized(row, tokenizer, args.max_length), remove_columns=data["train"].column_names)
    trainer = Trainer(
        model=load_model(args, training),
        args=training,
        train_dataset=data["train"],
        eval_dataset=data["test"] if training.eval_strategy != "no" else None,
        data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True, label_pad_token_id=-100),
        processing_class=tokenizer,
    )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.save_model(training.output_dir)


if __name__ == "__main__":
    main()
