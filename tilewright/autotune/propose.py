"""Which point of a space to try next, from what is known of it.

A proposer keeps nothing between two questions: what other workers have found in the meantime counts
as if it had found it itself, and a search that was interrupted goes on.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Literal, Protocol

from tilewright.autotune.ledger import distributions
from tilewright.autotune.records import Result, point_of, point_text
from tilewright.codegen.space import Point, Space

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

Strategy = Literal["tpe", "cmaes", "gp", "random", "neighbours"]

_ASKED = 32
"""So often is a sampler asked for a point that is legal and new."""


class Proposer(Protocol):
    """Gives the next point to try, or None where nothing is left."""

    def __call__(self, known: Mapping[str, Result], busy: AbstractSet[str]) -> Point | None:
        """known: results by point text; busy: points that others try at this moment."""
        ...


def in_order(space: Space, first: Iterable[Point], then: Proposer) -> Proposer:
    """The legal ones of `first`, and when they are used up what `then` says."""
    points = [point for point in first if space.refusal(point) is None]

    def propose(known: Mapping[str, Result], busy: AbstractSet[str]) -> Point | None:
        fresh = (p for p in points if _is_new(space, p, known, busy))
        return next(fresh, None) or then(known, busy)

    return propose


def everything(space: Space) -> Proposer:
    """All legal points, in the order of the space: for small ones."""

    def propose(known: Mapping[str, Result], busy: AbstractSet[str]) -> Point | None:
        return next((p for p in space.points() if _is_new(space, p, known, busy)), None)

    return propose


def neighbours(space: Space, seed: int) -> Proposer:
    """The untried neighbours of the best point, else of the next best ones, else anything.

    A point that is slower than the default by more than a fifth has no neighbours worth a trial.
    """

    def propose(known: Mapping[str, Result], busy: AbstractSet[str]) -> Point | None:
        ranked = [space.default, *(point for point, _ in _ranked(space, known))]
        ratios = {point_text(point): ratio for point, ratio in _ranked(space, known)}
        ranked.sort(key=lambda point: ratios.get(point_text(point), 1.0))
        for point in ranked:
            if ratios.get(point_text(point), 1.0) > 1.2:
                break
            around = [p for p in space.neighbours(point) if _is_new(space, p, known, busy)]
            if around:
                return random.Random(f"{seed}/{len(known)}").choice(around)
        return _anything(space, known, busy, seed)

    return propose


def sampled(space: Space, strategy: Strategy, seed: int) -> Proposer:
    """What one of Optuna's samplers proposes, or a neighbour of the best where it repeats itself.

    Raises what the sampler's module raises where a package is missing.
    """
    near = neighbours(space, seed)

    def propose(known: Mapping[str, Result], busy: AbstractSet[str]) -> Point | None:
        for point in _drawn(space, known, _sampler(strategy, seed + len(known))):
            if _is_new(space, point, known, busy):
                return point
        return near(known, busy)

    return propose


def proposer(space: Space, strategy: Strategy, seed: int) -> Proposer:
    """The proposer of that name."""
    return neighbours(space, seed) if strategy == "neighbours" else sampled(space, strategy, seed)


def _drawn(space: Space, known: Mapping[str, Result], sampler: BaseSampler) -> Iterator[Point]:
    """Legal points from a sampler that knows what is known."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=sampler)
    axes = distributions(space)
    for point, ratio in [(space.default, 1.0), *_ranked(space, known)]:
        study.add_trial(
            optuna.trial.create_trial(params=dict(point), distributions=axes, value=ratio)
        )
    for _ in range(_ASKED):
        trial = study.ask(axes)
        if space.refusal(trial.params) is None:
            yield trial.params
        # What is illegal or known already is told to be bad, or it would be proposed again.
        study.tell(trial, state=optuna.trial.TrialState.FAIL)


def _sampler(strategy: Strategy, seed: int) -> BaseSampler:
    from optuna import samplers

    match strategy:
        case "cmaes":
            return samplers.CmaEsSampler(seed=seed)
        case "gp":
            return samplers.GPSampler(seed=seed)
        case "random":
            return samplers.RandomSampler(seed=seed)
        case _:
            return samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=8)


def _ranked(space: Space, known: Mapping[str, Result]) -> Sequence[tuple[Point, float]]:
    """The points of the space that have a ratio, the best first."""
    found = [(point_of(text), r.ratio) for text, r in known.items() if r.ratio is not None]
    legal = [(p, ratio) for p, ratio in found if space.refusal(p) is None]
    return sorted(legal, key=lambda pair: pair[1])


def _is_new(
    space: Space, point: Point, known: Mapping[str, Result], busy: AbstractSet[str]
) -> bool:
    text = point_text(point)
    return text not in known and text not in busy and text != point_text(space.default)


def _anything(
    space: Space, known: Mapping[str, Result], busy: AbstractSet[str], seed: int
) -> Point | None:
    """A new legal point: drawn, or the first there is where draws do not meet one."""
    draw = random.Random(f"{seed}:{len(known)}")
    for _ in range(_ASKED):
        point: Point = {d.name: draw.choice(d.values) for d in space.dimensions}
        if space.refusal(point) is None and _is_new(space, point, known, busy):
            return point
    return everything(space)(known, busy)
