"""``plan measure --model M``: a few real steps on the device that is here, beside their prediction."""

from dataclasses import replace

from planner.catalog import load_model
from planner.cli.options import Values, integer
from planner.cli.output import check_format, stop
from planner.cli.progress import Progress
from planner.cli.request import build_request
from planner.cli.show import show
from planner.errors import EXIT_BUG, EXIT_FITS, EXIT_NOTHING_FITS, UsageError
from planner.hardware import load_gpu
from planner.measure import Device, Measurement, compare, look, measure, predict
from planner.measure.child import Line
from planner.measure.here import card_of_device, check_libraries, check_measurable
from planner.measure.room import check_room, check_weights
from planner.measure.run import STEPS, TIMEOUT_SECONDS
from planner.measure.values import peak_comparison
from planner.recommend.candidates import scenario as scenario_of
from planner.recommend.request import Ask, Request
from planner.render.measured import Measured, measured_document, measured_sheet
from planner.spec import Cluster, Gpu, Scenario

LOCAL = "local"
EXIT_INTERRUPTED = 130
"""128 and the number of SIGINT, as shells say it."""
MOST_STEPS, MOST_SECONDS = 1000, 7 * 24 * 3600


def main(values: Values) -> int:
    """Measure one scenario; the exit code says how the run ended."""
    format_name = check_format(values["format"])
    try:
        with Progress() as progress:
            result = _measured(values, progress)
    except KeyboardInterrupt:
        stop("interrupted: the run was ended and nothing is left of it", EXIT_INTERRUPTED)
        raise
    show(format_name, lambda: [measured_sheet(result)], lambda: measured_document(result))
    return _exit_code(result.measurement)


def _measured(values: Values, progress: Progress) -> Measured:
    """Look, predict, measure; what cannot run here is refused before it starts."""
    request = build_request({**values, "gpu": values["gpu"] or LOCAL}, command="plan measure")
    steps = _number(values, "steps", STEPS, MOST_STEPS)
    timeout = _number(values, "timeout", TIMEOUT_SECONDS, MOST_SECONDS)
    layers = None if values["layers"] is None else integer("--layers", values["layers"])

    def tell(line: Line) -> None:
        if line["event"] == "begin":
            where = "loading" if line["phase"] == "load" else f"step {line['step'] + 1} of {steps}: {line['phase']}"
            progress(where.replace("_", " "))

    progress("looking for a device")
    device = look()
    scenario, notes = _scenario(request, device)
    check_measurable(scenario, layers)
    check_libraries(scenario, exact="=" in request.stack)
    on_cpu, depth = device.kind == "cpu", layers or scenario.model.num_hidden_layers
    if on_cpu and layers is None:
        check_weights(scenario)
    progress("tracing the step")
    prediction = predict(scenario, device.kind, layers=layers)
    if on_cpu:
        check_room(prediction.peak_bytes, depth)
    progress("starting")
    found = measure(scenario, device.kind, steps=steps, layers=layers, timeout=timeout, tell=tell)
    rows = compare(prediction, found)
    return Measured(measurement=found, prediction=prediction, rows=rows, peak=peak_comparison(rows), notes=notes)


def _scenario(request: Request, device: Device) -> tuple[Scenario, tuple[str, ...]]:
    """The one scenario that is asked for, on the card that is named or here, and what the reader must know."""
    if len(request.methods) > 1:
        raise UsageError(f"plan measure runs one method, not {' and '.join(request.methods)}: name one --method")
    notes = [] if request.methods else ["No --method was named: this is lora."]
    resolved = load_model(request.model)
    card, about = _card(request, device)
    cluster = Cluster(gpu=card, gpus=request.gpus, nodes=request.nodes, headroom_bytes=request.headroom_bytes)
    ask = Ask(request=replace(request, gpu=card.id), model=resolved.model, cluster=cluster)
    notes += [note for note in (resolved.line, *resolved.model.notes, about) if note]
    return scenario_of(ask, request.methods[0] if request.methods else "lora"), tuple(notes)


def _card(request: Request, device: Device) -> tuple[Gpu, str]:
    if request.gpu == LOCAL:
        return card_of_device(device), ""
    named = load_gpu(request.gpu, request.profiles_dir)
    if device.kind == "cpu":
        return card_of_device(
            device
        ), f"No CUDA device is here: measured and predicted on the CPU, not on {named.name}."
    return named, ""


def _number(values: Values, name: str, default: float, most: int) -> int:
    text = values[name]
    count = int(default) if text is None else integer(f"--{name}", text)
    if not 1 <= count <= most:
        raise UsageError(f"--{name} {text} is outside 1 to {most}")
    return count


def _exit_code(found: Measurement) -> int:
    """0 measured, 4 out of memory, 1 for any other end."""
    if found.outcome == "done":
        return EXIT_FITS
    return EXIT_NOTHING_FITS if found.outcome == "out_of_memory" else EXIT_BUG
