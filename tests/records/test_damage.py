"""A damaged store is set aside whole, and what can be read of it is in the new one."""

import os
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from planner.records import Store, StoreError, record_text
from planner.records.database import PAGE_BYTES
from tests.records.builders import a_record, another

COUNT = 40
BASE = a_record()


@pytest.fixture
def filled(store: Store) -> Store:
    store.add_all([another(BASE, number) for number in range(COUNT)])
    return store


def path_of(store: Store) -> Path:
    assert store.path is not None
    return store.path


def damage(store: Store, change: Callable[[bytearray], bytearray]) -> bytes:
    path = path_of(store)
    content = bytes(change(bytearray(path.read_bytes())))
    path.write_bytes(content)
    return content


def garbage_header(content: bytearray) -> bytearray:
    content[:100] = random.Random(1).randbytes(100)
    return content


def truncated(content: bytearray) -> bytearray:
    return content[: len(content) // 2 + 123]


def garbage_page(content: bytearray) -> bytearray:
    place = len(content) // PAGE_BYTES // 2 * PAGE_BYTES
    content[place : place + PAGE_BYTES] = random.Random(2).randbytes(PAGE_BYTES)
    return content


def garbage_root(content: bytearray) -> bytearray:
    """The page from which all others of the table are reached."""
    content[PAGE_BYTES : 2 * PAGE_BYTES] = random.Random(3).randbytes(PAGE_BYTES)
    return content


@pytest.mark.parametrize(
    ("change", "least"),
    [(garbage_header, COUNT), (garbage_root, COUNT), (garbage_page, COUNT - 4), (truncated, 5)],
    ids=["garbage header", "garbage root page", "garbage page", "truncated"],
)
def test_a_damaged_store_is_set_aside(
    filled: Store, said: list[str], change: Callable[[bytearray], bytearray], least: int
) -> None:
    """Every record whose text is still there is taken over, wherever it stands."""
    before = filled.records()
    content = damage(filled, change)
    legible = {record.id for record in before if record_text(record).encode() in content}

    after = filled.records()

    assert {record.id for record in after} == legible
    assert len(after) >= least
    aside = list(path_of(filled).parent.glob("measurements.corrupt-*.db"))
    assert [path.read_bytes() for path in aside] == [content], "nothing is thrown away"
    assert said == [
        f"{filled.path} is damaged: it was set aside as {aside[0].name}, "
        f"and {len(after)} measurements were taken over from it"
    ]
    assert filled.add(another(BASE, COUNT + 1))
    assert len(filled.records()) == len(after) + 1
    assert len(said) == 1


def test_adding_to_a_damaged_store_loses_nothing(filled: Store, said: list[str]) -> None:
    damage(filled, garbage_header)

    assert filled.add(another(BASE, COUNT))

    assert len(filled.records()) == COUNT + 1
    assert len(said) == 1


@pytest.mark.parametrize(
    "content", [b"", b"SQLite format 3\0", b"x" * 5000, b"\0" * 20000], ids=["empty", "short", "text", "zeros"]
)
def test_a_file_that_never_was_a_store(store: Store, content: bytes) -> None:
    path = path_of(store)
    path.parent.mkdir()
    path.write_bytes(content)

    assert store.records() == ()
    assert store.add(a_record())
    assert store.records() == (a_record(),)


def test_the_log_is_searched_too(store: Store, said: list[str]) -> None:
    """Records that a killed process left in the write-ahead log are found although the file itself is garbage."""
    store.add(another(BASE, 0))
    path = path_of(store)
    child = os.fork()
    if child == 0:
        from planner.records import database, record_text  # noqa: PLC0415

        connection = database.connect(path, mode="rw")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        one = another(BASE, 1)
        connection.execute(
            "INSERT INTO measurement (id, taken_at, kind, model, method, stack, device, device_kind, architecture, "
            "outcome, document) VALUES (?, '', '', '', '', '', '', '', '', '', ?)",
            (one.id, record_text(one)),
        )
        os._exit(0)
    os.waitpid(child, 0)
    assert Path(f"{path}-wal").stat().st_size > 0
    damage(store, garbage_header)

    assert {record.taken_at[-4:-1] for record in store.records()} == {"000", "001"}
    assert len(said) == 1


def test_a_flipped_digit_is_no_record(filled: Store) -> None:
    """A text that is not what its digest says is not taken over, wherever it is found."""

    def change(content: bytearray) -> bytearray:
        place = content.index(b'"host_bytes":2')
        content[place + 13] = ord("3")
        return garbage_header(content)

    damage(filled, change)

    assert len(filled.records()) == COUNT - 1


def test_two_damages_in_one_second(store: Store) -> None:
    for number in range(3):
        store.add(another(BASE, number))
        damage(store, garbage_header)
        store.records()

    assert len(list(path_of(store).parent.glob("measurements.corrupt-*.db"))) == 3
    assert len(store.records()) == 3


def test_random_damage_never_raises_anything_else(tmp_path: Path) -> None:
    """Whatever a disk does to the file, the store goes on or says in one line why not."""
    for seed in range(30):
        chance = random.Random(seed)
        store = Store(tmp_path / str(seed) / "measurements.db")
        store.add_all([another(BASE, number) for number in range(8)])
        content = bytearray(path_of(store).read_bytes())
        for _ in range(chance.randrange(1, 40)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        path_of(store).write_bytes(content[: chance.randrange(1, len(content) + 1)] if seed % 3 == 0 else content)

        refused = pytest.raises(StoreError, match=r"^[^\n]+$")
        with suppress(StoreError):
            store.records()
            assert store.add(another(BASE, 99))
            assert another(BASE, 99).id in {record.id for record in store.records()}
            continue
        with refused:
            store.add(another(BASE, 99))
