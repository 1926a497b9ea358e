"""FSDP2 as the Trainer asks Accelerate for it."""

import os
from typing import Any
from unittest.mock import patch

from accelerate.utils import FullyShardedDataParallelPlugin

from planner.spec import TrainSpec


def fsdp_plugin(train: TrainSpec) -> Any:
    """The plugin of ``TrainingArguments(fsdp=True)``: transformers 5.23 training_args.py, _process_fsdp_args.

    Mixed precision follows autocast, with the dtype for parameters, reduction and outputs alike: accelerate 1.15
    state.py, AcceleratorState.__init__, and utils/dataclasses.py, set_mixed_precision. ``--gradient-checkpointing`` is
    the model's own, not the plugin's.
    """
    with patch.dict(os.environ):  # the plugin writes there
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="TRANSFORMER_BASED_WRAP",
            reshard_after_forward=train.reshard_after_forward,
            cpu_ram_efficient_loading=False,
            state_dict_type="FULL_STATE_DICT",
        )
    if train.autocast != "none":
        plugin.set_mixed_precision(train.autocast)
    return plugin


def mixed_precision(train: TrainSpec) -> str:
    """Accelerate's word for what is computed in fewer bits."""
    return "no" if train.autocast == "none" else train.autocast
