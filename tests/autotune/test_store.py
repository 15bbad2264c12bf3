"""Stores that cannot be used, and records that are passed on."""

import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import event

from tilewright.autotune import store as stores
from tilewright.autotune.exchange import file_of, merge
from tilewright.autotune.records import RecordKey, Records, Result
from tilewright.autotune.rows import Described, File, Row, read_file, write_file
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
    write_file(file, file_of(two))
    assert merge(one, read_file(file)) == 1
    results = one.results(KEY)
    assert {text: r.ratio for text, r in results.items()} == {
        '{"tile":"x"}': 0.9,
        '{"tile":"y"}': 1.1,
        '{"tile":"z"}': 0.8,
    }
    won = one.winner(KEY)
    assert won is not None
    assert won[0] == {"tile": "x"}, "what was faster elsewhere is faster here too"
    assert merge(one, read_file(file)) == 0
    assert one.results(KEY)['{"tile":"z"}'] == Result(0.8, 1.0, None, 0.8, 0.8, 64, 128)
    empty = filled(tmp_path / "3.db")
    merge(empty, file_of(two, only_won=True))
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
    write_file(file, File([good]))
    assert read_file(file).rows == [good]
    for form in (1, 2):
        forged = {"form": f"tilewright records {form}", "rows": [{**GOOD, **change}]}
        file.write_bytes(msgspec.json.encode(forged))
        with pytest.raises(RecordsUnreadable):
            read_file(file)


TRAITS = {"m": 7.0, "n": 8.5}
WHAT: Mapping[str, object] = {
    **{name: GOOD[name] for name in ("kind", "subject", "shapes", "target", "tools")},
    "family": "matmul",
    "traits": TRAITS,
}


def test_what_a_kernel_is_travels_with_its_records(tmp_path: Path) -> None:
    one, two = filled(tmp_path / "1.db", x=0.9, y=1.1), filled(tmp_path / "2.db")
    file, mine = tmp_path / "records.json", replace(KEY, subject="mine")
    one.describe(KEY, "matmul", TRAITS)
    one.describe(replace(KEY, subject="untried"), "matmul", TRAITS)
    write_file(file, file_of(one))
    two.describe(mine, "matmul", {"m": 7.0, "n": 9.0})
    merge(two, read_file(file))
    (alike,) = two.similar(mine)
    assert alike.traits == TRAITS
    assert {text: r.ratio for text, r in alike.results.items()} == {
        '{"tile":"x"}': 0.9,
        '{"tile":"y"}': 1.1,
    }
    other = msgspec.convert({**WHAT, **KEY.columns, "family": "loop"}, Described)
    merge(two, File(file_of(one).rows, [other]))
    assert len(two.similar(mine)) == 1, "what a store knows of a subject stays"
    (described,) = file_of(one).subjects
    assert described.subject == KEY.subject, "the other one has no rows"
    assert file_of(one, only_won=True).subjects == [described]
    stranger = msgspec.convert({**WHAT, "subject": "untried"}, Described)
    merge(two, File((), [stranger]))
    assert len(two.similar(mine)) == 1


def test_a_file_of_the_first_form_is_read(tmp_path: Path) -> None:
    first = {"form": "tilewright records 1", "rows": [GOOD]}
    (tmp_path / "records.json").write_bytes(msgspec.json.encode(first))
    assert read_file(tmp_path / "records.json") == File([msgspec.convert(GOOD, Row)])


@pytest.mark.parametrize(
    "change",
    [
        {"traits": {"m": 1e300}},
        {"traits": {"m": -1.0}},
        {"traits": {"m" * 41: 1.0}},
        {"traits": {f"m{number}": 1.0 for number in range(17)}},
        {"traits": {"m": "7"}},
        {"family": "f" * 101},
        {"kind": "spell"},
        {"extra": 1},
    ],
)
def test_forged_traits_are_refused(tmp_path: Path, change: Mapping[str, object]) -> None:
    file, form = tmp_path / "records.json", "tilewright records 2"
    file.write_bytes(msgspec.json.encode({"form": form, "rows": [], "subjects": [WHAT]}))
    assert read_file(file).subjects == [msgspec.convert(WHAT, Described)]
    forged = {"form": form, "rows": [], "subjects": [{**WHAT, **change}]}
    file.write_bytes(msgspec.json.encode(forged))
    with pytest.raises(RecordsUnreadable):
        read_file(file)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_file_of_records(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "records.json").write_bytes(content)
    with pytest.raises(RecordsUnreadable):
        read_file(tmp_path / "records.json")
