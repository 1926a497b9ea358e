"""RAM that the ranks of one machine take while they load a model. Bytes in, bytes out."""

from typing import Literal

from planner.formulas.params import expert_params, model_params, outer_params
from planner.spec import ModelSpec

Loading = Literal["every_rank", "first_rank", "checkpoint", "one_by_one"]
"""Who builds the model in RAM: every process, the first of a machine, the first of all from the files alone; or nobody,
since each tensor goes to its card when it is read."""


def loading(*, world_size: int, sharding: str, quantized: bool, to_card: bool) -> Loading:
    """How ``from_pretrained`` loads under a scheme.

    Formula:   quantised: tensor by tensor onto each rank's card; ZeRO-3: the first rank of all reads the files, and all
               partition what it hands out; FSDP: the first rank of each machine; else every process by itself
    Source:    transformers 5.23 modeling_utils.py, _load_pretrained_model (``map_location`` meta on all ranks but the
               first under ZeRO-3), quantizers/quantizer_bnb_4bit.py, update_device_map; accelerate 1.15,
               cpu_ram_efficient_loading, which ``accelerate launch`` turns on for FSDP
    Valid:     ``to_card`` where the trainer passes a device map, as TRL 1.16 does on one card

    >>> loading(world_size=8, sharding="zero2", quantized=False, to_card=True)
    'every_rank'
    """
    if quantized or (world_size == 1 and to_card and sharding == "none"):
        return "one_by_one"
    if sharding == "zero3":
        return "checkpoint"
    return "first_rank" if sharding in ("fsdp", "hsdp") else "every_rank"


def loading_bytes(how: Loading, *, ranks: int, model: int, files: int, largest: int) -> int:
    """RAM that a machine's ranks hold together while they load.

    Shapes:    ``model`` in the dtype that is asked for, ``files`` as published, ``largest`` tensor of them
    Formula:   ranks * model, model, files or ranks * largest
    Source:    see ``loading``
    Valid:     files in the safetensors format, of which only what is read takes RAM
    Excludes:  the page cache, which the system gives back

    >>> loading_bytes("every_rank", ranks=8, model=16_000_000_000, files=16_000_000_000, largest=1_000_000_000)
    128000000000
    """
    if how == "every_rank":
        return ranks * model
    if how == "first_rank":
        return model
    return files if how == "checkpoint" else ranks * largest


def checkpoint_bytes(model: ModelSpec) -> int:
    """Bytes of the published safetensors, which is what a download moves.

    Formula:   width * parameters; low-bit formats store experts (fp8: layers) in theirs and the rest in bf16
    Source:    ``torch_dtype`` of the published config.json; MXFP4 4.25 bits (OCP MX specification 1.0: 8-bit scale per
               32); int4 with a bf16 scale per 32 of compressed-tensors 4.5 bits
    Valid:     repositories without a second copy in another format; 16 bits where nobody says
    Excludes:  towers and layers that the text class does not load; tokenizer

    >>> from planner.catalog import load_model
    >>> round(checkpoint_bytes(load_model("llama-3.1-70b").model) / 1e9)
    141
    """
    params, dtype = model_params(model), model.native_dtype or ""
    if dtype.startswith(("mxfp4", "int4")):
        low = expert_params(model)
        return round(low * (4.25 if dtype == "mxfp4" else 4.5) / 8) + 2 * (params - low)
    if dtype.startswith("float8"):
        outer = outer_params(model)
        return params - outer + 2 * outer
    return (4 if dtype == "float32" else 2) * params
