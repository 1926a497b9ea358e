"""FSDP's settings, as accelerate's YAML and ``TrainingArguments.fsdp_config`` hold them, of either version.

Names: accelerate 1.15 utils/dataclasses.py, FullyShardedDataParallelPlugin, with or without the prefix ``fsdp_``, and
transformers 5.23 training_args.py, _process_fsdp_args.
"""

from collections.abc import Mapping
from typing import Literal

from planner.configs.keys import Keys, Kind, listed
from planner.recommend.request import Setting

PREFIX = "fsdp_"

STRATEGIES: Mapping[str, str] = {"1": "FULL_SHARD", "2": "SHARD_GRAD_OP", "3": "NO_SHARD", "4": "HYBRID_SHARD"}
"""Numbers for version 1's strategies: accelerate 1.15 utils/constants.py, FSDP_SHARDING_STRATEGY."""

PLANNED: Mapping[str, str] = {"FULL_SHARD": "fsdp", "HYBRID_SHARD": "hsdp"}
"""Version 1's strategies in our words."""

WRAPS = "TRANSFORMER_BASED_WRAP"

IGNORED = listed("""
    transformer_layer_cls_to_wrap transformer_cls_names_to_wrap min_num_params state_dict_type state_dict_config
    optim_state_dict_config cpu_ram_efficient_loading sync_module_states use_orig_params limit_all_gathers
    forward_prefetch backward_prefetch backward_prefetch_policy param_init_fn xla xla_fsdp_v2 xla_fsdp_grad_ckpt
    xla_fsdp_settings
""")

UNMODELLED: Mapping[str, str] = {
    "ignored_modules": "some modules are not sharded",
    "mixed_precision_policy": "it sets dtypes of its own",
    "activation_checkpointing_offload": "checkpoints of layers go to host memory",
}

MATTER = (
    "version", "sharding_strategy", "reshard_after_forward", "offload_params", "cpu_offload", "auto_wrap_policy",
    "activation_checkpointing",
)  # fmt: skip


def is_section(keys: Keys) -> bool:
    """Whether these are FSDP's own keys, without a launcher's."""
    return any(prefix + name in keys for name in (*MATTER, *IGNORED) for prefix in ("", PREFIX))


class Section:
    """Keys that may have a prefix."""

    def __init__(self, keys: Keys) -> None:
        """Of one section."""
        self.keys = keys

    def name(self, bare: str) -> str:
        """The name that stands in the file, else as its others are spelled: all readers know the prefix."""
        if self.keys.peek(bare) is not None:
            return bare
        bares = any(name in self.keys for name in (*MATTER, *IGNORED))
        return bare if bares and self.keys.peek(PREFIX + bare) is None else PREFIX + bare

    def take(self, bare: str, kind: Kind, sets: str, absent: object = None) -> Setting | None:
        """As ``Keys.take``."""
        found: Setting | None = self.keys.take(self.name(bare), kind, sets, absent)
        return found


def fsdp_settings(
    keys: Keys, *, version: Literal[1, 2], wraps: bool, sharding: str = "", offload: bool = False
) -> tuple[dict[str, Setting], Literal[1, 2]]:
    """Settings of a section, and the version of FSDP.

    ``version`` and ``wraps``: where the section is silent, the version and whether layers are units. ``sharding`` and
    ``offload``: what stands outside of it.
    """
    section = Section(keys)
    version = 2 if section.take("version", "whole", "stack", version) == 2 else 1
    found = _strategy_1(section, sharding) if version == 1 else _strategy_2(section, sharding)
    moved = [section.take(name, "flag", "offload", absent=False) for name in ("offload_params", "cpu_offload")]
    if any(moved) or offload:
        found["offload"] = ("optimizer", "parameters")
    if section.take("activation_checkpointing", "flag", "gradient_checkpointing", absent=False):
        found["gradient_checkpointing"] = True
    _units(section, wraps=wraps)
    keys.unmodelled({prefix + name: why for name, why in UNMODELLED.items() for prefix in ("", PREFIX)})
    keys.ignore(*(prefix + name for name in IGNORED for prefix in ("", PREFIX)))
    keys.readings((*MATTER, *(PREFIX + name for name in MATTER)))
    return found, version


def _strategy_2(section: Section, sharding: str) -> dict[str, Setting]:
    """Version 2 knows only whether gathered weights are freed after the forward pass."""
    absent = sharding.lower() != "shard_grad_op"
    reshard = section.take("reshard_after_forward", "flag", "reshard_after_forward", absent)
    section.keys.ignore("sharding_strategy", PREFIX + "sharding_strategy", why="version 2 has none")
    return {"sharding": "fsdp", "reshard_after_forward": bool(reshard)}


def _strategy_1(section: Section, sharding: str) -> dict[str, Setting]:
    """Version 1's strategy; accelerate 1.15 has a default for it, before which reshard_after_forward has no effect."""
    name = section.name("sharding_strategy")
    told = str(section.take("sharding_strategy", "any", "sharding", sharding or "FULL_SHARD")).upper()
    strategy = STRATEGIES.get(told, told)
    if strategy not in PLANNED:
        why = f"of version 1's strategies we model {', '.join(PLANNED)}"
        section.keys.tell(name, "unmodelled", why=why)
    why = "version 1 takes sharding_strategy, FULL_SHARD by default"
    section.keys.ignore("reshard_after_forward", PREFIX + "reshard_after_forward", why=why)
    return {"sharding": PLANNED.get(strategy, "fsdp"), "reshard_after_forward": True}


def _units(section: Section, *, wraps: bool) -> None:
    """Layers are units, or all of the model is one."""
    name = section.name("auto_wrap_policy")
    policy = str(section.take("auto_wrap_policy", "text", "sharding", WRAPS if wraps else "NO_WRAP")).upper()
    if policy != WRAPS:
        section.keys.tell(name, "unmodelled", why=f"units of FSDP are planned as {WRAPS} makes them")
