"""One training job, ready to run: the model as its trainer prepares it, its optimizer, its batch, and its step."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from planner.build.kernels import check_kernels, put_kernels
from planner.build.method import extra_inputs, prepare_base, put_adapters
from planner.build.model import DTYPES, config_of, decoder_layers, empty_model
from planner.build.optimizer import make_optimizer
from planner.build.place import Place, materialise
from planner.build.preference import pairs, part_of, preference_loss
from planner.build.trainer import MAX_GRAD_NORM, Loss, decayed_names, enable_checkpoints, loss_of, wrap_autocast
from planner.errors import UnsupportedScenario
from planner.result import Phase
from planner.spec import Scenario

REFERENCE_PASS = 2

Begin = Callable[[Phase], None]
"""Told when a phase begins."""


@dataclass(slots=True)
class Job:
    """A model with its optimizer; ``held`` is what a caller's variables keep from the last step.

    ``called`` is what the loop calls: the model, or what an engine wrapped around it.
    """

    scenario: Scenario
    model: Any
    called: Any
    optimizer: Any
    loss: Loss
    place: Place
    engine: Any = None
    """DeepSpeed's engine, which runs backward and the update itself."""
    reference: Any = None
    """A second model, which gives reference log probabilities."""
    held: list[Any] = field(default_factory=list)
    at_layer: Callable[[int], AbstractContextManager[Any]] = lambda _number: nullcontext()
    """Under this, somebody who watches takes what happens for a decoder layer's doing."""
    recomputing: bool = False
    """Backward is running, so a layer's forward pass is a recomputation."""
    roll_out: Callable[["Job", Begin], dict[str, Any]] | None = None
    """GRPO's own beginning of a step: completions, and their scores."""
    rollout: dict[str, Any] = field(default_factory=dict)
    """What is left of the last one."""
    passes: int = 0
    """Forward passes of the model in this micro-step: the second is the reference's, where that is its own base."""

    def batch(self, seq_len: int | None = None, sequences: int | None = None) -> dict[str, Any]:
        """What one forward pass takes, (sequences, length) int64: as a collator makes it, or a part of a rollout."""
        train = self.scenario.train
        if train.objective == "grpo":
            return part_of(self.rollout, train.micro_batch_size)
        found = self.texts(seq_len or train.seq_len, sequences or train.sequences)
        return pairs(found, scored=train.reference == "none") if train.objective == "dpo" else found

    def texts(self, length: int, sequences: int) -> dict[str, Any]:
        """Ids, labels and an attention mask of ones."""
        shape = torch.Size((sequences, length))
        names = ("input_ids", "labels", "attention_mask")
        extra = extra_inputs(self.model, shape[0], self.place)
        if not self.place.real:
            return {name: self.place.empty(shape, torch.int64) for name in names} | extra
        ids = torch.randint(0, self.scenario.model.vocab_size, shape, device=self.place.name)
        return {"input_ids": ids, "labels": ids.clone(), "attention_mask": torch.ones_like(ids)} | extra

    def step(self, begin: Begin, seq_len: int | None = None) -> None:
        """One optimizer step: every micro-batch forward and backward, then clipping, update and ``zero_grad``.

        Two micro-batches stand for any larger number: from the second on, gradients are there.
        """
        if self.roll_out is not None:
            self.rollout = self.roll_out(self, begin)
        hooks = [self._tell_last_layer(begin), *self._tell_reference(begin)]
        try:
            if self.scenario.train.grad_accumulation > 1:
                with self._without_reduction():
                    self._micro_step(begin, seq_len, last=False)
            self._micro_step(begin, seq_len, last=True)
        finally:
            for hook in hooks:
                hook.remove()
        begin("optimizer_step")
        self._update()

    def _update(self) -> None:
        if self.engine is not None:
            self.engine.step()  # which clips, and forgets gradients
            return
        if self.scenario.stack.name != "plain":
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRAD_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _micro_step(self, begin: Begin, seq_len: int | None, *, last: bool) -> None:
        begin("forward")
        self.passes = 0
        batch = self.batch(seq_len)
        loss = self.loss(self.called, batch)
        self.held[:] = [loss.__dict__.pop("outputs")] if self.scenario.stack.holds_logits else []
        if self.scenario.train.grad_accumulation > 1:
            loss = loss / self.scenario.train.grad_accumulation
        begin("backward")
        self.recomputing = True
        self._backward(loss, last=last)
        self.recomputing = False

    def _backward(self, loss: Any, *, last: bool) -> None:
        """As the Trainer calls it: DeepSpeed's engine is told by accelerate 1.15 utils/deepspeed.py,
        DeepSpeedEngineWrapper.backward, and does not divide the loss (transformers 5.23 trainer.py, training_step).
        """
        if self.engine is None:
            loss.backward()
        else:
            self.engine.set_gradient_accumulation_boundary(is_boundary=last)
            self.engine.backward(loss, scale_wrt_gas=False)

    @contextmanager
    def _without_reduction(self) -> Iterator[None]:
        """No reduction before the last micro-batch: accelerate 1.15 accelerator.py, no_sync. A bare loop does without.

        Under FSDP2 every rank holds the whole gradients of all parameters until then. DeepSpeed's engine decides for
        itself: transformers 5.23 trainer.py, where sync_context is chosen.
        """
        if self.scenario.stack.name == "plain" or self.engine is not None:
            yield
        elif hasattr(self.called, "set_requires_gradient_sync"):
            self.called.set_requires_gradient_sync(False)
            try:
                yield
            finally:
                self.called.set_requires_gradient_sync(True)
        else:
            with getattr(self.called, "no_sync", nullcontext)():
                yield

    def _tell_last_layer(self, begin: Begin) -> Any:  # a removable handle
        """The loss begins where the last decoder layer has returned, not where it is recomputed."""

        def after(_module: Any, _arguments: Any, _output: Any) -> None:
            if not self.recomputing and self.passes < REFERENCE_PASS:
                begin("loss")

        return decoder_layers(self.model)[-1].register_forward_hook(after)

    def _tell_reference(self, begin: Begin) -> list[Any]:  # removable handles
        """DPO's reference begins where a second model is called, or the model a second time."""
        if self.scenario.train.objective != "dpo":
            return []
        model = self.model if self.reference is None else self.reference

        def before(_module: Any, _arguments: Any) -> None:
            self.passes += 1
            if self.reference is not None or self.passes == REFERENCE_PASS:
                begin("reference")

        def after(_module: Any, _arguments: Any, _output: Any) -> None:
            fused = self.scenario.train.loss == "fused"  # whole logits are scored outside of the model
            if fused and (self.reference is not None or self.passes == REFERENCE_PASS):
                begin("loss")

        return [model.register_forward_pre_hook(before, prepend=True), model.register_forward_hook(after)]


def assemble(
    scenario: Scenario,
    place: Place,
    *,
    attention: str,
    layers: int | None = None,
    adapter: Mapping[str, object] | None = None,
    after_materialising: Callable[[Any], Any] | None = None,
    around_optimizer: Callable[[Any, Any], Any] | None = None,
    around_reference: Callable[[Any], Any] | None = None,
) -> Job:
    """The job of a scenario with its tensors at ``place``, of the first ``layers`` layers when not of all.

    ``after_materialising`` may divide the model's parameters in place before the optimizer sees them, and returns what
    the loop calls: the model, or a wrapper around it. ``around_optimizer`` makes DeepSpeed's engine of both, which
    divides them; ``around_reference`` divides a second model.
    """
    train = scenario.train
    check_kernels(scenario, real=place.real)
    model = _base(scenario, place, attention, layers)
    reference = _reference(scenario, place, attention, layers) if train.reference == "copy" else None
    if train.uses_adapters:
        model = put_adapters(model, scenario, place, adapter)
    put_kernels(model, scenario)
    roll_out = None
    if train.objective == "sft":
        loss = loss_of(model, scenario)
    else:
        loss, roll_out = preference_loss(model, reference, scenario, place.name)
    enable_checkpoints(model, scenario)
    if not train.shards_by_fsdp and around_optimizer is None:  # whose own mixed precision takes its place
        for one in (model, reference) if reference is not None else (model,):
            wrap_autocast(one, scenario, place.name)  # accelerator.py, _prepare_fsdp2 and _prepare_deepspeed
    if reference is not None and around_reference is not None:
        reference = around_reference(reference)
    called = model if after_materialising is None else after_materialising(model)
    optimizer = make_optimizer(train.optimizer, model.named_parameters(), decayed_names(model))
    if around_optimizer is None:
        return Job(scenario, model, called, optimizer, loss, place, reference=reference, roll_out=roll_out)
    engine = around_optimizer(model, optimizer)
    return Job(scenario, model, engine, engine.optimizer, loss, place, engine, roll_out=roll_out)


def _base(scenario: Scenario, place: Place, attention: str, layers: int | None) -> Any:  # an nn.Module
    """The model as it is loaded, and prepared before adapters come."""
    train = scenario.train
    model = empty_model(
        config_of(scenario.model, layers), dtype=train.weights_dtype, attention=attention, buffers=place.real
    )
    model.config.get_text_config().use_cache = False
    prepare_base(model, scenario)
    if train.quantized:
        from planner.build.quantise import materialise_quantised  # noqa: PLC0415  (bitsandbytes only where it is used)

        materialise_quantised(model, place, DTYPES[train.weights_dtype])
    materialise(model, place)
    return model


def _reference(scenario: Scenario, place: Place, attention: str, layers: int | None) -> Any:  # an nn.Module
    """A second model, in evaluation mode; raise ``UnsupportedScenario`` where DeepSpeed would take it."""
    sharding = scenario.train.sharding
    if sharding.startswith("zero"):
        raise UnsupportedScenario(
            f"--reference copy under --sharding {sharding} cannot be traced: use --evidence closed-form"
        )
    train = replace(scenario.train, weights_dtype=scenario.reference_dtype)
    model = _base(replace(scenario, train=train), place, attention, layers)
    put_kernels(model, scenario)
    return model.eval()
