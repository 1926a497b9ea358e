"""Traces: seconds beyond the imports, resident memory: ``python -m benchmarks.traces``. Each in a process of its own.

The imports are timed in the same process, so that a slow or busy machine slows both; processor seconds are given beside
wall seconds, because others may be busy on it. The cache of traces is off.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]

CASES: Mapping[str, tuple[dict[str, Any], float]] = {
    "405B full, fsdp, 32 x H100": (
        {"model": "llama-3.1-405b", "gpu": "h100", "gpus": 8, "nodes": 4, "sharding": "fsdp", "method": "full"},
        10.0,
    ),
    "70B qlora": ({"model": "70b", "gpu": "4090", "method": "qlora"}, 10.0),
    "8B lora": ({"model": "8b", "gpu": "4090", "method": "lora"}, 3.0),
}
"""What is traced, and the seconds beyond the imports that it may take."""

MEMORY_BYTES = 1.5 * 2**30

CHILD = """
import json, resource, sys, time
import planner
from planner.build.quiet import quiet
scenario = planner.scenario(**json.loads(sys.argv[1]))
def clock(): return time.perf_counter(), time.process_time()
start = clock()
with quiet():
    import bitsandbytes, trl.trainer.sft_trainer
    from transformers.models.llama import modeling_llama
    from planner.trace.estimator import trace
    from planner.trace.judgement import judge
imported = clock()
traced = trace(scenario)
recorded = clock()
found = judge(scenario, traced)
done = clock()
print(json.dumps({
    "imports": [b - a for a, b in zip(start, imported)],
    "trace": [b - a for a, b in zip(imported, recorded)],
    "judge": [b - a for a, b in zip(recorded, done)],
    "events": len(traced.trace.events),
    "resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "allocated_bytes": found.estimate.peak.allocated_bytes,
}))
"""


class Traced(NamedTuple):
    """One case; pairs are wall and processor seconds."""

    name: str
    limit: float
    imports: tuple[float, float]
    trace: tuple[float, float]
    judge: tuple[float, float]
    events: int
    resident_bytes: int

    @property
    def seconds(self) -> float:
        """Processor seconds beyond the imports."""
        return self.trace[1] + self.judge[1]


def measure(name: str) -> Traced:
    """One case in a process of its own."""
    settings, limit = CASES[name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(settings)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    imports, trace, judge = (tuple(found[part]) for part in ("imports", "trace", "judge"))
    return Traced(name, limit, imports, trace, judge, found["events"], found["resident_bytes"])


def main() -> None:
    """Measure and print."""
    print("seconds: wall (processor)       imports          trace          judge   beyond/imports   target   resident")
    for name in CASES:
        one = measure(name)
        parts = " ".join(f"{wall:7.1f} ({own:4.1f})" for wall, own in (one.imports, one.trace, one.judge))
        ratio = one.seconds / one.imports[1]
        print(
            f"{name:<28} {parts} {ratio:12.2f} x {one.limit:9.0f} s {one.resident_bytes / 2**30:7.2f} GiB, "
            f"{one.events:,} events"
        )


if __name__ == "__main__":
    main()
