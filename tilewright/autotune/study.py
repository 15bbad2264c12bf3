"""One Optuna study over one space: ask, measure in a child process, tell.

A candidate wins only if it computes what the reference does, is faster than the default in three
rounds of four and by `MARGIN` in the median, and is so again when it is measured once more. Ties go
to the default.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from tilewright.autotune.job import Job, Measured
from tilewright.autotune.records import Records, Result
from tilewright.autotune.subjects import ROUNDS, Subject
from tilewright.autotune.worker import Failure, Worker
from tilewright.codegen.space import Point, Space

if TYPE_CHECKING:
    from optuna.trial import Trial

MARGIN = 0.03
"""A winner is at least this part faster than the default."""
_FINALISTS = 3
"""How many of the fastest candidates are measured again."""

Measure = Callable[[Job], Measured | Failure]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a search found: the winner and its time over the default's, or None for the default."""

    winner: Point | None
    ratio: float
    trials: int
    failures: int


@dataclass(frozen=True, slots=True)
class Budget:
    """When a search ends: after so many trials or seconds, whichever comes first."""

    trials: int = 64
    seconds: float = 60.0


def search(
    subject: Subject,
    records: Records,
    budget: Budget,
    measure: Measure | None = None,
    first: Iterable[Point] | None = None,
    seed: int = 0,
) -> Outcome:
    """Searches the space of one subject, and records every candidate and the winner.

    measure: how a job is measured, by default in a child process.
    first: points to try before the sampler's own, by default the neighbours of the untuned one.

    Raises RecordsUnreadable, and MissingPackage without Optuna.
    """
    ask = measure or Worker()
    study = _study(subject, records, seed)
    start = time.perf_counter()
    for point in subject.space.neighbours(subject.space.default) if first is None else first:
        study.enqueue_trial(dict(point), skip_if_exists=True)
    candidates: dict[str, tuple[float, Point]] = {}
    trials = failures = 0
    while trials < budget.trials and time.perf_counter() - start < budget.seconds:
        trials += 1
        trial = study.ask()
        point = _suggested(trial, subject.space)
        result = _result(subject, records, point, ask)
        if result.ratio is None:
            failures += 1
            study.tell(trial, state=_pruned())
            continue
        study.tell(trial, result.ratio)
        candidates[_text(point)] = (result.ratio, point)
    winner, ratio = _confirmed(subject, candidates.values(), ask)
    records.crown(subject.key, winner)
    return Outcome(winner, ratio, trials, failures)


def _study(subject: Subject, records: Records, seed: int) -> Any:
    try:
        import optuna
    except ModuleNotFoundError as error:
        from tilewright.dsl.errors import MissingPackage

        raise MissingPackage("tuning needs Optuna", fix="pip install 'tilewright[tune]'") from error
    records.results(subject.key)  # the file is made, or refused, before Optuna opens it
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        study_name="/".join((*subject.key.row, subject.space.fingerprint)),
        storage=optuna.storages.RDBStorage(records.url),
        sampler=optuna.samplers.TPESampler(seed=seed),
        direction="minimize",
        load_if_exists=True,
    )


def _pruned() -> Any:
    from optuna.trial import TrialState

    return TrialState.PRUNED


def _suggested(trial: Trial, space: Space) -> Point:
    asked = ((d.name, trial.suggest_categorical(d.name, d.values)) for d in space.dimensions)
    return {name: value for name, value in asked if isinstance(value, int | str)}


def _result(subject: Subject, records: Records, point: Point, measure: Measure) -> Result:
    """What is known of a point, else what is measured now."""
    if _text(point) == _text(subject.space.default):
        return Result(ratio=1.0)
    refusal = subject.space.refusal(point)
    if refusal is not None:
        return Result(failure=refusal)
    known = records.results(subject.key).get(_text(point))
    if known is not None:
        return known
    found = _judged(measure(subject.job(point, ROUNDS)))
    records.put(subject.key, point, found)
    return found


def _judged(found: Measured | Failure) -> Result:
    if isinstance(found, Failure):
        return Result(failure=found.reason)
    if found.mismatch is not None:
        return Result(failure=f"wrong: {found.mismatch}")
    return Result(statistics.median(_ratios(found)), statistics.median(found.candidate))


def _confirmed(
    subject: Subject, candidates: Iterable[tuple[float, Point]], measure: Measure
) -> tuple[Point | None, float]:
    """The fastest candidate that wins a second, longer comparison too."""
    faster = sorted((c for c in candidates if c[0] < 1 - MARGIN), key=lambda c: c[0])
    for _, point in faster[:_FINALISTS]:
        found = measure(subject.job(point, 2 * ROUNDS))
        if wins(found):
            assert isinstance(found, Measured)
            return point, statistics.median(_ratios(found))
    return None, 1.0


def wins(found: Measured | Failure) -> bool:
    """True where a candidate is right, and faster than the default outside the noise."""
    if isinstance(found, Failure) or found.mismatch is not None or len(found.candidate) < 4:
        return False
    ratios = sorted(_ratios(found))
    return statistics.median(ratios) < 1 - MARGIN and ratios[3 * len(ratios) // 4] < 1


def _ratios(found: Measured) -> list[float]:
    return [c / b for c, b in zip(found.candidate, found.baseline, strict=True)]


def _text(point: Point) -> str:
    return msgspec.json.encode(dict(point), order="sorted").decode()
