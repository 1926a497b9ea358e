"""One recorded run: the job on fake tensors, two optimizer steps, every storage with its owner."""

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, NamedTuple

import torch

from planner.allocator.events import OUTSIDE, Trace
from planner.build.job import Job, assemble
from planner.build.method import adapter_parameters, loose_adapters, refusing
from planner.build.model import decoder_layers, is_quantised
from planner.build.moments import run_moment
from planner.build.quiet import quiet
from planner.build.standing import quantisation_states, states_of
from planner.errors import PlannerError, UnsupportedScenario, UsageError, first_line
from planner.result import Parameters
from planner.spec import Scenario
from planner.trace.engine import Engine
from planner.trace.fake import copied_like_real_ones, fake_mode, fake_place
from planner.trace.places import layer_numbers
from planner.trace.recorder import Recorder, storage_of
from planner.trace.semantics import Semantics
from planner.trace.sharded import engine
from planner.trace.standins import Answers
from planner.trace.told import tell

STEPS = 2
"""The first allocates the optimizer's states; the second is what every further one looks like."""


class Run(NamedTuple):
    """What was recorded, and how many parameters each layer has (``OUTSIDE``: all that stands outside layers)."""

    trace: Trace
    parameters: Mapping[int, Parameters]
    managed_bytes: Mapping[int, int]


def record(
    scenario: Scenario,
    semantics: Semantics,
    *,
    layers: int | None = None,
    adapter: Mapping[str, object] | None = None,
    lengths: tuple[int, ...] = (),
    rank: int = 0,
) -> Run:
    """Run two steps (one for each of ``lengths``) of the first ``layers`` layers, or of all, and the moments after.

    ``rank`` says which of the scenario's ranks this is.
    """
    if lengths:
        _refuse_lengths(scenario)
    steps = lengths or (scenario.train.seq_len,) * STEPS
    mode = fake_mode()
    with quiet(), quiet_collector(), semantics.patched(), engine(scenario, mode, rank) as sharding:
        job = assemble(
            scenario,
            fake_place(mode, host=semantics.host),
            attention=semantics.attention,
            layers=layers,
            adapter=adapter,
            after_materialising=sharding.wrap,
            around_optimizer=sharding.around,
            around_reference=sharding.second,
        )
        recorder = recorder_of(semantics, job, len(steps))
        seed(recorder, job)
        sharding.seed(recorder, job)
        with naming_the_culprit(recorder, scenario), mode, recorder, watched(recorder, job, sharding):
            take_steps(recorder, job, adapter, steps)
            managed = recorder.elsewhere(semantics.managed(job.optimizer))
            take_moments(recorder, job, adapter)
    return Run(recorder.ledger.trace(), parameters_by_layer(job), managed)


def _refuse_lengths(scenario: Scenario) -> None:
    """Raise ``UsageError`` for what is planned for batches of one length only."""
    if scenario.train.moments:
        raise UsageError("--moments are planned for batches of one length: leave out --lengths")
    if scenario.train.objective == "grpo":
        raise UsageError("GRPO's sequences have one length, prompt and completion: leave out --lengths")


def recorder_of(semantics: Semantics, job: Job, steps: int) -> Recorder:
    """The recorder of a job, which hears of the job's layers and tells how far it has come."""
    recorder = Recorder(
        hidden=semantics.hidden,
        kept=semantics.kept,
        answer=Answers(selected_by_masks(job.scenario)),
        logit_widths=logit_widths(job.scenario),
    )
    depth = len(decoder_layers(job.model))
    recorder.tell = lambda: tell(recorder.phase, recorder.step, steps, recorder.layer, depth)
    job.at_layer = recorder.inside
    return recorder


@contextmanager
def watched(recorder: Recorder, job: Job, sharding: Engine) -> Iterator[None]:
    """The recorder knows which layer and module are at work, and what becomes a gradient."""
    with ExitStack() as stack:
        stack.enter_context(sharding.watched(recorder, job))
        stack.enter_context(watch_layers(recorder, job))
        if job.engine is None:  # which moves them about, and says itself what it keeps
            stack.enter_context(watch_gradients(recorder, job))
        stack.enter_context(watch_modules(recorder, job))
        yield


@contextmanager
def hooked(handles: Iterable[Any]) -> Iterator[None]:
    """Hooks that have been registered, until this ends."""
    standing = [*handles]
    try:
        yield
    finally:
        for handle in standing:
            handle.remove()


def take_steps(recorder: Recorder, job: Job, adapter: Mapping[str, object] | None, lengths: Sequence[int]) -> None:
    """One optimizer step of each length."""
    for number, length in enumerate(lengths):
        recorder.step = number
        with refusing(adapter, job.scenario):
            job.step(recorder.begin, length)
        label_states(recorder, job)
        if job.engine is None and job.scenario.train.shards_by_fsdp:
            label_parts(recorder, job)


def take_moments(recorder: Recorder, job: Job, adapter: Mapping[str, object] | None) -> None:
    """What the scenario asks for besides its steps."""
    for moment in job.scenario.train.moments:
        with refusing(adapter, job.scenario), copied_like_real_ones():
            run_moment(moment, job, recorder.begin)
        label(recorder, job)
        label_states(recorder, job)


@contextmanager
def naming_the_culprit(recorder: Recorder, scenario: Scenario) -> Iterator[None]:
    """What the libraries cannot do on fake tensors is refused by the operator and the module at fault."""
    try:
        yield
    except PlannerError:
        raise
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        where = f" in {recorder.sites[-1]}" if recorder.sites else ""
        raise UnsupportedScenario(
            f"{scenario.model.name} cannot be traced: {recorder.operator}{where}: {first_line(error)}"
        ) from error


@contextmanager
def quiet_collector() -> Iterator[None]:
    """No garbage collection by chance: what is released when must not depend on what ran before."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def selected_by_masks(scenario: Scenario) -> Mapping[int, int]:
    """GRPO's labels are those of completions. trl 1.16 trainer/utils.py, _fused_forward: the last position has none."""
    train = scenario.train
    if train.objective != "grpo":
        return {}
    return {train.sequences * (train.seq_len - 1): train.scored_tokens}


def logit_widths(scenario: Scenario) -> frozenset[int]:
    """Last dimensions by which logits are known: the vocabulary, and the tiles of TRL's head."""
    vocabulary = scenario.model.vocab_size
    widths = {vocabulary}
    if scenario.train.loss == "fused" and scenario.stack.fused_loss == "trl":
        from trl.trainer import utils  # noqa: PLC0415  (present where this loss is)

        tile = utils._CHUNKED_LOGPROB_CHUNK_SIZE
        widths |= {tile, vocabulary % tile or tile}
    return frozenset(widths)


# ---------------------------------------------------------------- owners


def seed(recorder: Recorder, job: Job) -> None:
    """What stands before the first step: weights, adapters, buffers."""
    recorder.ledger.mark("load", 0)
    adapters = adapter_parameters(job.model)
    for model in models_of(job):
        places = layer_numbers(model)
        standing = [*model.named_parameters(), *model.named_buffers(), *loose_adapters(model)]
        for name, tensor in [*standing, *quantisation_states(model)]:
            owner = "adapters" if model is job.model and name in adapters else "weights"
            if not recorder.knows(tensor):
                recorder.add(storage_of(tensor), owner, name, places(name))


def models_of(job: Job) -> tuple[Any, ...]:
    """The model, and a second one that gives reference log probabilities."""
    return (job.model,) if job.reference is None else (job.model, job.reference)


def label_states(recorder: Recorder, job: Job) -> None:
    """Say that what the optimizer keeps is its own, in the layers of what it trains."""
    for parameter, states in states_of(job.optimizer):
        recorder.relabel(states, "optimizer", like=parameter)


def label_parts(recorder: Recorder, job: Job) -> None:
    """Say whose the parts are that FSDP2 makes anew, as long as the first rank's, before its first forward pass."""
    adapters = adapter_parameters(job.model)
    for name, parameter in job.model.named_parameters():
        recorder.relabel([parameter], "adapters" if name in adapters else "weights")


def label(recorder: Recorder, job: Job) -> None:
    """Say whose the tensors are that a moment put in the place of others."""
    adapters = adapter_parameters(job.model)
    for name, parameter in job.model.named_parameters():
        if name in adapters:
            recorder.relabel([parameter], "adapters")
    for _, tensor in quantisation_states(job.model):
        recorder.relabel([tensor], "weights")
    for module in job.model.modules():
        if is_quantised(module):
            recorder.relabel([module.weight], "weights")


def watch_gradients(recorder: Recorder, job: Job) -> AbstractContextManager[None]:
    """A storage that becomes a ``.grad`` was a gradient from the start."""
    return hooked(
        parameter.register_post_accumulate_grad_hook(lambda p: recorder.relabel([p.grad], "gradients", like=p))
        for parameter in job.model.parameters()
        if parameter.requires_grad
    )


# ---------------------------------------------------------------- sites


def watch_modules(recorder: Recorder, job: Job) -> AbstractContextManager[None]:
    """Tell the recorder which module is computing; in backward none is, but where a layer is recomputed."""
    handles = []
    for name, module in (found for model in models_of(job) for found in model.named_modules()):
        if name:
            handles.append(module.register_forward_pre_hook(_begun(recorder, name)))
            handles.append(module.register_forward_hook(_done(recorder), always_call=True))
    return hooked(handles)


def _begun(recorder: Recorder, name: str) -> Any:
    return lambda _module, _arguments: recorder.sites.append(name)


def _done(recorder: Recorder) -> Any:
    return lambda _module, _arguments, _output: recorder.sites.pop() and None


# ---------------------------------------------------------------- layers


def watch_layers(recorder: Recorder, job: Job) -> AbstractContextManager[None]:
    """Tell the recorder which decoder layer is at work: forward, recomputed, and backward.

    The hooks enclose those of a sharding engine, so that what a layer gathers and reduces counts as the layer's.
    """
    handles = []
    for number, layer in (found for model in models_of(job) for found in enumerate(decoder_layers(model))):
        handles.append(layer.register_forward_pre_hook(_entering(recorder, number), prepend=True, with_kwargs=True))
        handles.append(layer.register_forward_hook(_awaiting_gradient(recorder, number), prepend=True))
        handles.append(layer.register_forward_hook(_leaving(recorder)))
    return hooked(handles)


def _entering(recorder: Recorder, number: int) -> Any:
    def enter(_module: Any, arguments: Any, keywords: Any) -> None:
        hidden = arguments[0] if arguments else keywords.get("hidden_states")
        if number == 0 and isinstance(hidden, torch.Tensor) and hidden.requires_grad and recorder.phase != "backward":
            hidden.register_hook(lambda _gradient: recorder.enter_layer(OUTSIDE))
        recorder.enter_layer(number)

    return enter


def _awaiting_gradient(recorder: Recorder, number: int) -> Any:
    """Backward reaches a layer through its output's gradient."""

    def watch(_module: Any, _arguments: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple | list) else output
        if recorder.phase != "backward" and isinstance(hidden, torch.Tensor) and hidden.requires_grad:
            hidden.register_hook(lambda _gradient: recorder.enter_layer(number))

    return watch


def _leaving(recorder: Recorder) -> Any:
    """After forward the next layer, or none, is at work."""

    def leave(_module: Any, _arguments: Any, _output: Any) -> None:
        if recorder.phase != "backward":
            recorder.enter_layer(OUTSIDE)

    return leave


# ---------------------------------------------------------------- counts


def parameters_by_layer(job: Job) -> dict[int, Parameters]:
    """Per layer: total of the base, trained, and stored in 4 or 8 bits; packed matrices count their entries."""
    adapters, place = adapter_parameters(job.model), layer_numbers(job.model)
    packed = {id(m.weight): m.in_features * m.out_features for m in job.model.modules() if is_quantised(m)}
    found: dict[int, Parameters] = {}
    for name, parameter in job.model.named_parameters():
        quantised = packed.get(id(parameter), 0)
        base = 0 if name in adapters else quantised or parameter.numel()
        trained = parameter.numel() if parameter.requires_grad else 0
        so_far = found.get(place(name), Parameters(0, 0, 0))
        found[place(name)] = Parameters(*map(sum, zip(so_far, (base, trained, quantised), strict=True)))
    return found
