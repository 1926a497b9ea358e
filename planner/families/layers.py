"""Which layers of a model are of which kind: sliding windows, layers without rotation, sparse layers.

Each rule restates the ``__post_init__`` of the family's configuration class in transformers 5.23.
"""

from collections.abc import Callable

from planner.families.fields import POSITION_LIMIT, Fields
from planner.families.style import Kind, LayerRule

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"


def window_of(fields: Fields, name: str = "sliding_window") -> int | None:
    """Width of the attention window, if there is one."""
    return fields.optional_size(name, limit=POSITION_LIMIT)


def windowed(fields: Fields, layers: int) -> tuple[Kind, ...]:
    """Every layer slides when ``sliding_window`` is set (Mistral, Mixtral, Phi-3, StarCoder2)."""
    return (Kind(window=window_of(fields)),) * layers


def switched(fields: Fields, layers: int) -> tuple[Kind, ...]:
    """As ``windowed``, behind ``use_sliding_window`` (Qwen3-MoE)."""
    return (Kind(window=window_of(fields) if fields.flag("use_sliding_window") else None),) * layers


def types(fields: Fields, layers: int, default: Callable[[int], bool]) -> tuple[bool, ...]:
    """Whether each layer slides: ``layer_types`` where the file has it, else the family's rule."""
    given = fields.items("layer_types", length=layers, allowed=(FULL, SLIDING))
    if given is not None:
        return tuple(kind == SLIDING for kind in given)
    return tuple(default(index) for index in range(layers))


def alternating(period: int | str) -> LayerRule:
    """Every ``period``-th layer attends to everything, the others slide (Gemma 2 and 3, OLMo 3, gpt-oss)."""

    def rule(fields: Fields, layers: int) -> tuple[Kind, ...]:
        every = period if isinstance(period, int) else fields.size(period)
        window = window_of(fields)
        sliding = types(fields, layers, lambda index: (index + 1) % every != 0)
        return tuple(Kind(window=window if slides else None) for slides in sliding)

    return rule


def late_windows(fields: Fields, layers: int) -> tuple[Kind, ...]:
    """Layers from ``max_window_layers`` on slide when ``use_sliding_window`` is on (Qwen2, Qwen3)."""
    window = window_of(fields) if fields.flag("use_sliding_window") else None
    first = fields.optional_size("max_window_layers", least=0) or 0
    sliding = types(fields, layers, lambda index: window is not None and index >= first)
    return tuple(Kind(window=window if slides else None) for slides in sliding)


def cohere2(fields: Fields, layers: int) -> tuple[Kind, ...]:
    """Sliding layers rotate, the others do not."""
    kinds = alternating("sliding_window_pattern")(fields, layers)
    return tuple(kind._replace(rotates=kind.window is not None) for kind in kinds)


def exaone4(fields: Fields, layers: int) -> tuple[Kind, ...]:
    """A hybrid of sliding layers that rotate and full ones that do not, or full layers that all rotate."""
    window = window_of(fields)
    if window is None:
        return tuple(Kind() for _ in types(fields, layers, lambda index: False))
    pattern = fields.value("sliding_window_pattern")
    every = len(pattern) if isinstance(pattern, str) and pattern else fields.size("sliding_window_pattern")
    sliding = types(fields, layers, lambda index: (index + 1) % every != 0)
    return tuple(Kind(window=window if slides else None, rotates=slides) for slides in sliding)


def rotating(fields: Fields, layers: int) -> tuple[bool, ...]:
    """Whether each layer rotates: ``no_rope_layers`` (1 means it does), else all but every n-th."""
    given = fields.items("no_rope_layers", length=layers, allowed=(0, 1)) if fields.value("no_rope_layers") else None
    if given is not None:
        return tuple(bool(entry) for entry in given)
    every = fields.size("no_rope_layer_interval")
    return tuple((index + 1) % every != 0 for index in range(layers))


def smollm3(fields: Fields, layers: int) -> tuple[Kind, ...]:
    """Every fourth layer has no rotation; those slide when a window is switched on."""
    window = window_of(fields) if fields.flag("use_sliding_window") else None
    turns = rotating(fields, layers)
    sliding = types(fields, layers, lambda index: window is not None and not turns[index])
    return tuple(
        Kind(window=window if slides else None, rotates=turn) for slides, turn in zip(sliding, turns, strict=True)
    )


def llama4(fields: Fields, layers: int) -> tuple[Kind, ...]:
    """Rotating layers attend within chunks; every ``interleave_moe_layer_step``-th layer holds experts."""
    turns = rotating(fields, layers)
    given = fields.items("layer_types", length=layers, allowed=(FULL, CHUNKED))
    chunked = tuple(kind == CHUNKED for kind in given) if given is not None else turns
    sparse = fields.indices("moe_layers", length=layers)
    if sparse is None:
        step = fields.size("interleave_moe_layer_step")
        sparse = tuple(range(step - 1, layers, step))
    chunk = window_of(fields, "attention_chunk_size")
    return tuple(
        Kind(window=chunk if chunked[index] else None, rotates=turns[index], sparse=index in sparse)
        for index in range(layers)
    )


def sparse_layers(base: LayerRule, is_sparse: Callable[[Fields, int], Callable[[int], bool]]) -> LayerRule:
    """Add to ``base`` which layers hold experts."""

    def rule(fields: Fields, layers: int) -> tuple[Kind, ...]:
        holds = is_sparse(fields, layers)
        return tuple(kind._replace(sparse=holds(index)) for index, kind in enumerate(base(fields, layers)))

    return rule


def everywhere(fields: Fields, layers: int) -> Callable[[int], bool]:
    """Every layer holds experts."""
    return lambda index: True


def after_first(fields: Fields, layers: int) -> Callable[[int], bool]:
    """The first ``first_k_dense_replace`` layers are dense (DeepSeek, GLM)."""
    dense = fields.optional_size("first_k_dense_replace", least=0) or 0
    return lambda index: index >= dense


def by_type(fields: Fields, layers: int) -> Callable[[int], bool]:
    """``mlp_layer_types`` where the file has it, else all but the first layer (GLM-4 MoE Lite)."""
    given = fields.items("mlp_layer_types", length=layers, allowed=("dense", "sparse"))
    return lambda index: given[index] == "sparse" if given else index > 0


def by_step(fields: Fields, layers: int) -> Callable[[int], bool]:
    """Every ``decoder_sparse_step``-th layer that is not listed in ``mlp_only_layers`` (Qwen)."""
    step = fields.size("decoder_sparse_step")
    dense = fields.indices("mlp_only_layers", length=layers) or ()
    return lambda index: index not in dense and (index + 1) % step == 0


def by_range(fields: Fields, layers: int) -> Callable[[int], bool]:
    """Every n-th layer between a first and a last one (ERNIE)."""
    step = fields.size("moe_layer_interval")
    first = fields.optional_size("moe_layer_start_index", least=0) or 0
    last = fields.optional_size("moe_layer_end_index", least=-1)
    end = layers - 1 if last in (None, -1) else last or 0
    return lambda index: (index + 1) % step == 0 and first <= index <= end
