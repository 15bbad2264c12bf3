"""Records as a file that people pass on, and the union of two stores.

A file holds winners and measurements as they stand in the table, and nothing that is run: a point
of a space that this version does not have is refused, with the reason, when something is compiled.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal, cast

import msgspec
from msgspec import Struct
from sqlalchemy import select

from tilewright.autotune.records import Kind, RecordKey, Records, Result, point_of, point_text, put
from tilewright.autotune.store import columns_there
from tilewright.autotune.tables import CANDIDATES
from tilewright.dsl.errors import RecordsUnreadable
from tilewright.files import replace_file

_FORM: Final = "tilewright records 1"
_LARGEST: Final = 1 << 28


class Row(Struct, frozen=True, forbid_unknown_fields=True):
    """One candidate; `ratio` and `seconds`, or why it has neither."""

    kind: Kind
    subject: str
    shapes: str
    target: str
    tools: str
    candidate: dict[str, bool | int | str]
    ratio: float | None = None
    seconds: float | None = None
    low: float | None = None
    high: float | None = None
    failure: str | None = None
    won: bool = False
    bytes: int | None = None
    default_bytes: int | None = None

    @property
    def key(self) -> RecordKey:
        """What it was a candidate for."""
        return RecordKey(self.kind, self.subject, self.shapes, self.target, self.tools)

    @property
    def result(self) -> Result:
        """What was measured."""
        times = (self.ratio, self.seconds, self.failure, self.low, self.high)
        return Result(*times, self.bytes, self.default_bytes)

    def __post_init__(self) -> None:
        numbers = (self.ratio, self.seconds, self.low, self.high)
        if not all(n is None or (math.isfinite(n) and n > 0) for n in numbers):
            raise ValueError("a time is not positive and finite")
        if not all(n is None or 0 <= n < 1 << 63 for n in (self.bytes, self.default_bytes)):
            raise ValueError("a number of bytes is none")
        if (self.ratio is None) == (self.failure is None):
            raise ValueError("a candidate has either a ratio or a failure")
        if self.won and self.ratio is None:
            raise ValueError("a candidate that failed has won")


class File(Struct, frozen=True, forbid_unknown_fields=True):
    """What `tune export` writes."""

    form: Literal["tilewright records 1"]
    rows: list[Row]


def rows_of(records: Records, *, only_won: bool = False) -> list[Row]:
    """Every candidate of a store, in the order of its key."""
    with records.store.reading() as connection:
        columns = columns_there(connection, Row.__struct_fields__)
        wanted = select(*columns).order_by(*CANDIDATES.primary_key)
        if only_won:
            wanted = wanted.where(CANDIDATES.c.won)
        rows = connection.execute(wanted).all()
    return [_row(dict(zip(Row.__struct_fields__, row, strict=True)), records) for row in rows]


def _row(columns: dict[str, object], records: Records) -> Row:
    try:
        point = point_of(cast("str", columns["candidate"]))
        return msgspec.convert({**columns, "candidate": point}, Row)
    except (msgspec.ValidationError, msgspec.DecodeError, ValueError) as error:
        raise RecordsUnreadable(
            f"a record is damaged: {error}", where=records.store.name, fix="name another file"
        ) from error


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Writes a file of records; equal rows give equal bytes. Raises WriteFailed."""
    replace_file(path, msgspec.json.format(msgspec.json.encode(File(_FORM, [*rows])), indent=1))


def read_rows(path: Path) -> list[Row]:
    """The rows of a file that `write_rows` wrote. Raises RecordsUnreadable."""
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST >> 20} MB")
        return msgspec.json.decode(path.read_bytes(), type=File).rows
    except (OSError, ValueError, msgspec.DecodeError, RecursionError) as error:
        raise RecordsUnreadable(
            f"these are no records: {error}",
            where=str(path),
            fix="give a file that `tilewright tune export` wrote",
        ) from error


def merge(records: Records, rows: Iterable[Row]) -> int:
    """Adds rows to a store, and makes the faster of two winners the winner; how many were new.

    What the store knows of a candidate stays: it was measured there.
    """
    added = 0
    for key, group in _by_key(rows):
        known = records.results(key)
        fresh = [row for row in group if point_text(row.candidate) not in known]
        with records.store.writing() as connection:
            for row in fresh:
                put(connection, key, row.candidate, row.result)
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
        groups.setdefault(row.key, []).append(row)
    yield from groups.items()
