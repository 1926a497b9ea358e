"""Phase ``load``: the model and its adapters reach the device."""

from planner.closed_form.step import Step
from planner.result import Memory
from planner.spec import ModelSpec


def load_phase(step: Step) -> Memory:
    """Weights, adapters and a second model; while quantising, the 16-bit original of the largest tensor beside them.

    To 8 bits a stack of experts goes from an fp16 copy: axolotl 0.19 monkeypatch/moe_quant.py, replace_parameter_8bit.
    """
    inventory, train = step.profile.inventory, step.scenario.train
    stack = 2 * inventory.largest_stack
    if joins_experts(step.scenario.model) or train.quant == "int8":
        stack *= 2
    original = max(2 * inventory.largest_matrix, stack)
    return Memory(weights=step.shards.weights + step.reference, adapters=step.shards.adapters, temporaries=original)


def joins_experts(model: ModelSpec) -> bool:
    """Whether a checkpoint has the matrices of experts one by one: gate and up, each a stack, lie beside both as one.

    transformers 5.23 core_model_loading.py, MergeModulelist and Concatenate, on the device.
    """
    return any(block.experts.linear_names for block in model.blocks if block.experts)
