"""``Store``: measured runs on disk. Append-only, safe under concurrent writers and killed processes.

``PLANNER_DATA_DIR`` names the folder, or ``off``. Nothing is created by reading; each ``add`` is one transaction.
"""

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from planner.errors import PlannerError, UnknownName, UsageError, show

if TYPE_CHECKING:
    from planner.records.record import Record

VARIABLE = "PLANNER_DATA_DIR"
OFF = ("off", "no", "false", "none", "0")
FILE = "measurements.db"

LEAST_DIGITS = 4
_DIGITS = re.compile(r"[0-9a-f]{1,32}", re.ASCII)

Tell = Callable[[str], None]


class StoreError(PlannerError):
    """The store cannot be read or written: one line that says why. What was to be stored is not lost to its caller."""


def _nobody(_notice: str) -> None:
    """Hears nothing."""


class Store:
    """Records in the SQLite file ``path``; nowhere when it is ``None``.

    ``tell`` hears, in one line each, what a user must know although all went on: a corrupt file that was set aside, a
    record that this version cannot read. Every method raises ``StoreError`` where nothing can go on.
    """

    def __init__(self, path: Path | None, tell: Tell = _nobody) -> None:
        self.path = path
        self._tell = tell

    def add(self, record: "Record") -> bool:
        """Store one record; whether it is new."""
        return self.add_all((record,)) == 1

    def add_all(self, records: Iterable["Record"]) -> int:
        """Store all of them or, where that fails, none; how many are new."""
        if self.path is None:
            return 0
        from planner.records.database import insert  # noqa: PLC0415  (SQLite loads when it is used)
        from planner.records.record import record_text  # noqa: PLC0415

        return insert(self.path, [(record, record_text(record)) for record in records], self._tell)

    def records(self) -> tuple["Record", ...]:
        """All records, newest first."""
        return self.find()

    def find(
        self,
        *,
        model: str | None = None,
        method: str | None = None,
        device: str | None = None,
        stack: str | None = None,
        kind: str | None = None,
        outcome: str | None = None,
        most: int | None = None,
    ) -> tuple["Record", ...]:
        """The ``most`` newest records with these names, newest first; all of them by default.

        ``device``: its name, its architecture, or ``cpu`` or ``cuda``.
        """
        wanted = {"model": model, "method": method, "stack": stack, "kind": kind, "outcome": outcome}
        return self._read({name: value for name, value in wanted.items() if value is not None}, device, most)

    def get(self, digits: str) -> "Record":
        """The record whose id begins with ``digits``; raise ``UsageError`` unless there is exactly one."""
        whole = self._whole_id(digits)
        found = self._read({"id": whole}, None, None)
        if not found:
            raise StoreError(f"measurement {whole[:12]} cannot be read by this version: update finetune-planner")
        return found[0]

    def forget(self, ids: Iterable[str]) -> int:
        """Remove records by their ids, which may be shortened; none when one of them is unknown."""
        whole = tuple(dict.fromkeys(self._whole_id(digits) for digits in ids))
        return self._delete(whole)

    def forget_all(self) -> int:
        """Remove every record; how many there were."""
        return self._delete(None)

    def texts(self) -> tuple[str, ...]:
        """Every record as the line of JSON that it is stored as, oldest first; also those of a later version."""
        if not self._exists():
            return ()
        from planner.records.database import select  # noqa: PLC0415
        from planner.records.record import is_whole  # noqa: PLC0415

        found = [text for _, text in select(self._file, {}, None, None, self._tell)]
        whole = tuple(text for text in reversed(found) if is_whole(text))
        self._tell_left_out(len(found) - len(whole), "damaged")
        return whole

    # ------------------------------------------------------------ parts

    @property
    def _file(self) -> Path:
        if self.path is None:
            raise StoreError(f"measurements are not stored: {VARIABLE} is off")
        return self.path

    def _exists(self) -> bool:
        try:
            return self.path is not None and self.path.exists()
        except OSError:
            return False

    def _read(self, wanted: dict[str, str], device: str | None, most: int | None) -> tuple["Record", ...]:
        if not self._exists():
            return ()
        from planner.errors import BrokenInput  # noqa: PLC0415
        from planner.records.database import select  # noqa: PLC0415
        from planner.records.record import is_whole, read_record  # noqa: PLC0415

        found, damaged, strange = [], 0, 0
        for _, text in select(self._file, wanted, device, most, self._tell):
            if not is_whole(text):
                damaged += 1
                continue
            try:
                found.append(read_record(text, trusted=True))
            except BrokenInput:
                strange += 1
        self._tell_left_out(damaged, "damaged")
        self._tell_left_out(strange, "written by a later version")
        return tuple(found)

    def _tell_left_out(self, count: int, why: str) -> None:
        if count:
            self._tell(f"{count} {'measurement is' if count == 1 else 'measurements are'} {why} and left out")

    def _whole_id(self, digits: str) -> str:
        text = digits.strip().lower()
        if not _DIGITS.fullmatch(text) or len(text) < LEAST_DIGITS:
            raise UsageError(
                f"{show(digits)} is no id: {LEAST_DIGITS} to 32 hexadecimal digits (plan measurements list)"
            )
        found: tuple[str, ...] = ()
        if self._exists():
            from planner.records.database import ids_from  # noqa: PLC0415

            found = ids_from(self._file, text, self._tell)
        if not found:
            raise UnknownName("measurement", digits, (), listing="plan measurements list")
        if len(found) > 1:
            shown = ", ".join(one[: len(text) + 4] for one in found[:4])
            raise UsageError(f"{digits} is the beginning of {len(found)} measurements: {shown}")
        return found[0]

    def _delete(self, ids: tuple[str, ...] | None) -> int:
        if not self._exists():
            return 0
        from planner.records.database import delete  # noqa: PLC0415

        return delete(self._file, ids, self._tell)


def default_store(tell: Tell = _nobody) -> Store:
    """The user's own store, or what ``PLANNER_DATA_DIR`` says."""
    named = os.environ.get(VARIABLE, "").strip()
    if named.lower() in OFF:
        return Store(None, tell)
    if named:
        return Store(Path(named).expanduser() / FILE, tell)
    from platformdirs import user_data_path  # noqa: PLC0415  (needed here only, and not free)

    return Store(user_data_path("finetune-planner", appauthor=False) / FILE, tell)
