"""RAM of one machine: what its ranks keep there while steps run, and what they hold while they load."""

from planner.closed_form.profile import profile_of
from planner.closed_form.step import Step
from planner.formulas.host import checkpoint_bytes, loading, loading_bytes
from planner.formulas.offload import Away, offloaded_activations
from planner.formulas.params import block_params, model_params
from planner.result import Host
from planner.spec import FLOAT_BYTES, SHARDS_WEIGHTS, Scenario

TO_CARD = ("trl",)
"""Stacks that load onto the card of one process: TRL 1.16 trainer/utils.py, create_model_from_path."""

PLACES_QUANTISED = 5
"""The major version of transformers from which quantised weights go to the card whole, also where they are divided
later. 5.23 quantizers/quantizer_bnb_4bit.py, update_device_map."""


def host_of(scenario: Scenario, step: Step) -> Host:
    """Of all ranks of a machine together; ``scenario`` as asked, ``step`` as the engine runs it.

    Paged optimizer states are managed memory, which the driver may move to RAM as a whole.
    """
    ranks = scenario.cluster.gpus
    away = step.shards.away.plus(_activations(step))
    return Host(
        parameters=ranks * away.parameters,
        gradients=ranks * away.gradients,
        optimizer=ranks * (away.optimizer + step.managed),
        activations=ranks * away.activations,
        buffers=ranks * away.buffers,
        load=_load(scenario, ranks),
        pinned=ranks * away.pinned,
        nvme=ranks * away.nvme,
        whole=_whole(scenario),
    )


def _activations(step: Step) -> Away:
    train = step.scenario.train
    if "activations" not in train.offload:
        return Away()
    return offloaded_activations(
        step.bytes(step.profile.all_kept.activations),
        stream=step.bytes(step.profile.stream),
        inputs=step.scenario.model.num_hidden_layers if train.gradient_checkpointing else 0,
        pin=train.pin_memory,
    )


def _whole(scenario: Scenario) -> int:
    """The undivided 4-bit model, where an engine divides what transformers has placed."""
    train, version = scenario.train, scenario.stack.versions.get("transformers", "0")
    placed = int(version.partition(".")[0]) >= PLACES_QUANTISED
    divided = train.quantized and train.sharding in SHARDS_WEIGHTS and placed
    return profile_of(scenario).inventory.weights if divided else 0


def _load(scenario: Scenario, ranks: int) -> int:
    """From the first byte read until the model has left RAM."""
    train, model, cluster = scenario.train, scenario.model, scenario.cluster
    how = loading(
        world_size=cluster.world_size,
        sharding=train.sharding,
        quantized=train.quantized,
        to_card=scenario.stack.name in TO_CARD,
    )
    width = 2 if train.quantized else FLOAT_BYTES[train.weights_dtype]
    tensors = [block_params(block) for block in model.blocks] + [table.params for table in model.embeddings]
    return loading_bytes(
        how,
        ranks=ranks,
        model=width * model_params(model),
        files=checkpoint_bytes(model),
        largest=width * max(tensors),
    )
