"""What the store promises while nothing goes wrong: order, filters, ids, oblivion, versions of its schema."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from planner.errors import UnknownName, UsageError
from planner.records import RunDevice, Store, StoreError, database, default_store, read_record, record_text
from tests.records.builders import a_record, another, out_of_memory

DIGITS = "f" * 31


def test_newest_first(store: Store) -> None:
    records = [another(a_record(), number) for number in (3, 1, 2)]
    assert store.add_all(records) == 3

    assert [record.taken_at[-4:-1] for record in store.records()] == ["003", "002", "001"]
    assert [record.taken_at[-4:-1] for record in store.find(model="smollm2-135m", most=2)] == ["003", "002"]
    assert store.find(most=0) == ()
    assert store.records()[0] == records[0]


def test_the_same_run_is_stored_once(store: Store) -> None:
    assert (store.add(a_record()), store.add(a_record())) == (True, False)
    assert len(store.records()) == 1


def test_reading_creates_nothing(store: Store) -> None:
    assert store.records() == ()
    assert store.texts() == ()
    assert store.forget_all() == 0
    with pytest.raises(UnknownName, match=r"unknown measurement 'abcd' \(list them with: plan measurements list\)"):
        store.get("abcd")

    assert store.path is not None
    assert not store.path.parent.exists()


def test_reading_nothing_loads_no_sqlite(tmp_path: Path) -> None:
    """A plan of somebody who never measured pays for a look at the file system only."""
    code = (
        "import sys; from pathlib import Path; from planner.records import Store; "
        f"assert Store(Path({str(tmp_path)!r}) / 'none.db').find(model='x') == (); assert 'sqlite3' not in sys.modules"
    )

    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_filters(store: Store) -> None:
    cpu = RunDevice(kind="cpu", name="A processor", total_bytes=1, architecture="cpu")
    store.add_all([a_record(1), a_record(2, method="full"), out_of_memory(3, device=cpu), a_record(4, model="gpt2")])

    assert len(store.find(model="smollm2-135m")) == 3
    assert len(store.find(model="smollm2-135m", method="full")) == 1
    assert len(store.find(stack="trl")) == 4
    assert store.find(stack="hf") == ()
    assert len(store.find(outcome="out_of_memory")) == 1
    assert [len(store.find(device=name)) for name in ("cpu", "A processor", "ada", "cuda", "NVIDIA L4")] == [
        1,
        1,
        3,
        3,
        3,
    ]
    assert store.find(model="x' OR '1'='1") == ()


def test_filters_use_an_index(store: Store) -> None:
    store.add(a_record())
    assert store.path is not None

    with closing(sqlite3.connect(store.path)) as connection:
        for where in ("model = 'x' AND method = 'y'", "architecture = 'x'", "id >= 'a' AND id < 'b'"):
            plan = connection.execute(f"EXPLAIN QUERY PLAN SELECT document FROM measurement WHERE {where}").fetchall()
            assert "USING" in plan[0][3], plan
            assert "INDEX" in plan[0][3], plan


def test_an_id_may_be_shortened(store: Store) -> None:
    record = a_record()
    store.add(record)

    assert store.get(record.id) == store.get(record.id[:4]) == store.get(record.id[:9].upper()) == record


@pytest.mark.parametrize("digits", ["", "abc", "xyz1", "g" * 32, "a" * 33, "%", "ab*d"])
def test_what_is_no_id_is_refused(store: Store, digits: str) -> None:
    store.add(a_record())

    with pytest.raises(UsageError, match="is no id: 4 to 32 hexadecimal digits"):
        store.get(digits)


def test_an_ambiguous_id_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.add_all([a_record(1), a_record(2)])
    monkeypatch.setattr("planner.records.store.LEAST_DIGITS", 0)
    monkeypatch.setattr("planner.records.database.ids_from", lambda *_: ("abcd1" + DIGITS[:27], "abcd2" + DIGITS[:27]))

    with pytest.raises(UsageError, match="abcd is the beginning of 2 measurements: abcd1fff, abcd2fff"):
        store.get("abcd")


def test_forgetting(store: Store) -> None:
    kept, gone = a_record(1), a_record(2)
    store.add_all([kept, gone])

    with pytest.raises(UnknownName):
        store.forget([gone.id, "0123456789"])
    assert len(store.records()) == 2, "one unknown id, and nothing is forgotten"
    assert store.forget([gone.id[:8], gone.id]) == 1
    assert store.records() == (kept,)
    assert store.forget_all() == 1
    assert store.records() == ()


def test_what_is_forgotten_is_gone_from_the_disk(store: Store) -> None:
    secret = a_record(1, detail="a secret")
    store.add_all([secret, a_record(2)])
    store.forget([secret.id])

    assert store.path is not None
    assert all(b"a secret" not in path.read_bytes() for path in store.path.parent.iterdir())


def test_texts_are_for_export(store: Store) -> None:
    records = [a_record(1), a_record(2)]
    store.add_all(records)

    assert [read_record(text) for text in store.texts()] == records


def change(store: Store, edit: Callable[[str], str]) -> None:
    """Change the text of the first row behind the store's back."""
    assert store.path is not None
    with closing(sqlite3.connect(store.path)) as connection:
        (text,) = connection.execute("SELECT document FROM measurement WHERE number = 1").fetchone()
        connection.execute("UPDATE measurement SET document = ? WHERE number = 1", (edit(text),))
        connection.commit()


def test_a_record_of_a_later_version_is_left_out_and_exported(store: Store, said: list[str]) -> None:
    store.add_all([a_record(1), a_record(2)])
    change(store, lambda text: text.replace('{"schema":1,', '{"schema":2,'))

    assert store.records() == (a_record(2),)
    assert said == ["1 measurement is written by a later version and left out"]
    assert len(store.texts()) == 2
    with pytest.raises(StoreError, match="cannot be read by this version: update"):
        store.get(a_record(1).id)


def test_a_damaged_record_is_left_out(store: Store, said: list[str]) -> None:
    store.add_all([a_record(1), a_record(2)])
    change(store, lambda text: text.replace('"host_bytes":2', '"host_bytes":3'))

    assert store.records() == (a_record(2),)
    assert store.texts() == (record_text(a_record(2)),)
    assert said == ["1 measurement is damaged and left out"] * 2


# ---------------------------------------------------------------- where it is


@pytest.mark.parametrize("word", ["off", "OFF", "no", "0"])
def test_a_store_that_is_off(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANNER_DATA_DIR", word)
    store = default_store()

    assert store.add(a_record()) is False
    assert store.records() == ()


def test_a_folder_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANNER_DATA_DIR", str(tmp_path / "mine"))

    assert default_store().add(a_record())
    assert (tmp_path / "mine" / "measurements.db").is_file()


def test_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLANNER_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    path = default_store().path

    assert path is not None
    assert path.parts[-2:] == ("finetune-planner", "measurements.db")


# ---------------------------------------------------------------- versions of the schema


def version(store: Store) -> int:
    assert store.path is not None
    with closing(sqlite3.connect(store.path)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def add_column(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE measurement ADD COLUMN note TEXT NOT NULL DEFAULT 'old'")


def test_an_older_schema_is_brought_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.add(a_record(1))
    before = version(store)
    monkeypatch.setattr(database, "STEPS", (*database.STEPS, add_column))
    assert store.records() == (a_record(1),), "reading does not wait for the migration"

    store.add(a_record(2))

    assert version(store) == before + 1
    assert len(store.records()) == 2
    assert store.path is not None
    with closing(sqlite3.connect(store.path)) as connection:
        assert connection.execute("SELECT DISTINCT note FROM measurement").fetchall() == [("old",)]


def test_a_migration_that_fails_leaves_everything_as_it_was(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(connection: sqlite3.Connection) -> None:
        add_column(connection)
        connection.execute("INSERT INTO nowhere VALUES (1)")

    store.add(a_record(1))
    before = version(store)
    with monkeypatch.context() as patch:
        patch.setattr(database, "STEPS", (*database.STEPS, fails))
        with pytest.raises(StoreError, match="no such table: nowhere"):
            store.add(a_record(2))

    assert version(store) == before
    assert store.add(a_record(2))
    assert len(store.records()) == 2


def test_a_newer_schema_is_refused_and_left_alone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(database, "STEPS", (*database.STEPS, add_column))
        store.add(a_record(1))
    assert store.path is not None
    before = store.path.read_bytes()

    for attempt in (store.records, store.forget_all, lambda: store.add(a_record(2)), lambda: store.get("abcd")):
        with pytest.raises(
            StoreError, match=r"was written by a newer finetune-planner \(schema 2, this version knows 1\)"
        ):
            attempt()
    assert store.path.read_bytes() == before
