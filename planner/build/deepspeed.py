"""DeepSpeed's engine around a job, prepared by Accelerate's code with the configuration that the Trainer makes.

Under the Trainer the configuration is a file whose ``auto`` values transformers fills in. ``zero_buckets = "auto"``
stands for one in which the three keys that follow the hidden size are ``auto``, as transformers' documentation writes
them; ``"deepspeed"`` for one that leaves them out, as ``accelerate config`` writes it. Everything else is DeepSpeed's
default. The optimizer is the Trainer's own (``zero_allow_untested_optimizer``), not one of DeepSpeed's.

DeepSpeed casts the model to the 16-bit dtype and keeps fp32 masters of what is trained; there is no autocast.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

from planner.build.trainer import MAX_GRAD_NORM
from planner.errors import UnsupportedScenario
from planner.spec import Scenario

AUTO = {
    1: ("reduce_bucket_size",),
    2: ("reduce_bucket_size",),
    3: ("reduce_bucket_size", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold"),
}
"""Keys that transformers fills in from the hidden size. transformers 5.23 integrations/deepspeed.py,
HfTrainerDeepSpeedConfig.trainer_config_finalize."""


def stage_of(scenario: Scenario) -> int:
    """1, 2 or 3."""
    return int(scenario.train.sharding.removeprefix("zero"))


def settings_of(scenario: Scenario) -> dict[str, Any]:
    """The configuration as a user writes it, ``auto`` values and all."""
    train, stage = scenario.train, stage_of(scenario)
    zero: dict[str, Any] = {"stage": stage}
    if train.zero_buckets == "auto":
        zero |= dict.fromkeys(AUTO[stage], "auto")
    if train.takes_turns:
        zero["overlap_comm"] = True
    sizes = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    return {"zero_optimization": zero, "bf16": {"enabled": "auto"}, **dict.fromkeys(sizes, "auto")}


def filled(scenario: Scenario, model: Any) -> Any:
    """The configuration with the values that transformers puts in the place of every ``auto``."""
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig  # noqa: PLC0415  (it asks for deepspeed)

    arguments = _arguments(scenario)
    config = HfTrainerDeepSpeedConfig(settings_of(scenario))
    config.trainer_config_process(arguments)
    config.trainer_config_finalize(arguments, model, num_training_steps=1)
    return config


def _arguments(scenario: Scenario) -> Any:
    """As much of ``TrainingArguments`` as goes into the configuration."""
    train = scenario.train
    return SimpleNamespace(
        world_size=scenario.cluster.world_size,
        per_device_train_batch_size=train.micro_batch_size,
        gradient_accumulation_steps=train.grad_accumulation,
        max_grad_norm=MAX_GRAD_NORM,
        learning_rate=None,
        adam_beta1=None,
        adam_beta2=None,
        adam_epsilon=None,
        weight_decay=None,
        save_on_each_node=False,
        fp16=False,
        fp16_full_eval=False,
        bf16=train.autocast == "bf16",
        bf16_full_eval=False,
        get_warmup_steps=lambda _steps: 0,
    )


def check_engine(scenario: Scenario) -> None:
    """Raise ``UnsupportedScenario`` for what DeepSpeed does not do, or what is not built here."""
    train = scenario.train
    instead = "use --evidence closed-form"
    if train.autocast == "fp16":
        raise UnsupportedScenario("loss scaling of fp16 under DeepSpeed cannot be traced: use --autocast bf16")
    if train.autocast == "none" and train.weights_dtype != "fp32":
        raise UnsupportedScenario("DeepSpeed takes 16-bit weights only with mixed precision: use --autocast bf16")
    if train.optimizer == "muon":
        raise UnsupportedScenario(f"Muon under DeepSpeed is another optimizer, which cannot be traced: {instead}")


def engine_of(scenario: Scenario, model: Any, optimizer: Any) -> Any:
    """``deepspeed.initialize`` as ``Accelerator.prepare`` calls it: accelerate 1.15 accelerator.py, _prepare_deepspeed.

    The stand-in is as much of an ``Accelerator`` as the method asks for. A process group has to be there.
    """
    from accelerate import Accelerator  # noqa: PLC0415  (its DeepSpeed half needs deepspeed)
    from accelerate import optimizer as wrappers  # noqa: PLC0415
    from accelerate.utils import DeepSpeedPlugin, DynamoBackend  # noqa: PLC0415

    with ExitStack() as stack:
        stack.enter_context(on_cpu())
        config = filled(scenario, model)
        stack.enter_context(patch.object(wrappers, "AcceleratorState", SimpleNamespace))
        plugin = DeepSpeedPlugin(hf_ds_config=config)
        stand_in = SimpleNamespace(
            fp8_backend=None,
            deepspeed_plugin=plugin,
            parallelism_config=None,
            split_batches=False,
            num_processes=scenario.cluster.world_size,
            gradient_accumulation_steps=scenario.train.grad_accumulation,
            device=torch.device("cpu"),
            state=SimpleNamespace(dynamo_plugin=SimpleNamespace(backend=DynamoBackend.NO)),
            deepspeed_engine_wrapped=None,
            _models=[],
            _optimizers=[],
            _schedulers=[],
        )
        return Accelerator._prepare_deepspeed(stand_in, model, optimizer)[0]


@contextmanager
def on_cpu() -> Iterator[None]:
    """DeepSpeed believes that the processor is its device, and that a launcher started this process.

    It reads its device from the environment where nothing is set (accelerator/real_accelerator.py, get_accelerator),
    and a rank's number in ZeRO-3 (runtime/zero/utils.py). On the processor it compiles a kernel for collectives in
    shared memory (comm/torch.py, build_shm_op), which is left out.
    """
    import torch.distributed as dist  # noqa: PLC0415  (only for several ranks)

    rank = str(dist.get_rank())
    with patch.dict(os.environ):
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", str(dist.get_world_size()))):
            os.environ.setdefault(name, value)
        import_module("deepspeed")
        with patch.object(sys.modules["deepspeed.comm.torch"], "build_shm_op", lambda: None):
            yield
