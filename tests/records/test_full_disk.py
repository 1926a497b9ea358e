"""Without room, or without the right to write, the store says so in one line, and what it holds stays readable."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from planner.records import Store, StoreError
from tests.records.builders import a_record, another
from tests.records.test_concurrent import writer

NOBODY = 65534


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """The system's own limit on the size of files, met in the middle of a transaction."""
    one = writer(tmp_path, 0, 2000, str(400_000))
    said, complaint = one.communicate(timeout=120)

    assert one.returncode == 2
    assert complaint.count("\n") == 1
    assert complaint.startswith(f"not stored in {tmp_path / 'measurements.db'}: ")
    assert "full" in complaint
    committed = {int(line) for line in said.splitlines()}
    assert 5 < len(committed) < 500
    store = Store(tmp_path / "measurements.db")
    assert {int(record.taken_at[-7:-1]) for record in store.records()} == committed
    assert store.add(another(a_record(), 5000)), "with room again, all goes on"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if not sys.platform.startswith("linux") or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    store, committed, base = Store(small_disk / "measurements.db"), 0, a_record()
    with pytest.raises(StoreError, match=r"not stored in .*measurements.db: the disk is full") as caught:  # noqa: PT012
        for number in range(2000):
            store.add(another(base, number))
            committed += 1

    assert "\n" not in str(caught.value)
    assert committed > 5
    assert len(store.records()) == committed
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    assert store.add(another(base, 2001)), "with room again, all goes on"
    assert len(store.records()) == committed + 1


def test_a_damaged_store_on_a_full_disk_stays_where_it_is(small_disk: Path) -> None:
    store = Store(small_disk / "measurements.db")
    store.add_all([another(a_record(), number) for number in range(40)])
    assert store.path is not None
    content = bytearray(store.path.read_bytes())
    content[:100] = b"?" * 100
    store.path.write_bytes(content)
    with suppress(OSError), (small_disk / "filler").open("wb") as filler:
        while True:
            filler.write(b"x" * 4096)
            filler.flush()

    for attempt in (store.records, lambda: store.add(a_record())):
        with pytest.raises(StoreError, match=r"is damaged, and cannot be set aside: the disk is full"):
            attempt()
    assert store.path.read_bytes() == bytes(content)
    assert sorted(path.name for path in small_disk.iterdir()) == ["filler", "measurements.db", "measurements.lock"]

    (small_disk / "filler").unlink()
    assert len(store.records()) == 40


def test_no_room_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    store = Store(tmp_path / "file" / "measurements.db")

    assert store.records() == ()
    with pytest.raises(StoreError, match=r"not stored in .*: Not a directory|not stored in .*: File exists"):
        store.add(a_record())


def test_a_folder_in_the_place_of_the_file(store: Store) -> None:
    assert store.path is not None
    store.path.mkdir(parents=True)

    with pytest.raises(StoreError, match="the file cannot be opened"):
        store.add(a_record())
    with pytest.raises(StoreError, match="cannot be read: the disk cannot be read"):
        store.records()


@pytest.fixture
def as_nobody() -> Iterator[None]:
    """Rights of a user who owns nothing: root may write everywhere."""
    if os.geteuid() == 0:
        os.seteuid(NOBODY)
        yield
        os.seteuid(0)
    else:
        yield


def test_a_folder_that_may_not_be_written(store: Store, request: pytest.FixtureRequest) -> None:
    """It is read all the same."""
    record, other = a_record(), a_record(1)
    store.add(record)
    assert store.path is not None
    for parent in store.path.parents[1:4]:
        if parent.stat().st_uid == os.geteuid():
            parent.chmod(0o755)
    store.path.parent.chmod(0o555)
    store.path.chmod(0o444)
    request.getfixturevalue("as_nobody")

    assert store.records() == (record,)
    with pytest.raises(StoreError, match=r"not stored in .*: (Permission denied|it is read-only)"):
        store.add(other)
