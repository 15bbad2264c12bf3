"""What was measured, and what won: a table in the store that also holds the studies.

A row is one candidate: kind, subject (the hash of a region, or of a program with its passes and its
plan), shape class (of a plan: graph and sizes), target, versions of the tools, and the candidate
itself. Rows outlive the space they were drawn from.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Connection, Table, and_, false, select, update

from tilewright.autotune.rows import Kind
from tilewright.autotune.store import Store, columns_there, unusable, upsert
from tilewright.autotune.tables import CANDIDATES, KEY, SUBJECTS
from tilewright.autotune.traits import Traits, distance, read_traits
from tilewright.autotune.winners import with_shipped
from tilewright.codegen.compiler import Options
from tilewright.codegen.key import tvm_version
from tilewright.codegen.space import Point, Schedules
from tilewright.dsl.hashing import text_hash
from tilewright.dsl.program import Program
from tilewright.passes.plan import Plan
from tilewright.target.cpu import resolve
from tilewright.version import __version__

_ALIKE: Final = 8
"""Of so many kernels of a family a search takes note."""


@dataclass(frozen=True, slots=True)
class RecordKey:
    """What a candidate was a candidate for."""

    kind: Kind
    subject: str
    shapes: str
    target: str
    tools: str

    @property
    def columns(self) -> dict[str, str]:
        """The columns that it fills, in the order of the tables."""
        return {name: getattr(self, name) for name in KEY}

    def __str__(self) -> str:
        return "/".join(self.columns.values())

    def matches(self, table: Table, *, without: str | None = None) -> ColumnElement[bool]:
        """The rows under this key, whatever one of its columns says."""
        columns = self.columns.items()
        return and_(*(table.c[name] == value for name, value in columns if name != without))


@dataclass(frozen=True, slots=True)
class Result:
    """A candidate's time over the default's, its seconds a call, or why it has neither.

    `low` and `high` are the 95 % interval of the ratio; `bytes` what the candidate takes in memory
    (`footprint`) and `default_bytes` what the default takes, where that is known.
    """

    ratio: float | None = None
    seconds: float | None = None
    failure: str | None = None
    low: float | None = None
    high: float | None = None
    bytes: int | None = None
    default_bytes: int | None = None


_FAILURES: Final = (
    ("wrong: ", "wrong"),
    ("it took longer than ", "too slow"),
    ("it was ended by signal ", "crashed"),
    ("it ended with ", "ended"),
)


def failure_class(reason: str) -> str:
    """A word for a kind of failure, or the mistake of the compiler that it was."""
    for begin, name in _FAILURES:
        if reason.startswith(begin):
            return name
    mistake, separator, _ = reason.partition(": ")
    return mistake if separator and mistake.isidentifier() else "other"


def failures_of(results: Mapping[str, Result]) -> Counter[str]:
    """How many of the results, by point text, failed in which way."""
    return Counter(failure_class(r.failure) for r in results.values() if r.failure is not None)


def tools() -> str:
    """The versions that times depend on."""
    return f"tilewright {__version__}, tvm {tvm_version()}"


def planned(program: Program, options: Options) -> str:
    """What a choice is tuned for: a program, the passes it goes through, the plan it has already.

    All of them decide which choices are met, and what taking one option costs.
    """
    plan = msgspec.json.encode(dict(options.plan.entries), order="sorted").decode()
    text = "\n".join((text_hash(program), str(options.pipeline), plan))
    return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()


@dataclass(frozen=True, slots=True)
class Similar:
    """Another kernel of the same family: what it is, and what was measured of it."""

    traits: Traits
    results: Mapping[str, Result]


@dataclass(frozen=True, slots=True)
class Records:
    """The candidates of a store. Every method raises what `Store` does."""

    store: Store

    @staticmethod
    def at(location: Path | str) -> Records:
        """Those of a file or a database. Raises RecordsUnreadable for other URLs."""
        return Records(Store.at(location))

    def put(self, key: RecordKey, candidate: Point, result: Result) -> None:
        """Adds or replaces a measurement; whether the candidate has won stays as it is."""
        with self.store.writing() as connection:
            put(connection, key, candidate, result)

    def results(self, key: RecordKey) -> dict[str, Result]:
        """Every candidate that was measured under a key, by its text."""
        columns = (CANDIDATES.c[name] for name in ("candidate", *Result.__dataclass_fields__))
        with self.store.writing() as connection:
            rows = connection.execute(select(*columns).where(key.matches(CANDIDATES))).all()
        return {text: Result(*rest) for text, *rest in rows}

    def describe(self, key: RecordKey, family: str, traits: Traits) -> None:
        """Notes what a subject is, so that others can learn from it."""
        what = {"family": family, "traits": msgspec.json.encode(dict(traits)).decode()}
        with self.store.writing() as connection:
            upsert(connection, SUBJECTS, {**key.columns, **what}, what)

    def is_described(self, key: RecordKey) -> bool:
        """Whether a subject was noted."""
        with self.store.writing() as connection:
            wanted = select(SUBJECTS.c.family).where(key.matches(SUBJECTS))
            return connection.execute(wanted).first() is not None

    def similar(self, key: RecordKey) -> list[Similar]:
        """What is known of the other kernels of a subject's family, the most alike ones first."""
        with self.store.writing() as connection:
            rows = connection.execute(select(SUBJECTS)).all()
        described = {RecordKey(*row[:5]): (row[5], read_traits(row[6])) for row in rows}
        family, traits = described.pop(key)
        alike = [
            (apart, other, theirs)
            for other, (kind, theirs) in described.items()
            if kind == family and (apart := distance(traits, theirs)) is not None
        ]
        nearest = sorted(alike, key=lambda found: (found[0], str(found[1])))[:_ALIKE]
        return [Similar(theirs, self.results(other)) for _, other, theirs in nearest]

    def require_writable(self) -> None:
        """Makes the tables if there are none. Raises RecordsUnreadable where that fails."""
        with self.store.writing() as connection:
            connection.execute(update(CANDIDATES).where(false()).values(won=False))

    def winner(self, key: RecordKey) -> tuple[Point, float] | None:
        """The candidate that has won under a key, and its time over the default's."""
        wanted = select(CANDIDATES.c.candidate, CANDIDATES.c.ratio)
        with self.store.writing() as connection:
            row = connection.execute(
                wanted.where(key.matches(CANDIDATES), CANDIDATES.c.won)
            ).first()
        return None if row is None else (point_of(row[0]), float(row[1]))

    def winners(self, key: RecordKey) -> list[tuple[RecordKey, Point]]:
        """What has won for a subject and shape class, on any target and with any tools."""
        same = {"kind": key.kind, "subject": key.subject, "shapes": key.shapes}
        columns = [CANDIDATES.c[name] for name in (*KEY, "candidate")]
        wanted = select(*columns).where(
            CANDIDATES.c.won, *(CANDIDATES.c[name] == value for name, value in same.items())
        )
        with self.store.writing() as connection:
            rows = connection.execute(wanted.order_by(*columns)).all()
        return [(RecordKey(*rest), point_of(text)) for *rest, text in rows]

    def crown(self, key: RecordKey, candidate: Point) -> None:
        """Makes one candidate the winner; where it was never put (a default), there is none.

        A schedule wins for its shape class. A choice is made once for all sizes: what the latest
        study found, at whatever sizes, is what counts.
        """
        rivals = key.matches(CANDIDATES)
        if key.kind == "plan":
            rivals = key.matches(CANDIDATES, without="shapes")
        with self.store.writing() as connection:
            won = select(CANDIDATES.c.shapes, CANDIDATES.c.candidate)
            for shapes, text in connection.execute(won.where(rivals, CANDIDATES.c.won)).all():
                if key.kind == "schedule" or point_of(text).keys() == candidate.keys():
                    _set_won(connection, replace(key, shapes=shapes), text, False)
            _set_won(connection, key, point_text(candidate), True)

    def schedules(self, target: str) -> Schedules:
        """All schedules that have won on a target, with the tools that are installed."""
        found = select(CANDIDATES.c.subject, CANDIDATES.c.shapes, CANDIDATES.c.candidate)
        with self.store.reading() as connection:
            rows = connection.execute(found.where(_won("schedule", target))).all()
        points = {(subject, shapes): point_of(text) for subject, shapes, text in rows}
        return Schedules.of(points, "store")

    def searched(self, target: str) -> set[tuple[str, str]]:
        """The regions and shape classes of which this store knows any candidate on a target."""
        found = select(CANDIDATES.c.subject, CANDIDATES.c.shapes).distinct()
        with self.store.reading() as connection:
            rows = connection.execute(found.where(_current("schedule", target))).all()
        return {(subject, shapes) for subject, shapes in rows}

    def measured(self, target: str) -> dict[tuple[str, str], dict[str, Result]]:
        """All schedules that were measured on a target, by region and shape class, and text."""
        names = ("subject", "shapes", "candidate", *Result.__dataclass_fields__)
        with self.store.reading() as connection:
            wanted = select(*columns_there(connection, names)).select_from(CANDIDATES)
            found = connection.execute(wanted.where(_current("schedule", target))).all()
        rows: list[tuple[Any, ...]] = [tuple(row) for row in found]
        measured: dict[tuple[str, str], dict[str, Result]] = {}
        for subject, shapes, text, *rest in rows:
            measured.setdefault((subject, shapes), {})[text] = Result(*rest)
        return measured

    def plan(self, program: Program, options: Options) -> Plan:
        """The choices that have won for a program."""
        wanted = _won("plan", str(resolve(options.target)))
        same = CANDIDATES.c.subject == planned(program, options)
        with self.store.reading() as connection:
            rows = connection.execute(select(CANDIDATES.c.candidate).where(wanted, same)).all()
        return Plan.of({k: str(v) for (text,) in rows for k, v in point_of(text).items()})

    def applied(self, program: Program, options: Options, *, shipped: bool = True) -> Options:
        """The options of a compilation with what has won; what they say themselves stays.

        shipped: whether a kernel of which nothing is recorded takes the schedule that ships, if
        there is one.

        Raises RecordsUnreadable, also where there is no file: nothing is made by reading.
        """
        target = str(resolve(options.target))
        with decoding(self.store):
            won = self.plan(program, options)
            plan = Plan.of({**dict(won.entries), **dict(options.plan.entries)})
            schedules = options.schedules.over(self.schedules(target))
        found = replace(options, plan=plan, schedules=schedules)
        return with_shipped(found, self.searched(target)) if shipped else found


def put(connection: Connection, key: RecordKey, candidate: Point, result: Result) -> None:
    """`Records.put` as a part of a transaction."""
    measured = asdict(result)
    row = {**key.columns, "candidate": point_text(candidate), "won": False, **measured}
    upsert(connection, CANDIDATES, row, measured)


def _set_won(connection: Connection, key: RecordKey, candidate: str, won: bool) -> None:
    same = CANDIDATES.c.candidate == candidate
    connection.execute(update(CANDIDATES).where(key.matches(CANDIDATES), same).values(won=won))


def _won(kind: Kind, target: str) -> ColumnElement[bool]:
    """Winners of a kind on a target, with the tools that are installed."""
    return and_(CANDIDATES.c.won, _current(kind, target))


def _current(kind: Kind, target: str) -> ColumnElement[bool]:
    """All candidates of a kind on a target, with the tools that are installed."""
    found = {"kind": kind, "target": target, "tools": tools()}
    return and_(*(CANDIDATES.c[name] == value for name, value in found.items()))


@contextmanager
def decoding(store: Store) -> Generator[None]:
    """Makes a candidate that cannot be read the mistake of its store."""
    try:
        yield
    except (msgspec.DecodeError, TypeError) as error:
        raise unusable(store, error) from error


def point_text(candidate: Point) -> str:
    """A candidate as it stands in the table; equal for equal points."""
    return msgspec.json.encode(dict(candidate), order="sorted").decode()


def point_of(text: str) -> Point:
    """The candidate of a text. Raises msgspec.DecodeError."""
    return msgspec.json.decode(text, type=dict[str, bool | int | str])
