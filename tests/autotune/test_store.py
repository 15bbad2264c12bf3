"""Stores that cannot be used, and records that are passed on."""

import sqlite3
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import event

from tilewright.autotune import store as stores
from tilewright.autotune.exchange import Row, merge, read_rows, rows_of, write_rows
from tilewright.autotune.records import RecordKey, Records, Result
from tilewright.autotune.store import Store
from tilewright.dsl.errors import RecordsUnreadable

KEY = RecordKey("schedule", "product", "rest", "cpu:none", "none")


def filled(path: Path, **ratios: float) -> Records:
    """Candidates by name with these ratios; the fastest has won."""
    records = Records.at(path)
    for name, ratio in ratios.items():
        records.put(KEY, {"tile": name}, Result(ratio, 1.0, None, ratio, ratio, 64, 128))
    if ratios:
        records.crown(KEY, {"tile": min(ratios, key=lambda name: ratios[name])})
    return records


@pytest.mark.parametrize(
    ("location", "word"),
    [
        ("mysql://root@localhost/tuning", "mysql"),
        ("postgresql://nobody:secret@127.0.0.1:1/tuning", "start the server"),
    ],
)
def test_a_database_that_cannot_be_used(location: str, word: str) -> None:
    with pytest.raises(RecordsUnreadable) as found:
        Records.at(location).require_writable()
    assert word in str(found.value)
    assert "secret" not in str(found.value)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ("UPDATE tilewright_store SET version = 99", "version 99"),
        ("DROP TABLE tilewright_store", "older version"),
    ],
)
def test_a_store_of_another_version_is_left_alone(tmp_path: Path, change: str, word: str) -> None:
    filled(tmp_path / "a.db", x=0.5)
    other = tmp_path / "b.db"
    other.write_bytes((tmp_path / "a.db").read_bytes())
    with sqlite3.connect(other) as connection:
        connection.execute(change)
    before = other.read_bytes()
    with pytest.raises(RecordsUnreadable, match=word):
        Records.at(other).require_writable()
    assert other.read_bytes() == before


def test_a_file_that_another_process_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path / "a.db", x=0.5)
    path = tmp_path / "held.db"
    path.write_bytes((tmp_path / "a.db").read_bytes())
    monkeypatch.setattr(stores, "_PATIENCE", 0.1)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(RecordsUnreadable, match="another process holds it"):
        Records.at(path).require_writable()
    holder.execute("ROLLBACK")
    Records.at(path).require_writable()


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    records = filled(tmp_path / "a.db", x=0.5)
    with records.store.writing() as connection:
        pages, engine = connection.exec_driver_sql("PRAGMA page_count").scalar(), connection.engine

    def limit(connection: sqlite3.Connection, _: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    event.listen(engine, "connect", limit)
    with pytest.raises(RecordsUnreadable, match="make room"):
        _fill(records)
    assert '{"tile":"x"}' in records.results(KEY)


def _fill(records: Records) -> None:
    for number in range(10_000):
        records.put(KEY, {"tile": f"{number}" * 100}, Result(failure="it crashed"))


def test_the_name_of_a_store_has_no_password() -> None:
    assert Store.at("postgresql://me:pass@word@host/db").name == "postgresql://me@host/db"
    assert Store.at("postgresql://host/db").name == "postgresql://host/db"


def test_records_are_passed_on(tmp_path: Path) -> None:
    one, two = filled(tmp_path / "1.db", x=0.9, y=1.1), filled(tmp_path / "2.db", x=0.5, z=0.8)
    file = tmp_path / "records.json"
    write_rows(file, rows_of(two))
    assert merge(one, read_rows(file)) == 1
    results = one.results(KEY)
    assert {text: r.ratio for text, r in results.items()} == {
        '{"tile":"x"}': 0.9,
        '{"tile":"y"}': 1.1,
        '{"tile":"z"}': 0.8,
    }
    won = one.winner(KEY)
    assert won is not None
    assert won[0] == {"tile": "x"}, "what was faster elsewhere is faster here too"
    assert merge(one, read_rows(file)) == 0
    assert one.results(KEY)['{"tile":"z"}'] == Result(0.8, 1.0, None, 0.8, 0.8, 64, 128)
    empty = filled(tmp_path / "3.db")
    merge(empty, rows_of(two, only_won=True))
    assert empty.winner(KEY) == ({"tile": "x"}, 0.5)


GOOD: Mapping[str, object] = {
    "kind": "schedule",
    "subject": "s",
    "shapes": "rest",
    "target": "cpu:none",
    "tools": "none",
    "candidate": {"mr": 4},
    "ratio": 0.5,
}


@pytest.mark.parametrize(
    "change",
    [
        {"ratio": -1.0},
        {"ratio": 0.0},
        {"seconds": -1.0},
        {"bytes": -1},
        {"default_bytes": 0.5},
        {"ratio": None},
        {"failure": "also"},
        {"ratio": None, "failure": "it crashed", "won": True},
        {"kind": "spell"},
        {"candidate": {"mr": [4]}},
        {"extra": 1},
    ],
)
def test_forged_records_are_refused(tmp_path: Path, change: Mapping[str, object]) -> None:
    file = tmp_path / "records.json"
    good = msgspec.convert(GOOD, Row)
    write_rows(file, [good])
    assert read_rows(file) == [good]
    forged = {"form": "tilewright records 1", "rows": [{**GOOD, **change}]}
    file.write_bytes(msgspec.json.encode(forged))
    with pytest.raises(RecordsUnreadable):
        read_rows(file)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_file_of_records(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "records.json").write_bytes(content)
    with pytest.raises(RecordsUnreadable):
        read_rows(tmp_path / "records.json")
