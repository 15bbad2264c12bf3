"""Who tries what: claims, results and Optuna's trials of one subject, shared by any number of
workers, and right whenever one of them is killed.

A worker claims a candidate before it measures it; the result and the end of the claim are one
transaction. Optuna's trial (what its dashboard shows) is made after the claim and finished after
the result: whoever comes next finishes what a dead worker left, from its result if there is one.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, select

from tilewright.autotune.records import RecordKey, Records, Result, point_of, point_text, put
from tilewright.autotune.store import unusable, upsert
from tilewright.autotune.tables import CANDIDATES, CLAIMS, WORKERS
from tilewright.autotune.workers import Worker
from tilewright.codegen.space import Point, Space

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

_WORKER = "worker"
_FAILURE = "failure"


class Ledger:
    """The trials of one subject over one space. Every method raises what `Store` does."""

    def __init__(self, key: RecordKey, space: Space, records: Records) -> None:
        self._key, self._space, self._records = key, space, records
        self._me = Worker.this()
        self._storage = records.store.studies()
        with self._optuna():
            self._study = _study_id(self._storage, study_name(key, space))

    def results(self) -> dict[str, Result]:
        """What is known of the points of this space, whoever measured it, by their texts."""
        found = self._records.results(self._key)
        return {text: result for text, result in found.items() if _is_of(self._space, text)}

    def claimed(self) -> set[str]:
        """The points that are being measured."""
        with self._records.store.writing() as connection:
            rows = connection.execute(select(CLAIMS.c.candidate).where(self._key.matches(CLAIMS)))
            return {text for (text,) in rows}

    def claim(self, point: Point, most: int) -> int | None:
        """The trial under which this worker may measure a point now.

        None where another has it or its result, or `most` candidates are known or claimed already.
        """
        text = point_text(point)
        with self._records.store.writing() as connection:
            self._in_turn(connection)
            if self._count(connection, text) or self._count(connection) >= most:
                return None
            row = {**self._key.columns, "candidate": text, "worker": str(self._me)}
            connection.execute(insert(CLAIMS).values(row))
        with self._optuna():
            return self._storage.create_new_trial(self._study, self._running(point))

    def settle(self, trial: int, point: Point, result: Result) -> None:
        """Keeps a result, then ends the claim and the trial."""
        with self._records.store.writing() as connection:
            put(connection, self._key, point, result)
            connection.execute(delete(CLAIMS).where(self._claim(point_text(point))))
        self._finish(trial, result)

    def release(self, trial: int, point: Point) -> None:
        """Ends a claim without a result: the point is free again."""
        with self._records.store.writing() as connection:
            connection.execute(delete(CLAIMS).where(self._claim(point_text(point))))
        self._finish(trial, None)

    def give_sign_of_life(self) -> None:
        """Tells other machines that this worker lives."""
        row = {"worker": str(self._me), "seen": time.time()}
        with self._records.store.writing() as connection:
            upsert(connection, WORKERS, row, ["seen"])

    def reclaim(self) -> int:
        """Ends the claims and the trials of workers that are gone; how many trials these were."""
        from optuna.trial import TrialState

        with self._records.store.writing() as connection:
            seen = {worker: at for worker, at in connection.execute(select(WORKERS))}
            claims = select(CLAIMS.c.candidate, CLAIMS.c.worker).where(self._key.matches(CLAIMS))
            for text, worker in connection.execute(claims).all():
                if not _lives(worker, seen):
                    connection.execute(delete(CLAIMS).where(self._claim(text)))
            for worker in seen:
                if not _lives(worker, seen):
                    connection.execute(delete(WORKERS).where(WORKERS.c.worker == worker))
        with self._optuna():
            running = self._storage.get_all_trials(
                self._study, deepcopy=False, states=(TrialState.RUNNING,)
            )
        left = [t for t in running if not _lives(str(t.user_attrs.get(_WORKER)), seen)]
        results = self.results() if left else {}
        for trial in left:
            number = self._storage.get_trial_id_from_study_id_trial_number(
                self._study, trial.number
            )
            self._finish(number, results.get(point_text(trial.params)))
        return len(left)

    def _in_turn(self, connection: Connection) -> None:
        """Lets claims of one subject come one after another; on SQLite all transactions do."""
        if connection.dialect.name == "postgresql":
            number = zlib.crc32(str(self._key).encode())
            connection.execute(select(func.pg_advisory_xact_lock(number)))

    def _count(self, connection: Connection, text: str | None = None) -> int:
        """The points of this space that are known or claimed; with a text, that one alone.

        Claims come first: PostgreSQL shows each query what was committed before it, and a point
        that is settled in between turns from a claim into a candidate.
        """
        found = 0
        for table in (CLAIMS, CANDIDATES):
            wanted = self._key.matches(table)
            if text is not None:
                wanted = and_(wanted, table.c.candidate == text)
            rows = connection.execute(select(table.c.candidate).where(wanted)).all()
            found += sum(1 for (known,) in rows if _is_of(self._space, known))
        return found

    def _claim(self, text: str) -> ColumnElement[bool]:
        return and_(self._key.matches(CLAIMS), CLAIMS.c.candidate == text)

    def _running(self, point: Point) -> FrozenTrial:
        from optuna.trial import TrialState, create_trial

        return create_trial(
            state=TrialState.RUNNING,
            params=dict(point),
            distributions=distributions(self._space),
            user_attrs={_WORKER: str(self._me)},
        )

    def _finish(self, trial: int, result: Result | None) -> None:
        """Ends Optuna's trial, unless another worker has; without a result it has failed."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        state, values = TrialState.FAIL, None
        if result is not None:
            state = TrialState.PRUNED
            if result.ratio is not None and result.bytes is not None:
                state, values = TrialState.COMPLETE, [result.ratio, float(result.bytes)]
        with self._optuna(), suppress(UpdateFinishedTrialError):
            if result is not None and result.failure is not None:
                self._storage.set_trial_user_attr(trial, _FAILURE, result.failure)
            self._storage.set_trial_state_values(trial, state, values)

    @contextmanager
    def _optuna(self) -> Generator[None]:
        """Makes what Optuna's storage raises the mistake of the store."""
        from optuna.exceptions import StorageInternalError

        with self._records.store.mistakes():
            try:
                yield
            except StorageInternalError as error:
                raise unusable(self._records.store, error.__cause__ or error) from error


def _study_id(storage: BaseStorage, name: str) -> int:
    """The study of that name, made by whoever comes first."""
    from optuna.exceptions import DuplicatedStudyError
    from optuna.study import StudyDirection

    with suppress(DuplicatedStudyError):
        return storage.create_new_study([StudyDirection.MINIMIZE] * 2, name)
    return storage.get_study_id_from_name(name)


def _lives(worker: str, seen: Mapping[str, float]) -> bool:
    return Worker.parse(worker).lives(seen.get(worker))


def _is_of(space: Space, text: str) -> bool:
    return space.refusal(point_of(text)) is None


def study_name(key: RecordKey, space: Space) -> str:
    """Optuna's name of the study of a subject over a space.

    Its values are the time over the default's and the bytes. Studies of the time alone, of older
    versions, are named by the fingerprint alone.
    """
    return f"{key}/{space.fingerprint}-time-bytes"


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The space as Optuna sees it: the order of values means nothing to it."""
    from optuna.distributions import CategoricalDistribution

    return {d.name: CategoricalDistribution(d.values) for d in space.dimensions}
