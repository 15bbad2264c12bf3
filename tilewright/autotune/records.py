"""What was measured, and what won: a table in the SQLite file that also holds the studies.

A row is one candidate: kind, subject (the hash of a region, or of a program with its passes and its
plan), shape class (of a plan: graph and sizes), target, versions of the tools, and the candidate
itself. Rows outlive the space they were drawn from.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec

from tilewright.codegen.compiler import Options
from tilewright.codegen.key import tvm_version
from tilewright.codegen.space import Point, Schedules
from tilewright.dsl.errors import RecordsUnreadable
from tilewright.dsl.hashing import text_hash
from tilewright.dsl.program import Program
from tilewright.passes.plan import Plan
from tilewright.target.cpu import resolve
from tilewright.version import __version__

Kind = Literal["schedule", "plan"]

_TABLE = """
CREATE TABLE IF NOT EXISTS tilewright_candidates (
    kind TEXT NOT NULL, subject TEXT NOT NULL, shapes TEXT NOT NULL, target TEXT NOT NULL,
    tools TEXT NOT NULL, candidate TEXT NOT NULL,
    ratio REAL, seconds REAL, failure TEXT, won INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (kind, subject, shapes, target, tools, candidate)
)"""


@dataclass(frozen=True, slots=True)
class RecordKey:
    """What a candidate was a candidate for."""

    kind: Kind
    subject: str
    shapes: str
    target: str
    tools: str

    @property
    def row(self) -> tuple[str, ...]:
        """The columns of the table that it fills."""
        return (self.kind, self.subject, self.shapes, self.target, self.tools)


@dataclass(frozen=True, slots=True)
class Result:
    """A candidate's time over the default's, its seconds a call, or why it has neither."""

    ratio: float | None = None
    seconds: float | None = None
    failure: str | None = None


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


def unusable(path: Path, error: Exception) -> RecordsUnreadable:
    """The mistake of a file that is damaged, or no such file, or not to be written."""
    return RecordsUnreadable(
        f"the records cannot be used: {error}",
        where=str(path),
        fix="name another file, or remove this one",
    )


@dataclass(frozen=True, slots=True)
class Records:
    """The table in one file. Every method raises RecordsUnreadable where that is damaged."""

    path: Path

    @property
    def url(self) -> str:
        """The file as a study's storage."""
        return f"sqlite:///{self.path.resolve()}"

    def put(self, key: RecordKey, candidate: Point, result: Result) -> None:
        """Adds or replaces a measurement; whether the candidate has won stays as it is."""
        row = (*key.row, point_text(candidate), result.ratio, result.seconds, result.failure)
        with self._open() as table:
            table.execute(
                "INSERT INTO tilewright_candidates VALUES (?,?,?,?,?,?,?,?,?,0) "
                "ON CONFLICT DO UPDATE SET ratio=excluded.ratio, seconds=excluded.seconds, "
                "failure=excluded.failure",
                row,
            )

    def results(self, key: RecordKey) -> dict[str, Result]:
        """Every candidate that was measured under a key, by its text."""
        with self._open() as table:
            rows = table.execute(
                f"SELECT candidate, ratio, seconds, failure FROM tilewright_candidates {_WHERE}",
                key.row,
            ).fetchall()
        return {text: Result(*rest) for text, *rest in rows}

    def require_writable(self) -> None:
        """Makes the file if there is none. Raises RecordsUnreadable where it cannot be written."""
        with self._open() as table:
            table.execute("UPDATE tilewright_candidates SET won=won WHERE rowid=0")

    def winner(self, key: RecordKey) -> tuple[Point, float] | None:
        """The candidate that has won under a key, and its time over the default's."""
        with self._open() as table:
            rows = table.execute(
                f"SELECT candidate, ratio FROM tilewright_candidates {_WHERE} AND won=1", key.row
            ).fetchall()
        return next(((_point(text), float(ratio)) for text, ratio in rows), None)

    def crown(self, key: RecordKey, candidate: Point) -> None:
        """Makes one candidate the winner; where it was never put (a default), there is none.

        A schedule wins for its shape class. A choice is made once for all sizes: what the latest
        study found, at whatever sizes, is what counts.
        """
        where, row = _WHERE, key.row
        if key.kind == "plan":
            where, row = _ANY_SIZE, (key.kind, key.subject, key.target, key.tools)
        with self._open() as table:
            rivals = table.execute(
                f"SELECT rowid, candidate FROM tilewright_candidates {where} AND won=1", row
            ).fetchall()
            for rowid, text in rivals:
                if key.kind == "schedule" or _point(text).keys() == candidate.keys():
                    table.execute("UPDATE tilewright_candidates SET won=0 WHERE rowid=?", (rowid,))
            table.execute(
                f"UPDATE tilewright_candidates SET won=1 {_WHERE} AND candidate=?",
                (*key.row, point_text(candidate)),
            )

    def schedules(self, target: str) -> Schedules:
        """All schedules that have won on a target, with the tools that are installed."""
        with self._open("ro") as table:
            rows = table.execute(
                "SELECT subject, shapes, candidate FROM tilewright_candidates "
                "WHERE won=1 AND kind='schedule' AND target=? AND tools=?",
                (target, tools()),
            ).fetchall()
            return Schedules({(subject, shapes): _point(text) for subject, shapes, text in rows})

    def plan(self, program: Program, options: Options) -> Plan:
        """The choices that have won for a program."""
        with self._open("ro") as table:
            rows = table.execute(
                "SELECT candidate FROM tilewright_candidates "
                "WHERE won=1 AND kind='plan' AND subject=? AND target=? AND tools=?",
                (planned(program, options), str(resolve(options.target)), tools()),
            ).fetchall()
            return Plan.of({k: str(v) for (text,) in rows for k, v in _point(text).items()})

    def applied(self, program: Program, options: Options) -> Options:
        """The options of a compilation with what has won; what they say themselves stays.

        Raises RecordsUnreadable, also where there is no file: nothing is made by reading.
        """
        if not self.path.is_file():
            raise RecordsUnreadable(
                "there is no file of records",
                where=str(self.path),
                fix="name the file that `tilewright tune` wrote",
            )
        target = str(resolve(options.target))
        won = self.plan(program, options)
        plan = Plan.of({**dict(won.entries), **dict(options.plan.entries)})
        points = {**self.schedules(target).points, **options.schedules.points}
        return replace(options, plan=plan, schedules=Schedules(points))

    @contextmanager
    def _open(self, mode: Literal["ro", "rwc"] = "rwc") -> Generator[sqlite3.Connection]:
        """The table; what a compilation only reads ("ro") it neither makes nor changes."""
        address = f"{self.path.resolve().as_uri()}?mode={mode}"
        try:
            if mode == "rwc":
                self.path.parent.mkdir(parents=True, exist_ok=True)
            connected = sqlite3.connect(address, timeout=60, uri=True)
            with closing(connected) as connection, connection:
                if mode == "rwc":
                    connection.execute(_TABLE)
                yield connection
        except (sqlite3.Error, OSError, msgspec.DecodeError, TypeError) as error:
            raise unusable(self.path, error) from error


_WHERE = "WHERE kind=? AND subject=? AND shapes=? AND target=? AND tools=?"
_ANY_SIZE = "WHERE kind=? AND subject=? AND target=? AND tools=?"


def point_text(candidate: Point) -> str:
    """A candidate as it stands in the table; equal for equal points."""
    return msgspec.json.encode(dict(candidate), order="sorted").decode()


def _point(text: str) -> Point:
    return msgspec.json.decode(text, type=dict[str, bool | int | str])
