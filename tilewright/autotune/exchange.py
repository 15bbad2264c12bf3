"""Records that people pass on as a file (`rows.py`), and the union of two stores.

A file holds winners and measurements as they stand in the tables, and nothing that is run: a point
of a space that this version does not have is refused, with the reason, when something is compiled.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
from sqlalchemy import Connection, Select, select

from tilewright.autotune.records import RecordKey, Records, Result, point_of, point_text, put
from tilewright.autotune.rows import Described, File, Row
from tilewright.autotune.store import columns_there
from tilewright.autotune.tables import CANDIDATES, KEY, SUBJECTS
from tilewright.autotune.traits import read_traits
from tilewright.dsl.errors import RecordsUnreadable


def file_of(records: Records, *, only_won: bool = False) -> File:
    """Every candidate of a store, in the order of its key, and what these are candidates for."""
    with _reading(records), records.store.reading() as connection:
        wanted = select(*columns_there(connection, Row.__struct_fields__))
        wanted = wanted.select_from(CANDIDATES).order_by(*CANDIDATES.primary_key)
        if only_won:
            wanted = wanted.where(CANDIDATES.c.won)
        rows = [
            msgspec.convert({**row, "candidate": point_of(row["candidate"])}, Row)
            for row in _found(connection, wanted)
        ]
        described = [
            msgspec.convert({**row, "traits": read_traits(row["traits"])}, Described)
            for row in _found(connection, select(SUBJECTS).order_by(*SUBJECTS.primary_key))
        ]
    there = {key_of(row) for row in rows}
    return File(rows, [each for each in described if key_of(each) in there])


def key_of(kept: Row | Described) -> RecordKey:
    """What it is a candidate for, or what it describes."""
    return RecordKey(*(getattr(kept, name) for name in KEY))


def result_of(row: Row) -> Result:
    """What was measured."""
    return Result(**{name: getattr(row, name) for name in Result.__dataclass_fields__})


def merge(records: Records, file: File) -> int:
    """Adds the rows of a file to a store, and makes the faster of two winners the winner.

    Gives how many were new. What the store knows of a candidate stays: it was measured there; and
    so does what it says of a subject.
    """
    added = 0
    described = {key_of(each): each for each in file.subjects}
    for key, group in _by_key(file.rows):
        known = records.results(key)
        fresh = [row for row in group if point_text(row.candidate) not in known]
        with records.store.writing() as connection:
            for row in fresh:
                put(connection, key, row.candidate, result_of(row))
        if key in described and not records.is_described(key):
            records.describe(key, described[key].family, described[key].traits)
        added += len(fresh)
        _crown_faster(records, key, group)
    return added


def _crown_faster(records: Records, key: RecordKey, group: Sequence[Row]) -> None:
    won = [(row.ratio, row.candidate) for row in group if row.won and row.ratio is not None]
    here = records.winner(key)
    if won:
        ratio, candidate = min(won, key=lambda pair: pair[0])
        if here is None or ratio < here[1]:
            records.crown(key, candidate)


def _by_key(rows: Iterable[Row]) -> Iterator[tuple[RecordKey, list[Row]]]:
    groups: dict[RecordKey, list[Row]] = {}
    for row in rows:
        groups.setdefault(key_of(row), []).append(row)
    yield from groups.items()


def _found(connection: Connection, wanted: Select[Any]) -> list[Mapping[str, Any]]:
    found = connection.execute(wanted).mappings().all()
    # SQLAlchemy's names of columns are a kind of text that msgspec does not take for one.
    return [{str(name): value for name, value in row.items()} for row in found]


@contextmanager
def _reading(records: Records) -> Generator[None]:
    """Makes what a damaged row raises the mistake of the store."""
    try:
        yield
    except (msgspec.ValidationError, msgspec.DecodeError, ValueError) as error:
        raise RecordsUnreadable(
            f"a record is damaged: {error}", where=records.store.name, fix="name another file"
        ) from error
