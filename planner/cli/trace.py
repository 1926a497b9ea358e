"""``plan trace --model M --gpu G``: the real step on fake tensors, without a device and without weights."""

from pathlib import Path

from planner.allocator.config import Settings, parse
from planner.cli.files import check_target
from planner.cli.options import Values
from planner.cli.output import check_format
from planner.cli.progress import Progress
from planner.cli.request import build_request
from planner.cli.show import show
from planner.errors import EXIT_FITS, EXIT_NOTHING_FITS, UsageError
from planner.errors import show as shown
from planner.planning import as_installed
from planner.recommend.candidates import scenario as scenario_of
from planner.recommend.names import understand
from planner.render.saved import save
from planner.render.traced import traced_document, traced_sheets
from planner.trace.lengths import read_lengths
from planner.trace.told import telling
from planner.tracing import Tracing, trace_scenario


def main(values: Values) -> int:
    """Trace every method in question, and write the pictures that are asked for; or replay what was recorded."""
    if values["replay"] is not None:
        from planner.cli.replay import run_replay  # noqa: PLC0415  (nothing of a trace is needed)

        return run_replay(values)
    if values["device"] is not None:
        raise UsageError(f"--device {shown(values['device'])} is one of a snapshot's: it belongs to --replay FILE")
    format_name = check_format(values["format"])
    if values["evidence"] not in (None, "traced"):
        raise UsageError(f"plan trace traces: leave out --evidence {shown(values['evidence'])}, or run plan")
    request = build_request({**values, "evidence": "traced"}, command="plan trace")
    ask, notes = understand(as_installed(request))
    lengths = read_lengths(values["lengths"]) if values["lengths"] else ()
    settings = parse(values["alloc_conf"]) if values["alloc_conf"] else Settings()
    _check_pictures(values, len(ask.methods))
    found = []
    with Progress() as progress:
        for method in ask.methods:
            progress(f"loading what {method} needs")
            with telling(lambda done, text, method=method: progress.bar(done, f"{method}: {text}")):  # type: ignore[misc]
                found.append(
                    trace_scenario(
                        scenario_of(ask, method), lengths=lengths, all_layers=values["all_layers"], settings=settings
                    )
                )
        progress("drawing")
        _write_pictures(values, found[0], settings)
    show(
        format_name,
        lambda: [sheet for one in found for sheet in traced_sheets(one, notes if one is found[-1] else ())],
        lambda: {"schema": 1, "candidates": [traced_document(one) for one in found], "notes": list(notes)},
    )
    fits = any(one.candidate.verdict != "does_not_fit" for one in found)
    return EXIT_FITS if fits else EXIT_NOTHING_FITS


def _check_pictures(values: Values, methods: int) -> None:
    """Refuse before a long trace what could not be written after it."""
    for name in ("snapshot", "timeline"):
        if values[name] and methods > 1:
            raise UsageError(f"--{name} draws one method: name one --method")
        if values[name] is not None:
            check_target(f"--{name}", values[name])
    if values["timeline"]:
        from planner.render.timeline import check_picture  # noqa: PLC0415  (only for pictures)

        check_picture(Path(values["timeline"]))


def _write_pictures(values: Values, found: Tracing, settings: Settings) -> None:
    if values["snapshot"]:
        from planner.allocator.snapshot import write  # noqa: PLC0415  (only for pictures)

        save(Path(values["snapshot"]), write(found.traced.trace, settings))
    if values["timeline"]:
        from planner.render.timeline import timeline  # noqa: PLC0415

        scenario = found.candidate.scenario
        timeline(
            found.traced.trace,
            title=f"{scenario.model.name}, {scenario.train.method}",
            usable_bytes=scenario.cluster.usable_bytes,
            out=Path(values["timeline"]).expanduser(),
            handed_out=found.replay.handed_out,
            context_bytes=scenario.cluster.gpu.context_bytes,
        )
