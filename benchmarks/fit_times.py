"""Fits the time model's constants to the published times and writes them where they live.

``python -m benchmarks.fit_times`` writes ``planner/throughput/rates.toml`` and ``published.json``, the sections
``[throughput]`` of measured cards, and the profiles' index; ``--check`` only says whether that would change anything.
Then run ``python -m docs.generate``.
"""

import sys
from pathlib import Path

from planner.hardware import write_index
from planner.throughput.constants import FILE as RATES
from planner.throughput.record import FILE as RECORD
from planner.validation.time_fit import fit, held_out
from planner.validation.time_record import profile_texts, rates_text, record_text, records_of
from planner.validation.timing import by_source, timed


def texts() -> dict[Path, str]:
    """Every file that the fit writes, as it should be."""
    fitted = fit(timed())
    errors = held_out()
    known = fitted.constants
    record = record_text(records_of(errors, known), errors, known)
    for score in by_source(errors):
        print(f"{score.name:20} {score.n:4} median {score.median:6.1%}  p90 {score.p90:6.1%}  held out")
    return {RATES: rates_text(fitted), RECORD: record, **profile_texts(fitted)}


def main(arguments: list[str]) -> int:
    """Write, or with ``--check`` compare; 1 when a file is stale."""
    found = texts()
    stale = [path for path, text in found.items() if path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(f"stale: {path.name}")
        if "--check" not in arguments:
            path.write_text(found[path], encoding="utf-8")
    if stale and "--check" not in arguments:
        write_index()
        return 0
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
