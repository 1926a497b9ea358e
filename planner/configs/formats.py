"""Whose configuration a file is: told by keys that only that trainer has, and then read by that trainer's module."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass

from planner.configs.document import Document, FileFormat
from planner.configs.understood import Understood
from planner.errors import UnknownName, UsageError


@dataclass(frozen=True, slots=True)
class Format:
    """One trainer's configuration. ``name`` is its module in this folder; ``telling``: keys that speak for it.

    A ``companion`` describes no run by itself: it lies beside a trainer's configuration. ``kinds``: runs that the same
    keys may describe, which the user can name.
    """

    name: str
    title: str
    telling: frozenset[str]
    companion: bool = False
    kinds: tuple[str, ...] = ()
    files: tuple[FileFormat, ...] = ("yaml", "json")
    """What its files are as a rule: the same keys in JSON are a Trainer's, since TRL's parser reads YAML."""
    trains: bool = False
    """Its files hold TrainingArguments, too."""

    def weight(self, document: Document) -> int:
        """How many of the file's keys speak for this format; TrainingArguments do beside a key of its own."""
        own = len(self.telling & document.data.keys()) if document.format in self.files else 0
        return own + len(TRAINING & document.data.keys()) if own and self.trains else own


TRAINING = frozenset(
    {
        "output_dir", "per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing",
        "num_train_epochs", "per_device_eval_batch_size", "lr_scheduler_type",
    }
)  # fmt: skip
"""Keys by which TrainingArguments are told. transformers 5.23 training_args.py."""


def _format(
    name: str,
    title: str,
    telling: str,
    *,
    companion: bool = False,
    kinds: str = "",
    scripts: bool = False,
    trains: bool = False,
) -> Format:
    files: tuple[FileFormat, ...] = ("yaml",) if kinds else ("yaml", "json", *(("python",) if scripts else ()))
    return Format(name, title, frozenset(telling.split()), companion, tuple(kinds.split()), files, trains)


FORMATS = (
    _format(
        "axolotl",
        "axolotl",
        "base_model adapter sequence_len sample_packing micro_batch_size val_set_size lora_target_linear datasets "
        "num_epochs evals_per_epoch saves_per_epoch pad_to_sequence_len plugins fsdp_version dataset_prepared_path",
    ),
    _format(
        "llamafactory",
        "LLaMA-Factory",
        "stage finetuning_type cutoff_len template dataset quantization_bit lora_target overwrite_cache",
        trains=True,
    ),
    _format(
        "trl",
        "TRL",
        "dataset_name use_peft lora_r lora_target_modules max_length packing attn_implementation dtype torch_dtype "
        "max_prompt_length max_completion_length num_generations beta loss_type load_in_4bit trainer",
        kinds="sft dpo grpo",
        trains=True,
    ),
    _format("torchtune", "torchtune", "tokenizer checkpointer model optimizer dataset loss epochs"),
    _format(
        "unsloth",
        "Unsloth",
        "from_pretrained get_peft_model FastVisionModel.from_pretrained data training lora logging",
        scripts=True,
    ),
    _format(
        "transformers",
        "transformers TrainingArguments",
        " ".join(TRAINING),
    ),
    _format(
        "accelerate",
        "accelerate",
        "compute_environment distributed_type num_processes num_machines machine_rank mixed_precision fsdp_config "
        "deepspeed_config fsdp_version fsdp_transformer_layer_cls_to_wrap transformer_layer_cls_to_wrap "
        "auto_wrap_policy reshard_after_forward backward_prefetch cpu_ram_efficient_loading",
        companion=True,
    ),
    _format(
        "deepspeed",
        "DeepSpeed",
        "zero_optimization train_batch_size train_micro_batch_size_per_gpu gradient_accumulation_steps "
        "gradient_clipping steps_per_print zero_allow_untested_optimizer",
        companion=True,
    ),
    _format(
        "peft", "PEFT", "peft_type base_model_name_or_path task_type inference_mode target_modules", companion=True
    ),
)
"""In the order in which they are preferred where as many keys speak for two of them."""

BY_NAME: Mapping[str, Format] = {one.name: one for one in FORMATS}
BY_KIND: Mapping[str, Format] = {kind: one for one in FORMATS for kind in one.kinds}


def format_of(document: Document, named: str | None = None) -> Format:
    """The format of a file, or the one that the user ``named``; raise ``UsageError`` where no key tells."""
    if named is not None:
        if named not in BY_NAME and named not in BY_KIND:
            raise UnknownName("trainer", named, (*BY_NAME, *BY_KIND))
        return BY_NAME.get(named) or BY_KIND[named]
    best = max(FORMATS, key=lambda one: one.weight(document))
    if not best.weight(document):
        known = ", ".join(one.title for one in FORMATS)
        raise UsageError(f"{document.name}: no key tells whose configuration this is; we read those of {known}")
    return best


def read_as(document: Document, form: Format, kind: str | None = None) -> Understood:
    """What the file says, read by its trainer's module, as a run of one ``kind`` where the user named it."""
    read = importlib.import_module(f"planner.configs.{form.name}").read
    found: Understood = read(document, kind) if kind else read(document)
    return found
