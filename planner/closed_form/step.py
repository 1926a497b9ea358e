"""What every phase of one scenario needs: the profile, and the states as this rank holds them."""

from fractions import Fraction
from typing import NamedTuple

from planner.closed_form.profile import Profile, profile_of
from planner.closed_form.rank import Shards
from planner.closed_form.reference import reference_of
from planner.closed_form.shards import shard_states
from planner.formulas.overhead import cublas_workspace
from planner.formulas.preference import ID_BYTES, rollout_bytes
from planner.formulas.states import dequantized_bytes
from planner.formulas.tape import Instant, Size
from planner.result import Memory
from planner.spec import Scenario, TrainSpec

NOTHING = Fraction(0)

INPUT_BYTES = 3 * 8
"""Per token: input ids, labels and attention mask as int64. transformers DataCollator."""


class Step(NamedTuple):
    """One scenario, ready for its phases."""

    scenario: Scenario
    profile: Profile
    shards: Shards
    b: int
    s: int
    workspace: int
    """Buffers of libraries that stay: cuBLAS', and the one into which Unsloth dequantises."""
    inputs: int
    """Batch, rotary tables and mask: alive through the whole step."""
    front: int
    """What stands before the first layer: a dropout mask, inputs of norms (BLOOM) and of projections (OPT-350m)."""
    narrow_first_input: int
    """What the first layer's input lacks: embeddings stay 16-bit under a stream that fp32 norms widen."""
    held_logits: int
    """Logits in outputs that a caller keeps; a head without logits returns none."""
    held_stream: int
    """The embedding's output and its gradient: a leaf under checkpoints, held by outputs that a caller keeps."""
    reference: int = 0
    """A second model, which gives reference log probabilities."""
    beside: int = 0
    """What other micro-batches in a pipeline keep for their backward pass."""

    @property
    def managed(self) -> int:
        """Paged optimizer states: managed memory, outside the allocator."""
        return self.shards.managed

    def static(self, *, gradients: int = 0, held: bool = False) -> Memory:
        """What is there before any activation, with ``gradients`` bytes made and what the caller has ``held``."""
        return Memory(
            weights=self.shards.weights + self.reference,
            adapters=self.shards.adapters,
            gradients=gradients,
            optimizer=self.shards.optimizer,
            activations=self.inputs + (self.held_stream if held else 0),
            temporaries=self.workspace + self.shards.standing,
        )

    @property
    def recomputed_output(self) -> int:
        """A recomputed layer's output, which reentrant checkpoints keep through its backward."""
        kept = self.scenario.train.gradient_checkpointing and self.scenario.stack.reentrant_checkpoint
        return self.bytes(self.profile.stream) if kept else 0

    def bytes(self, size: Size) -> int:
        """A size at this batch."""
        return size.bytes(b=self.b, s=self.s)

    def largest(self, instants: tuple[Instant, ...]) -> Instant:
        """The instant with the most bytes at this batch."""
        if len(instants) == 1:
            return instants[0]
        return max(instants, key=lambda instant: instant.total.bytes(b=self.b, s=self.s) + instant.weight_grad)

    def plus(self, memory: Memory, instant: Instant, *, extra: int = 0) -> Memory:
        """``memory`` and an instant, with ``extra`` bytes of temporaries."""
        b, s = self.b, self.s
        return Memory(  # no ``_replace``, which takes three times as long: this is asked for a dozen times a step
            memory.weights,
            memory.adapters,
            memory.gradients,
            memory.optimizer,
            memory.activations + instant.activations.bytes(b=b, s=s),
            memory.logits + instant.logits.bytes(b=b, s=s),
            memory.temporaries + instant.temporaries.bytes(b=b, s=s) + extra,
        )


def with_buffers(memory: Memory, count: int) -> Memory:
    """``memory`` with bytes of temporaries that stand beside it."""
    return memory._replace(temporaries=memory.temporaries + count)


def prepare(scenario: Scenario, beside: Fraction = NOTHING) -> Step:
    """The step of one rank's scenario, with as many other micro-batches in flight."""
    step = _prepared(scenario)
    return step._replace(beside=int(beside * _kept(step))) if beside else step


def _kept(step: Step) -> int:
    """What one micro-batch keeps from its forward to its backward pass, loss and head left out."""
    kept = step.profile.all_kept
    layers = step.bytes(kept.activations) + step.bytes(kept.logits) + step.bytes(kept.temporaries)
    if step.scenario.train.gradient_checkpointing:
        layers += step.scenario.model.num_hidden_layers * step.bytes(step.profile.stream) - step.narrow_first_input
    return layers + step.front + INPUT_BYTES * step.b * step.s


def _prepared(scenario: Scenario) -> Step:
    profile = profile_of(scenario)
    train, gpu = scenario.train, scenario.cluster.gpu
    b, s = train.sequences, train.seq_len
    stream = profile.stream.bytes(b=b, s=s)
    return Step(
        scenario=scenario,
        profile=profile,
        shards=shard_states(scenario, profile),
        b=b,
        s=s,
        workspace=(0 if gpu.is_cpu else cublas_workspace(gpu.compute_capability)) + _dequantizing(profile),
        inputs=_input_bytes(scenario, profile),
        front=_front_bytes(scenario, profile, stream),
        narrow_first_input=stream // 2 if train.quantized and scenario.stack.kbit_upcast == "norms" else 0,
        held_logits=profile.held_logits.bytes(b=b, s=s) if train.loss == "full" else 0,
        held_stream=_held_stream(scenario, stream),
        reference=reference_of(scenario).standing_weights if train.reference == "copy" else 0,
    )


def _dequantizing(profile: Profile) -> int:
    """The buffer for the largest dequantised matrix, where it stays.

    unsloth 2026.10 kernels/utils.py, WEIGHT_BUFFERS and ABSMAX_BUFFERS.
    """
    recipe, largest = profile.recipe, profile.inventory.largest_matrix
    if not recipe.keeps_dequantized or recipe.quant not in ("nf4", "fp4"):
        return 0
    return dequantized_bytes(largest, recipe.compute_bytes, nested=True)


def _front_bytes(scenario: Scenario, profile: Profile, stream: int) -> int:
    model, tokens, recipe = scenario.model, scenario.train.tokens, profile.recipe
    mask = model.hidden_size * tokens // recipe.ranks.sequence if model.embedding_dropout > 0 else 0
    norms = len(model.extra_norms) * (stream + 8 * tokens)
    narrow = sum(linear.d_in for linear in model.extra_linears if linear.d_out == model.hidden_size)
    return mask + norms + (narrow * tokens * recipe.stream_bytes if recipe.full else 0)


def _held_stream(scenario: Scenario, stream: int) -> int:
    train = scenario.train
    held = scenario.stack.holds_logits and train.uses_adapters and train.gradient_checkpointing
    return 2 * stream if held else 0


def _input_bytes(scenario: Scenario, profile: Profile) -> int:
    return INPUT_BYTES * scenario.train.tokens + tables_of(scenario, profile) + _asked_besides(scenario.train)


def tables_of(scenario: Scenario, profile: Profile) -> int:
    """Rotary tables and the mask of eager attention: every forward pass makes its own."""
    train = scenario.train
    attention = scenario.model.blocks[0].attention
    rotary = (
        0 if attention.rope == "none" else 2 * (attention.rope_dim or attention.head_dim) * profile.recipe.stream_bytes
    )
    mask = profile.recipe.compute_bytes * train.tokens * train.seq_len if train.attention == "eager" else 0
    return rotary * train.seq_len + mask


def _asked_besides(train: TrainSpec) -> int:
    """DPO's labels, made of ids and a mask of completions; what GRPO keeps of its rollout."""
    if train.objective == "grpo":
        return kept_of_rollout(train)
    return ID_BYTES * train.tokens if train.objective == "dpo" else 0


def kept_of_rollout(train: TrainSpec) -> int:
    """What GRPO's trainer keeps of a rollout."""
    return rollout_bytes(
        rows=train.rollout_sequences,
        s=train.seq_len,
        completion=train.completion_len,
        referred=train.reference != "none",
    )
