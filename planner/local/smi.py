"""Boards as ``nvidia-smi`` prints them, for a machine without nvidia-ml-py. It knows less: no MIG instances."""

import csv
import shutil
import subprocess
from collections.abc import Callable, Sequence

from planner.local.nvml import NoAnswer
from planner.local.values import Board, Holder, Link, Machine
from planner.units import MIB

FIELDS = (
    "index",
    "uuid",
    "name",
    "memory.total",
    "memory.reserved",
    "memory.used",
    "driver_version",
    "compute_cap",
    "display_active",
    "pcie.link.gen.max",
    "pcie.link.width.max",
    "mig.mode.current",
)
PROCESS_FIELDS = ("gpu_uuid", "pid", "process_name", "used_memory")
SECONDS = 30
"""A driver that has to be woken takes some seconds for each card."""

Ask = Callable[[Sequence[str]], str]
"""Runs nvidia-smi with these arguments; raises ``NoAnswer`` with its own words when it fails."""


def find() -> Ask | None:
    """``nvidia-smi``, where it is on the path."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None

    def ask(arguments: Sequence[str]) -> str:
        try:
            done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NoAnswer(f"nvidia-smi: {error}") from error
        if done.returncode:
            raise NoAnswer(" ".join((done.stdout or done.stderr).split())[:200] or f"status {done.returncode}")
        return done.stdout

    return ask


def read(ask: Ask) -> Machine:
    """Every board; raise ``NoAnswer`` where nvidia-smi fails."""
    rows = _table(ask([f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"]), len(FIELDS))
    held = _holders(ask)
    boards = tuple(_board(dict(zip(FIELDS, row, strict=True)), held) for row in rows)
    partitioned = any(row[FIELDS.index("mig.mode.current")] == "Enabled" for row in rows)
    notes = ("a card here is partitioned (MIG), and nvidia-smi does not list its instances: " + INSTALL,)
    return Machine(
        source="nvidia-smi",
        boards=boards,
        driver=next((row[FIELDS.index("driver_version")] for row in rows), None),
        notes=notes if partitioned else (),
    )


INSTALL = 'pip install "finetune-planner[local]"'


def _table(text: str, width: int) -> list[list[str]]:
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if row]
    wrong = next((row for row in rows if len(row) != width), None)
    if wrong is not None:
        raise NoAnswer(f"nvidia-smi printed {','.join(wrong)[:80]!r}")
    return rows


def _board(fields: dict[str, str], held: dict[str, list[Holder]]) -> Board:
    capability, display = fields["compute_cap"], fields["display_active"]
    major, dot, minor = capability.partition(".")
    return Board(
        index=_number(fields["index"]) or 0,
        uuid=fields["uuid"],
        name=fields["name"],
        total_bytes=_mebibytes(fields["memory.total"]),
        reserved_bytes=_mebibytes(fields["memory.reserved"]),
        used_bytes=_mebibytes(fields["memory.used"]),
        capability=(int(major), int(minor)) if dot and major.isdigit() and minor.isdigit() else None,
        display={"Enabled": True, "Disabled": False}.get(display),
        link=_link(fields["pcie.link.gen.max"], fields["pcie.link.width.max"]),
        holders=tuple(sorted(held.get(fields["uuid"], ()), key=lambda one: (-(one.used_bytes or 0), one.pid))),
    )


def _holders(ask: Ask) -> dict[str, list[Holder]]:
    """Computing processes by board; nvidia-smi lists drawing ones in no table of this form."""
    found: dict[str, list[Holder]] = {}
    text = ask([f"--query-compute-apps={','.join(PROCESS_FIELDS)}", "--format=csv,noheader,nounits"])
    for uuid, pid, name, used in _table(text, len(PROCESS_FIELDS)):
        found.setdefault(uuid, []).append(Holder(_number(pid) or 0, name, _mebibytes(used)))
    return found


def _number(text: str) -> int | None:
    """What is not a number is ``[N/A]``, ``[Not Supported]`` or ``[Insufficient Permissions]``."""
    return int(text) if text.isdigit() else None


def _mebibytes(text: str) -> int | None:
    count = _number(text)
    return None if count is None else count * MIB


def _link(generation: str, lanes: str) -> Link | None:
    first, second = _number(generation), _number(lanes)
    return Link(first, second) if first and second else None
