"""What a store of records remembers of each subject, in the order it was tried. It only reads.

Candidates are rows of our table; which trial of which study tried one first is Optuna's to tell.
Records outlive the studies, and may come from elsewhere: then there is no trial, and they stand
behind those that have one, as the table gives them.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import msgspec

from tilewright.autotune.records import RecordKey, Result, point_of, point_text
from tilewright.autotune.rows import Kind
from tilewright.autotune.store import Store, as_template, columns_there, unusable
from tilewright.autotune.tables import CANDIDATES
from tilewright.codegen.space import Point

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial
    from sqlalchemy import Connection


@dataclass(frozen=True, slots=True)
class Candidate:
    """One that was measured or has failed: `ratio` is its time over the default's.

    low, high, bytes, default_bytes: as of a `Result`.
    trial: which of its study's trials tried it first, from 0, and `when`; None where no study knows
    it.
    """

    point: Point
    ratio: float | None
    seconds: float | None
    failure: str | None
    won: bool
    trial: int | None = None
    when: datetime | None = None
    low: float | None = None
    high: float | None = None
    bytes: int | None = None
    default_bytes: int | None = None

    @property
    def result(self) -> Result:
        """What was measured."""
        times = (self.ratio, self.seconds, self.failure, self.low, self.high)
        return Result(*times, self.bytes, self.default_bytes)


@dataclass(frozen=True, slots=True)
class History:
    """Everything that was tried for one subject, in order."""

    key: RecordKey
    candidates: tuple[Candidate, ...]

    @property
    def winner(self) -> Candidate | None:
        """What a compilation takes; None: the default."""
        return next((c for c in self.candidates if c.won and c.ratio is not None), None)

    @property
    def ratio(self) -> float:
        """The winner's time over the default's; 1 where that stays."""
        return 1.0 if self.winner is None else self.winner.ratio or 1.0


def histories(store: Store) -> list[History]:
    """The subjects of a store, in the order in which they were begun.

    Raises RecordsUnreadable for a store that is absent or damaged, and MissingPackage.
    """
    with _reading(store) as connection:
        rows = _rows(connection)
        studies = _studies(connection)
        found: dict[RecordKey, list[_Row]] = {}
        for row in rows:
            found.setdefault(row.key, []).append(row)
        made = [_history(key, rows, studies.get(str(key), [])) for key, rows in found.items()]
    return sorted(made, key=lambda history: _begun(history.candidates))


_Positive = Annotated[float, msgspec.Meta(gt=0, lt=1e12)]
_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Row(msgspec.Struct, frozen=True):
    """A row of the table; SQLite itself holds it to no types."""

    kind: Kind
    subject: str
    shapes: str
    target: str
    tools: str
    candidate: str
    ratio: _Positive | None
    seconds: _Positive | None
    failure: str | None
    won: bool | int
    low: _Positive | None
    high: _Positive | None
    bytes: _Count | None
    default_bytes: _Count | None

    @property
    def key(self) -> RecordKey:
        return RecordKey(self.kind, self.subject, self.shapes, self.target, self.tools)


def _rows(connection: Connection) -> list[_Row]:
    from sqlalchemy import select

    names = _Row.__struct_fields__
    rows = connection.execute(select(*columns_there(connection, names)).select_from(CANDIDATES))
    return [msgspec.convert(dict(zip(names, row, strict=True)), _Row) for row in rows]


def _studies(connection: Connection) -> dict[str, list[FrozenTrial]]:
    """The trials that have ended, by the key of their studies; the name of a study ends with the
    fingerprint of its space, so a key may have several.
    """
    import optuna
    from optuna.exceptions import StorageInternalError
    from optuna.storages import RDBStorage
    from optuna.trial import TrialState
    from sqlalchemy import inspect

    if not inspect(connection).has_table("studies"):
        return {}
    url = connection.engine.url.render_as_string(hide_password=False)
    try:
        storage = RDBStorage(as_template(url), skip_table_creation=True)
    except (RuntimeError, StorageInternalError):  # tables of another Optuna: no order is known
        return {}
    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    found: dict[str, list[FrozenTrial]] = {}
    for name in optuna.get_all_study_names(storage):
        subject, _, _ = name.rpartition("/")
        number = storage.get_study_id_from_name(name)
        trials = storage.get_all_trials(number, deepcopy=False, states=ended)
        found.setdefault(subject, []).extend(trials)
    storage.engine.dispose()
    return found


def _history(key: RecordKey, rows: Iterable[_Row], trials: Iterable[FrozenTrial]) -> History:
    first: dict[str, FrozenTrial] = {}
    for trial in sorted(trials, key=lambda trial: trial.datetime_start or datetime.max):
        first.setdefault(point_text(trial.params), trial)
    return History(key, tuple(sorted((_candidate(row, first) for row in rows), key=_moment)))


def _candidate(row: _Row, first: Mapping[str, FrozenTrial]) -> Candidate:
    point = point_of(row.candidate)
    trial = first.get(point_text(point))
    known = (None, None) if trial is None else (trial.number, trial.datetime_start)
    beside = (row.low, row.high, row.bytes, row.default_bytes)
    return Candidate(point, row.ratio, row.seconds, row.failure, bool(row.won), *known, *beside)


def _moment(candidate: Candidate) -> datetime:
    return candidate.when or datetime.max


def _begun(candidates: Iterable[Candidate]) -> datetime:
    return min(map(_moment, candidates), default=datetime.max)


@contextmanager
def _reading(store: Store) -> Generator[Connection]:
    """A connection that makes and changes nothing."""
    with store.reading() as connection:
        from optuna.exceptions import StorageInternalError

        try:
            yield connection
        except (StorageInternalError, msgspec.DecodeError) as error:
            raise unusable(store, error.__cause__ or error) from error
