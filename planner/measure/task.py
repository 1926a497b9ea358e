"""What the parent asks of a child, as a file: our frozen dataclasses, pickled by one of us for the other."""

import copyreg
import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from planner.spec import Scenario

Kind = Literal["look", "predict", "measure"]
DeviceKind = Literal["cpu", "cuda"]
FOLDER_PREFIX = "plan-measure-"
"""Of the temporary folder in which parent and child leave messages."""


class Device(NamedTuple):
    """A device by torch's name, with what it calls itself, its memory, and what kernels ask of a card.

    ``devices``: how many devices of its kind torch sees; it is the first of them, or a rank's own.
    """

    kind: DeviceKind
    name: str
    total_bytes: int
    capability: tuple[int, int] | None = None
    multiprocessors: int | None = None
    devices: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """``look``: which device is here. ``predict``: the trace of ``scenario``. ``measure``: its real steps.

    ``lengths`` are the padded lengths of the steps, one each and the longest first; without any, all ``steps`` have the
    scenario's. ``warmup`` of them are reported and left out of the median. ``cap_bytes``: the memory of a smaller card
    that this one stands for. ``snapshot``: a file for CUDA's memory history.
    """

    kind: Kind
    scenario: Scenario | None = None
    device: DeviceKind = "cpu"
    steps: int = 3
    warmup: int = 1
    layers: int | None = None
    lengths: tuple[int, ...] = ()
    cap_bytes: int | None = None
    snapshot: str | None = None

    @property
    def ranks(self) -> int:
        """Processes that do the task together: to measure, one for each card of the scenario."""
        return self.scenario.cluster.world_size if self.kind == "measure" and self.scenario is not None else 1


def report_of(path: Path, rank: int, ranks: int) -> Path:
    """Where a rank reports, when ``path`` is where a single process does.

    >>> report_of(Path("report"), 1, 2).name, report_of(Path("report"), 0, 1).name
    ('report.1', 'report')
    """
    return path.with_name(f"{path.name}.{rank}") if ranks > 1 else path


class _Pickler(pickle.Pickler):
    """Read-only mappings, which our values hold and pickle refuses, travel as the dicts that they show."""

    dispatch_table = copyreg.dispatch_table.copy()
    dispatch_table[MappingProxyType] = lambda mapping: (_read_only, (dict(mapping),))


def _read_only(mapping: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(mapping)


def write_task(task: Task, path: Path) -> None:
    """The task as a file."""
    buffer = io.BytesIO()
    _Pickler(buffer).dump(task)
    path.write_bytes(buffer.getvalue())


def read_task(path: Path) -> Task:
    """The task that the parent wrote a moment ago into a folder of its own."""
    found = pickle.loads(path.read_bytes())
    if not isinstance(found, Task):
        raise TypeError(f"{path} holds a {type(found).__name__}, not a task")
    return found
