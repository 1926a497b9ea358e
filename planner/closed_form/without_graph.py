"""A forward pass that keeps nothing for a backward pass, and generation: what evaluation, a reference model and GRPO's
completions share.
"""

from dataclasses import replace

from planner.closed_form.loss import head_bytes
from planner.closed_form.step import Step, prepare
from planner.formulas.moments import cached_tokens, key_value_bytes
from planner.result import Memory
from planner.spec import FLOAT_BYTES, Attention, Latent, Scenario, TrainSpec

GREEDY_LOGIT_BYTES = 8
"""Of one logit of a token: as the model gives it, and in fp32. transformers 5.23 generation/utils.py, _sample."""

SAMPLED_LOGIT_BYTES = 16
"""Of one logit where a token is drawn: besides these its probability and a random number, both fp32: the same, and
torch 2.13 native/Distributions.cpp, multinomial."""


def forward_only(scenario: Scenario, **changed: object) -> Step:
    """The scenario's forward pass alone, on another batch: layers save nothing, and nothing is dropped out."""
    train: TrainSpec = replace(scenario.train, gradient_checkpointing=True, lora_dropout=0.0, **changed)  # type: ignore[arg-type]
    return prepare(replace(scenario, train=train))


def largest(*candidates: Memory) -> Memory:
    """The one with the most bytes."""
    return max(candidates, key=lambda memory: memory.total)


def plus(memory: Memory, **extra: int) -> Memory:
    """``memory`` with more bytes of some owners."""
    return memory._replace(**{name: getattr(memory, name) + count for name, count in extra.items()})


def layers(only: Step, before: Memory) -> Memory:
    """The largest instant in a layer: its input and the embeddings are in variables beside it."""
    profile = only.profile
    around = plus(before, activations=2 * only.bytes(profile.stream) - only.narrow_first_input)
    instants = [only.largest(part.forward) for part in profile.layers]
    return largest(*(only.plus(around, instant, extra=profile.autocast_cache) for instant in instants))


def head(only: Step, before: Memory) -> Memory:
    """Final norm, head and loss. TRL's fused head makes no logits."""
    profile = only.profile
    if only.scenario.train.loss == "full":
        return only.plus(before, only.largest(profile.loss.forward), extra=profile.autocast_cache)
    found = head_bytes(only)
    return plus(
        before,
        activations=only.bytes(profile.stream) + found.forward - found.forward_logits - found.gradients,
        logits=found.forward_logits,
    )


# ---------------------------------------------------------------- generation


def past_autocast(train: TrainSpec) -> dict[str, str]:
    """What differs in generation, which calls the model inside PEFT's, past the forward wrapped in autocast."""
    return {"autocast": "none"} if train.uses_adapters else {}


def generated(only: Step, before: Memory, *, prompt: int, tokens: int, logit_bytes: int) -> Memory:
    """The prompt's pass, at whose end the cache holds it in every layer; or the last token's.

    ``only``: the forward pass of the prompts. ``logit_bytes``: of one logit of the token that is chosen.
    """
    model, b = only.scenario.model, only.b
    last = prompt + tokens - 1
    held = [cached_tokens(tokens=last, window=block.attention.window) for block in model.blocks]
    growing = max(_beside_cache(only, block.attention, kept) for block, kept in zip(model.blocks, held, strict=True))
    decoding = plus(
        before,
        activations=cache_bytes(only, last, sliding=True) + growing,
        logits=b * model.vocab_size * logit_bytes,
        temporaries=only.profile.autocast_cache + _head_as_autocast_takes_it(only),
    )
    return largest(layers(only, plus(before, activations=cache_bytes(only, prompt))), decoding)


def _head_as_autocast_takes_it(only: Step) -> int:
    """A 16-bit copy of a head in fp32, where the forward pass runs under autocast."""
    profile = only.profile
    wide = profile.recipe.autocast and profile.head_bytes == FLOAT_BYTES["fp32"]
    return FLOAT_BYTES["bf16"] * only.scenario.model.lm_head.weight_params if wide else 0


def cache_bytes(only: Step, tokens: int, *, sliding: bool = False) -> int:
    """Keys and values of all layers; ``sliding``: windows have been applied."""
    model = only.scenario.model
    return sum(
        count
        * layer_cache_bytes(
            block.attention,
            b=only.b,
            tokens=cached_tokens(tokens=tokens, window=block.attention.window if sliding else None),
            e=_cache_element(only),
        )
        for block, count in zip(model.blocks, model.block_counts, strict=True)
    )


def _beside_cache(only: Step, spec: Attention, tokens: int) -> int:
    """What one token needs of a layer's cache besides it: the old keys or values while they are joined with the new
    ones; or both repeated for every query head; or expanded from latent vectors.
    """
    if spec.latent is not None:
        return only.b * tokens * _expanded_bytes(only, spec, spec.latent)
    cached = layer_cache_bytes(spec, b=only.b, tokens=tokens, e=_cache_element(only))
    repeats = only.scenario.train.attention == "eager" or only.profile.recipe.repeats_kv
    groups = spec.num_attention_heads // spec.num_key_value_heads
    return cached * groups if repeats and groups > 1 else cached // 2


def _expanded_bytes(only: Step, spec: Attention, latent: Latent) -> int:
    """One position's keys and values from its latent vector, expanded for all positions whenever one more token comes.

    The product, the keys joined from two parts, the values padded to their width for FlashAttention; or, with an
    adapter on the product, its branch twice beside it (peft 0.21 tuners/lora/layer.py, Linear.forward).
    """
    recipe, element = only.profile.recipe, _cache_element(only)
    key, product = latent.qk_nope_head_dim + latent.qk_rope_head_dim, latent.qk_nope_head_dim + latent.v_head_dim
    padded = only.scenario.train.attention == "flash" and latent.v_head_dim != key
    expanded = (product + (2 if padded else 1) * key) * element
    adapted = spec.inner[-1].name in recipe.modules
    branch = product * (element + 2 * recipe.adapter_bytes) if adapted else 0
    return spec.num_attention_heads * max(expanded, branch)


def layer_cache_bytes(spec: Attention, *, b: int, tokens: int, e: int) -> int:
    """One layer's cache; latent attention keeps its compressed vectors, as one head.

    transformers 5.23 models/deepseek_v3/modeling_deepseek_v3.py, DeepseekV3Attention.forward.
    """
    latent = spec.latent
    return key_value_bytes(
        b=b,
        tokens=tokens,
        heads=spec.num_key_value_heads if latent is None else 1,
        key_dim=spec.head_dim if latent is None else latent.kv_lora_rank,
        value_dim=spec.head_dim if latent is None else latent.qk_rope_head_dim,
        e=e,
    )


def _cache_element(only: Step) -> int:
    recipe = only.profile.recipe
    return recipe.compute_bytes if recipe.autocast else recipe.stream_bytes
