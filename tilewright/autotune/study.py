"""One Optuna study over one space: ask, measure in a child process, tell.

A candidate wins only if it computes what the reference does, is faster than the default in three
rounds of four and by `MARGIN` in the median, and is so again when it is measured once more, twice
as long. Ties go to the default. A winner is recorded when it is found, so that a study may be
interrupted.
"""

from __future__ import annotations

import statistics
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tilewright.autotune.bench import Bench, Measure
from tilewright.autotune.job import Failure, Measured
from tilewright.autotune.records import Records, Result, point_text, unusable
from tilewright.autotune.subjects import Subject
from tilewright.autotune.worker import Worker
from tilewright.codegen.space import Point, Space
from tilewright.dsl.errors import InvalidBudget, MissingPackage

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import Trial

MARGIN = 0.03
"""A winner is at least this part faster than the default."""
ROUNDS = 9
"""How many times each side of a comparison is timed."""

_POINT = "point"
"""What a waiting trial is to try, by this name."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is known after a search: the winner and its time over the default's, or None.

    `reason` is why the last of the failures failed; `complete` is False where time ran out.
    """

    winner: Point | None
    ratio: float
    trials: int
    failures: int
    reason: str | None = None
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Budget:
    """When a search ends: after so many trials or seconds, whichever comes first.

    Raises InvalidBudget for what leaves it none.
    """

    trials: int = 64
    seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.trials < 1 or not 0 < self.seconds <= threading.TIMEOUT_MAX:
            raise InvalidBudget(
                f"a study of {self.trials} trials in {self.seconds:g} s measures nothing",
                fix="give at least one trial, and a number of seconds above 0",
            )


def search(
    subject: Subject,
    records: Records,
    budget: Budget,
    measure: Measure | None = None,
    first: Iterable[Point] | None = None,
    seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Searches the space of one subject, and records every candidate and the winner.

    measure: how a task is answered, by default in a child process.
    first: points to try before the sampler's own; by default the whole space where the budget has
    as many trials, else the neighbours of the untuned point.
    progress: called with what is done next.

    Raises RecordsUnreadable, BaselineFailed, and MissingPackage without Optuna.
    """
    records.require_writable()
    with (
        _readable(records),
        Bench(subject, measure or Worker(), budget.seconds) as bench,
    ):
        found = _Search(subject, records, bench, _study(subject, records, seed))
        most = found.enqueue(first, budget.trials)
        while found.trials < most and found.complete:
            progress(f"trial {found.trials + 1} of {most}, {found.standing}")
            found.step()
        if found.complete:
            records.crown(subject.key, found.winner or subject.space.default)
        return Outcome(
            found.winner, found.ratio, found.trials, found.failures, found.reason, found.complete
        )


class _Search:
    """A search under way."""

    def __init__(self, subject: Subject, records: Records, bench: Bench, study: Study) -> None:
        self._subject, self._records, self._bench, self._study = subject, records, bench, study
        won = records.winner(subject.key)
        legal = won is not None and subject.space.refusal(won[0]) is None
        self.winner, self.ratio = won if won is not None and legal else (None, 1.0)
        self.trials = self.failures = 0
        self.reason: str | None = None
        self.complete = True

    @property
    def standing(self) -> str:
        """The best so far, and the time left."""
        best = "none faster yet" if self.winner is None else f"best x{self.ratio:.3f}"
        return f"{best}, {self._bench.left:.0f} s left"

    def enqueue(self, first: Iterable[Point] | None, trials: int) -> int:
        """Asks for points before the sampler's own; how many trials there are to be."""
        space = self._subject.space
        default = point_text(space.default)
        known = {default, *self._records.results(self._subject.key), *_waiting(self._study)}
        small = first is None and space.size <= trials
        chosen = space.neighbours(space.default) if first is None else first
        for point in (*chosen, *(space.points() if small else ())):
            if point_text(point) not in known:
                known.add(point_text(point))
                self._study.enqueue_trial(dict(point), {_POINT: point_text(point)})
        return min(trials, sum(1 for _ in _waiting(self._study))) if small else trials

    def step(self) -> None:
        """One trial. One that time or Ctrl-C ends is told as failed, and not recorded."""
        from optuna.trial import TrialState

        trial = self._study.ask()
        state, ratio = TrialState.FAIL, None
        try:
            point = _suggested(trial, self._subject.space)
            result = self._result(point)
            if result is None:
                self.complete = False
                return
            self.trials += 1
            ratio = result.ratio
            state = TrialState.PRUNED if ratio is None else TrialState.COMPLETE
            if ratio is None:
                self.failures += 1
                self.reason = result.failure
        finally:
            self._study.tell(trial, ratio, state)

    def _result(self, point: Point) -> Result | None:
        """What is known of a point, else what is measured now; None where the time is over."""
        if point_text(point) == point_text(self._subject.space.default):
            return Result(ratio=1.0)
        refusal = self._subject.space.refusal(point)
        if refusal is not None:
            return Result(failure=refusal)
        key = self._subject.key
        known = self._records.results(key).get(point_text(point))
        if known is not None:
            return known
        found = self._bench.compare(point, ROUNDS)
        lead = self._lead(found)
        if lead is not None:
            found = self._bench.compare(point, 2 * ROUNDS)
            lead = self._lead(found)
        if found is None:
            return None
        result = _judged(found)
        self._records.put(key, point, result)
        if lead is not None:
            self._records.crown(key, point)
            self.winner, self.ratio = point, lead
        return result

    def _lead(self, found: Measured | Failure | None) -> float | None:
        """Its time over the default's, where that is better than the best so far."""
        if not isinstance(found, Measured) or not wins(found):
            return None
        ratio = _ratio(found)
        return ratio if ratio < self.ratio else None


@contextmanager
def _readable(records: Records) -> Generator[None]:
    """Makes what Optuna's storage raises the mistake of the file."""
    try:
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import SQLAlchemyError
    except ModuleNotFoundError as error:
        raise MissingPackage("tuning needs Optuna", fix="pip install 'tilewright[tune]'") from error
    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        raise unusable(records.path, error) from error


def _study(subject: Subject, records: Records, seed: int) -> Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = optuna.storages.RDBStorage(records.url)
    except RuntimeError as error:  # the tables are of another version of Optuna
        raise unusable(records.path, error) from error
    return optuna.create_study(
        study_name="/".join((*subject.key.row, subject.space.fingerprint)),
        storage=storage,
        sampler=optuna.samplers.TPESampler(seed=seed),
        direction="minimize",
        load_if_exists=True,
    )


def _waiting(study: Study) -> Iterator[str]:
    """The points that were asked for and not tried yet, of an earlier search too."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        yield str(trial.user_attrs.get(_POINT))


def _suggested(trial: Trial, space: Space) -> Point:
    asked: list[tuple[str, Any]] = [
        (d.name, trial.suggest_categorical(d.name, d.values)) for d in space.dimensions
    ]
    return {name: value for name, value in asked if isinstance(value, int | str)}


def _judged(found: Measured | Failure) -> Result:
    if isinstance(found, Failure):
        return Result(failure=found.reason)
    if found.mismatch is not None:
        return Result(failure=f"wrong: {found.mismatch}")
    return Result(_ratio(found), statistics.median(found.candidate))


def wins(found: Measured | Failure) -> bool:
    """True where a candidate is right, and faster than the default outside the noise."""
    if not isinstance(found, Measured) or found.mismatch is not None or len(found.candidate) < 4:
        return False
    ratios = sorted(_ratios(found))
    return _ratio(found) < 1 - MARGIN and ratios[3 * len(ratios) // 4] < 1


def _ratio(found: Measured) -> float:
    return statistics.median(_ratios(found))


def _ratios(found: Measured) -> list[float]:
    return [c / b for c, b in zip(found.candidate, found.baseline, strict=True)]
