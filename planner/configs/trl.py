"""TRL's YAML for ``trl sft|dpo|grpo --config FILE``: TrainingArguments, model and script in one file.

Names: trl 1.16 trainer/sft_config.py, dpo_config.py, grpo_config.py, scripts/utils.py, and what older releases and the
recipes of the alignment handbook and open-r1 had beside them.
"""

from types import MappingProxyType
from typing import Any

from planner.configs import accelerate
from planner.configs.document import Document
from planner.configs.keys import Key, Keys
from planner.configs.model_arguments import MATTER as MODEL_MATTER
from planner.configs.model_arguments import Arguments, model_arguments
from planner.configs.transformers import lengths, liger_in_part, training
from planner.configs.transformers_keys import DATA, LENGTHS
from planner.configs.transformers_keys import MATTER as TRAINING_MATTER
from planner.configs.trl_keys import (
    BESIDE,
    DPO_IGNORED,
    DPO_UNMODELLED,
    GRPO_IGNORED,
    GRPO_UNMODELLED,
    ITERATIONS,
    OTHER_TRAINERS,
    SCRIPT_IGNORED,
    SFT_IGNORED,
    SFT_UNMODELLED,
    SHIPPED,
    TELLS_DPO,
    TELLS_GRPO,
    TELLS_SFT,
)
from planner.configs.trl_write import write
from planner.configs.understood import Understood, with_fallbacks
from planner.errors import UnsupportedScenario
from planner.recommend.request import Setting
from planner.spec import Objective, TrainSpec

__all__ = ["read", "write"]

PROMPT = 512
"""Tokens of a prompt where no file says how long they get: what GRPOConfig cut them to while it did."""

COMPLETION = TrainSpec.completion_len
"""GRPOConfig's own."""

GRPO = (
    Key("num_generations", "num_generations", "whole"),
    Key("max_completion_length", "completion_len", "whole"),
)

MATTER = (
    *TRAINING_MATTER, *MODEL_MATTER, *LENGTHS, "packing", "activation_offloading", "loss_type", "num_generations",
    "max_completion_length", "precompute_ref_log_probs", "beta", "accelerate_config", "num_processes",
)  # fmt: skip

LIGER_PARTS = ("rope", "rms_norm", "swiglu")
"""What TRL leaves of Liger's kernels: its own head takes the place of Liger's. trl 1.16 trainer/sft_trainer.py."""


def read(document: Document, kind: str | None = None) -> Understood:
    """What a file for one of TRL's scripts says; ``kind`` is the script where the user named it."""
    keys = Keys(document)
    objective = _objective(keys, kind)
    arguments = model_arguments(keys)
    trained = training(keys)
    settings = {**arguments.settings, **trained.settings, **_kernels(keys)}
    settings |= READERS[objective](keys, arguments)
    job = {**trained.job, **(_packing(keys) if objective == "sft" else {})}
    _settle(keys, objective)
    started = _started(keys, document)
    notes = [*trained.notes, *started.notes, *_told(keys, objective, kind)]
    return Understood(
        format="trl",
        stack="trl",
        model=arguments.model,
        method=arguments.method,
        settings=with_fallbacks({**started.settings, **settings}, started.fallbacks),
        job=job,
        gpus=started.gpus,
        nodes=started.nodes,
        fsdp=trained.fsdp or started.fsdp,
        files={**trained.files, **started.files},
        readings=keys.readings(MATTER),
        notes=tuple(notes),
    )


# ---------------------------------------------------------------- which trainer


def _objective(keys: Keys, kind: str | None) -> Objective:
    """The trainer of the file: named, or told by a key that only it has."""
    if kind in ("sft", "dpo", "grpo"):
        return kind  # type: ignore[return-value]
    for trainer, names in OTHER_TRAINERS.items():
        if told := next((name for name in names if name in keys), None):
            raise UnsupportedScenario(
                f"{keys.file}: {told} is a key of TRL's {trainer} trainer, whose step is not planned; of TRL we plan "
                "sft, dpo and grpo"
            )
    if any(name in keys for name in TELLS_GRPO):
        return "grpo"
    return "dpo" if any(name in keys for name in TELLS_DPO) else "sft"


def _told(keys: Keys, objective: Objective, kind: str | None) -> list[str]:
    """What was concluded and not said."""
    if objective == "grpo":
        stated = (
            "" if "max_prompt_length" in keys else f"; prompts are planned with {PROMPT} tokens: --seq-len says both"
        )
        return [f"read as trl grpo{stated}"]
    if objective == "dpo" and kind is None:
        return ["read as trl dpo: --trainer sft, dpo or grpo says another"]
    if kind is None and not any(name in keys for name in TELLS_SFT):
        return ["read as trl sft, though no key tells its trainer: --trainer dpo reads it as pairs"]
    return []


# ---------------------------------------------------------------- what each trainer has


def _sft(keys: Keys, _arguments: Arguments) -> dict[str, Setting]:
    found = {**lengths(keys), **_offloading(keys)}
    keys.unmodelled({"loss_type": "another loss than TRL's likelihood"}, off=("nll", "chunked_nll"))
    keys.unmodelled(SFT_UNMODELLED)
    keys.ignore(*SFT_IGNORED)
    return found


def _dpo(keys: Keys, arguments: Arguments) -> dict[str, Setting]:
    """Pairs; the reference is the trainer's own choice unless a key says otherwise."""
    found: dict[str, Setting] = {"objective": "dpo", **lengths(keys), **_offloading(keys)}
    free = [
        keys.take(name, "flag", "reference", absent=False) for name in ("precompute_ref_log_probs", "reference_free")
    ]
    if any(free):
        found["reference"] = "none"
    elif keys.take("force_use_ref_model", "flag", "reference", absent=False) and arguments.method != "full":
        found["reference"] = "copy"
    keys.unmodelled(DPO_UNMODELLED)
    keys.ignore(*DPO_IGNORED)
    return found


def _grpo(keys: Keys, arguments: Arguments) -> dict[str, Setting]:
    """Groups of completions; their prompts are as long as the data has them."""
    found: dict[str, Setting] = {"objective": "grpo", **keys.plain(GRPO)}
    prompt = keys.take("max_prompt_length", "whole", "seq_len", PROMPT)
    found["seq_len"] = prompt + (keys.take("max_completion_length", "whole", "completion_len") or COMPLETION)
    adapted = arguments.method in ("lora", "qlora")
    if keys.take("beta", "number", "reference", 0.0):
        found["reference"] = "base" if adapted else "copy"
    elif "beta" in keys:
        found["reference"] = "none"
    _samples(keys, int(keys.peek("gradient_accumulation_steps") or 1))
    keys.unmodelled(GRPO_UNMODELLED, off=(None, False, 0, 0.0, 1.0, "", "none", [], {}))
    keys.ignore(*GRPO_IGNORED)
    return found


def _samples(keys: Keys, accumulated: int) -> None:
    """Completions are sampled for one optimizer step at a time."""
    if keys.take("steps_per_generation", "whole", "", accumulated) != accumulated:
        keys.tell("steps_per_generation", "unmodelled", why="completions are planned to last for one optimizer step")
    keys.unmodelled({"generation_batch_size": "completions are planned to last for one optimizer step"})
    keys.unmodelled(ITERATIONS, off=(None, 1))


READERS = {"sft": _sft, "dpo": _dpo, "grpo": _grpo}


# ---------------------------------------------------------------- what all of them have


def _packing(keys: Keys) -> dict[str, Any]:
    if keys.take("packing", "flag", "packing", absent=False):
        return {"packing": True}
    return {}


def _offloading(keys: Keys) -> dict[str, Setting]:
    if keys.take("activation_offloading", "flag", "offload", absent=False):
        return {"offload": ("activations",)}
    return {}


def _kernels(keys: Keys) -> dict[str, Setting]:
    """Liger's kernels for layers, by either of the names of the switch."""
    wanted = [keys.take(name, "flag", "kernels", absent=False) for name in ("use_liger_kernel", "use_liger")]
    if not any(wanted):
        keys.ignore("liger_kernel_config", why="it is off")
        return {}
    section = keys.section("liger_kernel_config")
    section.unmodelled({"fused_linear_cross_entropy": "TRL refuses Liger's head beside its own"})
    return {} if liger_in_part(keys, LIGER_PARTS) else {"kernels": "fused"}


def _settle(keys: Keys, objective: Objective) -> None:
    """Keys of scripts, data and of the other trainers."""
    keys.ignore(*DATA, *SCRIPT_IGNORED)
    keys.ignore(*BESIDE[objective], why=f"trl {objective} has no such key")


# ---------------------------------------------------------------- how it is started


def _started(keys: Keys, document: Document) -> Understood:
    """What ``trl`` passes on to ``accelerate launch``: its own name of a configuration, a file, or single options."""
    processes = keys.take("num_processes", "whole", "gpus")
    machines = keys.take("num_machines", "whole", "nodes")
    name = keys.take("accelerate_config", "text", "sharding")
    found = Understood(format="accelerate")
    if name in SHIPPED:
        shipped = Document(path=document.path, data=MappingProxyType(SHIPPED[name]), format="yaml")
        found = accelerate.read(shipped)
        processes = (processes or found.gpus) if found.gpus != 1 else 1
    return Understood(
        format="accelerate",
        settings=found.settings,
        fallbacks=found.fallbacks,
        gpus=processes,
        nodes=machines,
        fsdp=found.fsdp,
        files={"accelerate_config": name} if name and name not in SHIPPED else {},
    )
