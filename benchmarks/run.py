"""Both benchmarks: ``python -m benchmarks.run [--json] [--quick] [--profile]``, from the root of the repository."""

import argparse
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict

from benchmarks import startup, throughput
from benchmarks.startup import Startup
from benchmarks.throughput import Throughput


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = _options(arguments)
    starts = startup.measure(options.runs or (5 if options.quick else 21))
    speed = throughput.measure(3 if options.quick else 7)
    print(_json(starts, speed) if options.json else _text(starts, speed))
    if options.profile:
        print(_profile())


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="start-up time and throughput of closed-form plans")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--quick", action="store_true", help="few runs")
    parser.add_argument("--runs", type=int, default=0, help="runs of each command")
    parser.add_argument("--profile", action="store_true", help="also say where the time goes")
    return parser.parse_args(arguments)


def _text(starts: Sequence[Startup], speed: Throughput) -> str:
    rows = [f"Python {platform.python_version()}, {platform.machine()}", "", "start-up, median"]
    rows += [f"  {one.name:<24}{one.seconds * 1000:8.0f} ms  {one.ratio:5.2f} x the reference" for one in starts]
    rows += [
        f"  reference: python -c {startup.REFERENCE!r}; target for a plan: at most {startup.TARGET_RATIO}",
        "",
        f"throughput, {speed.estimates} estimates on one core, best round",
        f"  scenario and estimate   {speed.with_scenario_per_second:8,.0f} /s  target: at least "
        f"{throughput.TARGET_PER_SECOND:,}",
        f"  estimate alone          {speed.estimate_per_second:8,.0f} /s",
        f"  first of its kind       {speed.cold_seconds * 1000:8.2f} ms each",
        f"  reference loop          {speed.loop_steps_per_second / 1e6:8.2f} million steps/s; an estimate takes "
        f"{speed.loop_steps:,.0f} of them",
    ]
    return "\n".join(rows)


def _json(starts: Sequence[Startup], speed: Throughput) -> str:
    document = {
        "python": platform.python_version(),
        "startup": {"target_ratio": startup.TARGET_RATIO, "commands": [asdict(one) for one in starts]},
        "throughput": {"target_per_second": throughput.TARGET_PER_SECOND, **asdict(speed)},
    }
    return json.dumps(document, indent=2)


def _profile() -> str:
    rows = ["", "imports of a text plan, own and cumulative milliseconds"]
    rows += [f"  {own / 1000:7.1f} {whole / 1000:7.1f}  {module}" for own, whole, module in startup.import_times()]
    return "\n".join([*rows, "", "estimates, by own time", throughput.profile()])


if __name__ == "__main__":
    main()
