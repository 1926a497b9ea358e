"""``plan measure --model M``: a few real steps on the device that is here, beside their prediction."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from planner.catalog import load_model
from planner.cli.files import check_target
from planner.cli.options import Values, integer, size
from planner.cli.output import check_format, note, stop
from planner.cli.progress import Progress
from planner.cli.remember import remember
from planner.cli.request import build_request
from planner.cli.show import show
from planner.errors import EXIT_BUG, EXIT_FITS, EXIT_INTERRUPTED, EXIT_NOTHING_FITS, UsageError, option
from planner.errors import show as shown
from planner.hardware import list_gpus, load_gpu
from planner.measure import Device, Measurement, compare, look, measure, predict
from planner.measure.cases import fits
from planner.measure.child import Line
from planner.measure.here import (
    as_it_can_run,
    card_of_device,
    check_cap,
    check_devices,
    check_flash,
    check_libraries,
    check_measurable,
    check_snapshot,
    may_have_gpu,
)
from planner.measure.recording import closed_form, record_of
from planner.measure.room import check_room, check_weights
from planner.measure.run import STEPS, TIMEOUT_SECONDS, WARMUP
from planner.measure.truncation import Extrapolation, depth_of, measure_truncated
from planner.measure.values import Outcome, peak_comparison
from planner.planning import as_installed
from planner.recommend.candidates import scenario as scenario_of
from planner.recommend.request import Ask, Request, cluster_of
from planner.records import Record
from planner.render.extrapolated import depth_document, depth_sheet
from planner.render.measured import Measured, measured_document, measured_sheets
from planner.render.sheet import Sheet
from planner.spec import Gpu, Scenario
from planner.stacks import newer_versions
from planner.trace.lengths import plan_steps, read_lengths

LOCAL, AUTO = "local", "auto"
MOST_STEPS, MOST_SECONDS = 1000, 7 * 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How a run is taken; ``lengths`` are those of its steps, one each, where they differ.

    ``auto``: of a model that is too large, as many layers as the planner chooses.
    """

    steps: int
    warmup: int
    timeout: int
    layers: int | None
    lengths: tuple[int, ...]
    cap_bytes: int | None
    snapshot: str | None
    auto: bool = False


class Asked(NamedTuple):
    """What is to run, how, on which device, and what the reader must know."""

    scenario: Scenario
    run: Run
    device: Device
    notes: tuple[str, ...]


def main(values: Values) -> int:
    """Measure one scenario, search a limit, or run a matrix; the exit code says how it ended."""
    _refuse_stray(values)
    if values["matrix"] is not None:
        from planner.cli.matrices import run_matrix  # noqa: PLC0415  (it builds on this module)

        return run_matrix(values)
    if values["find_max_batch"] or values["find_max_seq"]:
        from planner.cli.limits import run_search  # noqa: PLC0415  (it builds on this module)

        return run_search(values)
    return _run_steps(values)


OF_ANOTHER: Mapping[str, tuple[str, ...]] = {
    "matrix": ("out", "budget", "retry", "anchors"),
    "find_max_seq": ("seq_step",),
}
"""Options that say nothing without the one that they belong to."""


def _refuse_stray(values: Values) -> None:
    for owner, names in OF_ANOTHER.items():
        for name in names:
            if values[name] not in (None, False) and not values[owner]:
                of = option(owner)
                raise UsageError(f"{option(name)} belongs to {of}, which is not there: leave it out, or add {of}")


def _run_steps(values: Values) -> int:
    format_name = check_format(values["format"])
    with interruptible(), Progress() as progress:
        result, depths = _measured(values, progress)
    remember(values, _records(result, depths))
    show(format_name, lambda: _sheets(result, depths), lambda: _document(result, depths))
    return exit_code(result.measurement.outcome)


@contextmanager
def interruptible() -> Iterator[None]:
    """An interrupt is one line, and takes the child along."""
    try:
        yield
    except KeyboardInterrupt:
        stop("interrupted: the run was ended and nothing is left of it", EXIT_INTERRUPTED)
        raise


def _records(result: Measured, depths: Extrapolation | None) -> list[Record]:
    """What really ran: of a model that is too large, its depths."""
    if depths is None:
        return [record_of(result.measurement, result.prediction, result.closed)]
    return [record_of(run, None, closed_form(run)) for run in depths.runs]


def _sheets(result: Measured, depths: Extrapolation | None) -> list[Sheet]:
    return [*([depth_sheet(depths)] if depths else []), *measured_sheets(result)]


def _document(result: Measured, depths: Extrapolation | None) -> dict[str, object]:
    return {**measured_document(result), "extrapolation": depth_document(depths) if depths else None}


def asked(values: Values, progress: Progress) -> Asked:
    """Look at the device and resolve what is asked of it; what cannot run here is refused before it starts."""
    request = as_installed(
        build_request({**values, "gpu": values["gpu"] or LOCAL, "evidence": "traced"}, command="plan measure")
    )
    run = run_of(values)
    device = device_here(progress)
    scenario, notes = _scenario(request, device)
    if run.lengths:
        scenario = replace(scenario, train=replace(scenario.train, seq_len=max(run.lengths)))
    check(scenario, device, run, exact="=" in str(values["stack"]))
    return Asked(scenario, run, device, notes)


def device_here(progress: Progress) -> Device:
    """The device that will run; that a driver is here and torch uses no card of its is told before anything fails."""
    progress("looking for a device")
    device = look()
    if device.kind == "cpu" and may_have_gpu():
        progress.clear()
        note("a GPU's driver is here, but torch uses no GPU, so the processor runs: plan doctor looks for the reason")
    return device


def _measured(values: Values, progress: Progress) -> tuple[Measured, Extrapolation | None]:
    """Look, predict, measure; of a model that is too large the depths that fit, where that is asked for."""
    scenario, run, device, notes = asked(values, progress)
    depths = None
    if run.auto and fits(scenario, device, run.cap_bytes) is False:
        depths = measure_truncated(
            depth_of(scenario),
            lambda layers: fits(scenario, device, run.cap_bytes, layers) is not False,
            lambda layers: take(scenario, run, device, progress, layers),
            lambda layers: predict(scenario, device.kind, layers=layers, lengths=run.lengths),
        )
    progress("tracing the step")
    prediction = predict(scenario, device.kind, layers=run.layers, lengths=run.lengths)
    if depths is not None:
        found, notes = depths.whole, (NOTHING_RAN_WHOLE, *notes)
    else:
        if device.kind == "cpu":
            layers = run.layers or scenario.model.num_hidden_layers
            check_room(prediction.peak_bytes, layers, scenario.cluster.world_size)
        found = take(scenario, run, device, progress, run.layers)
        notes = (*([ALL_FITS] if run.auto else []), *notes)
    rows = compare(prediction, found)
    peak = peak_comparison(rows)
    closed = closed_form(found)
    return Measured(measurement=found, prediction=prediction, rows=rows, peak=peak, notes=notes, closed=closed), depths


NOTHING_RAN_WHOLE = "The model did not run whole: what stands under measured is extrapolated from its first layers."
ALL_FITS = "The model fits, so that all of its layers were measured."


def take(scenario: Scenario, run: Run, device: Device, progress: Progress, layers: int | None = None) -> Measurement:
    """The real steps of the first ``layers`` layers, or of all."""
    progress("starting" if layers is None else f"starting with {layers} layers")
    found = measure(
        scenario,
        device.kind,
        steps=run.steps,
        warmup=run.warmup,
        layers=layers,
        lengths=run.lengths,
        timeout=run.timeout,
        cap_bytes=run.cap_bytes,
        snapshot=run.snapshot,
        tell=_telling(progress, run.steps),
    )
    return replace(found, device=found.device or device)


def run_of(values: Values) -> Run:
    """How the run is to be taken; raise ``PlannerError`` in one line for what has no meaning."""
    timeout = _number(values, "timeout", TIMEOUT_SECONDS, MOST_SECONDS)
    lengths = _lengths(values)
    steps = len(lengths) or _number(values, "steps", STEPS, MOST_STEPS)
    warmup = min(WARMUP, steps - 1) if values["warmup"] is None else integer("--warmup", values["warmup"])
    if warmup < 0:
        raise UsageError(f"--warmup {warmup} is below 0")
    if warmup >= steps:
        raise UsageError(f"--warmup {warmup} leaves none of {steps} steps: take more of them with --steps")
    auto = (values["layers"] or "").strip().lower() == AUTO
    if auto and values["snapshot"] is not None:
        raise UsageError("--snapshot is of one run, and --layers auto takes several: name the depth with --layers N")
    return Run(
        steps=steps,
        warmup=warmup,
        timeout=timeout,
        auto=auto,
        layers=None if auto or values["layers"] is None else integer("--layers", values["layers"]),
        lengths=lengths,
        cap_bytes=_cap(values["cap"]),
        snapshot=_snapshot(values["snapshot"]),
    )


def _lengths(values: Values) -> tuple[int, ...]:
    """The longest first, then those of the file in its order, as the trace takes them; of these the first ``--steps``.

    Where there are very many different ones, both round them up to the same few.
    """
    if values["lengths"] is None:
        return ()
    found = plan_steps(read_lengths(values["lengths"]))
    every = (found.recorded[0], *(found.recorded[place] for place in found.order))
    steps = _number(values, "steps", len(every), MOST_STEPS)
    if steps > len(every):
        raise UsageError(
            f"--steps {steps}: {shown(values['lengths'])} has {len(every) - 1} lengths, and one comes twice"
        )
    return every[:steps]


def _cap(text: str | None) -> int | None:
    count = None if text is None else size("--cap", text)
    if count == 0:
        raise UsageError("--cap 0 leaves no memory: name the size of a card, as in --cap 24GiB")
    return count


def _snapshot(text: str | None) -> str | None:
    """An absolute path, since a child writes there; refused before the run where it cannot."""
    if text is None:
        return None
    check_target("--snapshot", text)
    return str(Path(text).expanduser().absolute())


def check(scenario: Scenario, device: Device, run: Run, *, exact: bool) -> None:
    """Refuse before anything starts what cannot run here."""
    check_measurable(scenario, run.layers)
    check_devices(device, scenario.cluster.world_size)
    check_libraries(scenario, exact=exact)
    check_flash(device, scenario)
    check_cap(device, run.cap_bytes, scenario.cluster.world_size)
    check_snapshot(device, run.snapshot, scenario.cluster.world_size)
    if device.kind == "cpu" and run.layers is None and not run.auto:
        check_weights(scenario)


def _telling(progress: Progress, steps: int) -> Callable[[Line], None]:
    """Shows where the child is."""

    def tell(line: Line) -> None:
        if line["event"] == "begin" and not line.get("rank"):
            where = "loading" if line["phase"] == "load" else f"step {line['step'] + 1} of {steps}: {line['phase']}"
            progress(where.replace("_", " "))

    return tell


def _scenario(request: Request, device: Device) -> tuple[Scenario, tuple[str, ...]]:
    """The one scenario that is asked for, on the card that is named or here, and what the reader must know."""
    if len(request.methods) > 1:
        raise UsageError(f"plan measure runs one method, not {' and '.join(request.methods)}: name one --method")
    notes = [] if request.methods else ["No --method was named: this is lora."]
    resolved = load_model(request.model, opaque=True)
    card, about = _card(request, device)
    ask = Ask(request=replace(request, gpu=card.id), model=resolved.model, cluster=cluster_of(request, card))
    notes += [one for one in (resolved.line, *resolved.model.notes, about, *newer_versions(request.stack)) if one]
    wanted = scenario_of(ask, request.methods[0] if request.methods else "lora")
    scenario = as_it_can_run(wanted, device, request.settings)
    if scenario is not wanted:
        notes.append("flash-attn is not installed here: measured and predicted with --attention sdpa.")
    return scenario, tuple(notes)


def _card(request: Request, device: Device) -> tuple[Gpu, str]:
    if request.gpu.strip().lower() == LOCAL:
        return card_of_device(device, list_gpus(request.profiles_dir) if device.kind == "cuda" else ()), ""
    named = load_gpu(request.gpu, request.profiles_dir)
    if device.kind == "cpu":
        about = f"No CUDA device is here: measured and predicted on the CPU, not on {named.name}."
        return card_of_device(device), about
    return named, ""


def _number(values: Values, name: str, default: float, most: int) -> int:
    text = values[name]
    count = int(default) if text is None else integer(f"--{name}", text)
    if not 1 <= count <= most:
        raise UsageError(f"--{name} {count} is outside 1 to {most}")
    return count


def exit_code(outcome: Outcome) -> int:
    """0 measured, 4 out of memory, 1 for any other end."""
    if outcome == "done":
        return EXIT_FITS
    return EXIT_NOTHING_FITS if outcome == "out_of_memory" else EXIT_BUG
