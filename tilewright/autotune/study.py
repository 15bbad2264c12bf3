"""One search over one space: propose, claim, measure in a child process, settle.

A candidate wins only if it computes what the reference does and is faster than the default by
`MARGIN` in the median, with its whole interval below 1, and is so again when it is measured once
more, twice as long and beside the winner so far, which it must beat outside the noise. Ties go to
the default, and to the older winner. A winner is recorded when it is found, so that a search may be
interrupted; any number of processes may search one subject together.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Final

from tilewright.autotune.aims import LATENCY, Aims, toward
from tilewright.autotune.bench import Bench, Measure
from tilewright.autotune.interval import MARGIN, median_interval
from tilewright.autotune.job import Failure, Measured
from tilewright.autotune.landscape import shipped, similar_to
from tilewright.autotune.launch import Launcher
from tilewright.autotune.ledger import Ledger
from tilewright.autotune.nearest import nearest_winners
from tilewright.autotune.pareto import Contender, pareto
from tilewright.autotune.propose import Proposer, everything, in_order
from tilewright.autotune.records import (
    Records,
    Result,
    Similar,
    failure_class,
    failures_of,
    point_of,
)
from tilewright.autotune.strategy import DEFAULT, Strategy, proposer
from tilewright.autotune.subjects import Subject
from tilewright.autotune.workers import SignsOfLife
from tilewright.codegen.space import Point
from tilewright.dsl.errors import InvalidBudget

ROUNDS: Final = 9
"""How many times each side of a comparison is timed."""
_PAUSE: Final = 0.1
"""Seconds between two looks at what the other workers do."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is known after a search: the winner and its time over the default's, or None.

    trials: candidates that this search measured; failures: those of them without a time, by class.
    reason: why the last of the failures failed. complete: False where time ran out.
    front: the Pareto set of times and bytes, see `pareto`.
    """

    winner: Point | None
    ratio: float
    trials: int
    failures: Counter[str]
    reason: str | None = None
    complete: bool = True
    front: Sequence[Contender] = ()


@dataclass(frozen=True, slots=True)
class Budget:
    """When a search ends: with so many candidates known or after so many seconds.

    What earlier searches and other workers measured counts among the candidates.

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
    strategy: Strategy = DEFAULT,
    progress: Callable[[str], None] = lambda line: None,
    aims: Aims = LATENCY,
) -> Outcome:
    """Searches the space of one subject, and records every candidate and the winner.

    measure: how a task is answered, by default in a child process.
    first: points to try before all others; then come winners of the nearest machines, and then the
    strategy's own. A space of no more points than the budget has trials is tried as a whole.
    progress: called with what is done next.
    aims: what candidates are proposed for. Whatever they are, the fastest one wins.

    Raises RecordsUnreadable, BaselineFailed, and MissingPackage without Optuna.
    """
    records.describe(subject.key, subject.space.family, subject.traits)
    ledger = Ledger(subject.key, subject.space, records)
    with (
        nullcontext(measure) if measure is not None else Launcher() as asked,
        Bench(subject, asked, budget.seconds) as bench,
        SignsOfLife(ledger.give_sign_of_life),
    ):
        propose = _proposer(subject, records, budget.trials, first, strategy, seed, aims)
        found = _Search(subject, records, ledger, bench, propose, budget.trials)
        found.run(progress)
        return found.outcome


def _proposer(
    subject: Subject,
    records: Records,
    trials: int,
    first: Iterable[Point] | None,
    strategy: Strategy,
    seed: int,
    aims: Aims,
) -> Proposer:
    space = subject.space
    begin = [*(first or ()), *nearest_winners(subject.key, space, records)]
    if first is None and space.size <= trials:
        return in_order(space, begin, everything(space))
    others: list[Similar] = []
    if "latency" not in aims:  # what is known beforehand is about times alone
        space = replace(space, cost=None)
    elif strategy == "guided":
        others = [*records.similar(subject.key), *similar_to(space.family, shipped())]
    made = proposer(space, strategy, seed, subject.traits, others)
    return in_order(space, begin, toward(made, aims, seed))


class _Search:
    """A search under way."""

    def __init__(
        self,
        subject: Subject,
        records: Records,
        ledger: Ledger,
        bench: Bench,
        propose: Proposer,
        most: int,
    ) -> None:
        self._subject, self._records, self._ledger = subject, records, ledger
        self._bench, self._propose, self._most = bench, propose, most
        self._trials = 0
        self._failures: Counter[str] = Counter()
        self._reason: str | None = None
        self._complete = True

    @property
    def outcome(self) -> Outcome:
        """What is known by now."""
        winner, ratio = self._best()
        failures, front = Counter(self._failures), pareto(self._ledger.results())
        return Outcome(winner, ratio, self._trials, failures, self._reason, self._complete, front)

    def run(self, progress: Callable[[str], None]) -> None:
        """Trials until there are enough, nothing is left or the time is over."""
        self._ledger.reclaim()
        while self._complete:
            busy, known = self._ledger.claimed(), self._ledger.results()
            point = self._propose(known, busy) if len(known) + len(busy) < self._most else None
            trial = None if point is None else self._ledger.claim(point, self._most)
            if point is not None and trial is not None:
                progress(f"trial {len(known) + 1} of {self._most}, {self._standing(known)}")
                self._step(trial, point)
            elif not busy and point is None:
                break
            else:
                self._wait()
        if self._complete and self._best()[0] is None:
            # A plan's winner may have lost its crown to a search at other sizes.
            self._records.crown(self._subject.key, self._won_before())

    def _wait(self) -> None:
        """For the others, who may give a point back; those that are gone are cleared away."""
        time.sleep(_PAUSE)
        self._ledger.reclaim()
        self._complete = self._bench.left > 0

    def _best(self) -> tuple[Point | None, float]:
        won = self._records.winner(self._subject.key)
        if won is None or self._subject.space.refusal(won[0]) is not None:
            return None, 1.0
        return won

    def _won_before(self) -> Point:
        """The best point that was measured to be faster than the default, or the default."""
        results = self._ledger.results().items()
        found = [(r.ratio, text) for text, r in results if r.ratio is not None and leads(r)]
        return point_of(min(found)[1]) if found else self._subject.space.default

    def _standing(self, known: Mapping[str, Result]) -> str:
        """The best so far and its gain, failures by class, whoever met them, and the time left."""
        winner, ratio = self._best()
        best = "none faster yet" if winner is None else f"best x{ratio:.3f}, gain {1 / ratio:.2f}x"
        failures = sorted(failures_of(known).items())
        failed = "".join(f", {count} {kind}" for kind, count in failures)
        return f"{best}{failed}, {self._bench.left:.0f} s left"

    def _step(self, trial: int, point: Point) -> None:
        """One trial. One that time or Ctrl-C ends is given back, and not recorded."""
        settled = False
        try:
            result, won = self._judged(point)
            if result is None:
                self._complete = False
                return
            self._ledger.settle(trial, point, result)
            settled = True
        finally:
            if not settled:
                self._ledger.release(trial, point)
        if won:
            self._records.crown(self._subject.key, point)
        self._trials += 1
        if result.failure is not None:
            self._failures[failure_class(result.failure)] += 1
            self._reason = result.failure

    def _judged(self, point: Point) -> tuple[Result | None, bool]:
        """What is measured of a point, and whether it has won; None where the time is over."""
        found = self._bench.compare(point, ROUNDS)
        won = found is not None and wins(found) and _ratio(found) < self._best()[1]
        if won:
            best = self._best()[0]
            found = self._bench.compare(point, 2 * ROUNDS, best)
            won = found is not None and wins(found) and (best is None or beats(found))
        if found is None:
            return None, False
        return replace(_result(found), default_bytes=self._bench.default_bytes), won


def wins(found: Measured | Failure) -> bool:
    """True where a candidate is right, and faster than the default outside the noise."""
    if not isinstance(found, Measured) or found.mismatch is not None or len(found.candidate) < 6:
        return False
    return leads(_result(found))


def leads(result: Result) -> bool:
    """True for a time that is shorter than the default's by the margin, and outside the noise."""
    if result.ratio is None or result.high is None:
        return False
    return result.ratio < 1 - MARGIN and result.high < 1


def beats(found: Measured | Failure) -> bool:
    """True where a candidate is faster than the winner so far outside the noise."""
    if not isinstance(found, Measured) or not found.incumbent:
        return False
    pairs = zip(found.candidate, found.incumbent, strict=True)
    return median_interval([candidate / incumbent for candidate, incumbent in pairs])[1] < 1


def _result(found: Measured | Failure) -> Result:
    if isinstance(found, Failure):
        return Result(failure=found.reason)
    if found.mismatch is not None:
        return Result(failure=f"wrong: {found.mismatch}")
    low, high = median_interval(_ratios(found))
    seconds = statistics.median(found.candidate)
    return Result(_ratio(found), seconds, None, low, high, found.bytes)


def _ratio(found: Measured | Failure) -> float:
    return statistics.median(_ratios(found))


def _ratios(found: Measured | Failure) -> list[float]:
    assert isinstance(found, Measured)
    return [c / b for c, b in zip(found.candidate, found.baseline, strict=True)]
