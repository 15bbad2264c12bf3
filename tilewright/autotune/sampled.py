"""Optuna's samplers as proposers."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Literal

from tilewright.autotune.ledger import distributions
from tilewright.autotune.propose import ASKED, Proposer, is_new, neighbours, ranked
from tilewright.autotune.records import Result
from tilewright.codegen.space import Point, Space

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

Sampler = Literal["tpe", "cmaes", "gp"]


def sampled(space: Space, sampler: Sampler, seed: int) -> Proposer:
    """What one of Optuna's samplers proposes, or a neighbour of the best where it repeats itself.

    Raises what the sampler's module raises where a package is missing.
    """
    near = neighbours(space, seed)

    def propose(known: Mapping[str, Result], busy: AbstractSet[str]) -> Point | None:
        turn = zlib.crc32(f"{seed}/{len(known)}".encode())
        for point in _drawn(space, known, _sampler(sampler, turn)):
            if is_new(space, point, known, busy):
                return point
        return near(known, busy)

    return propose


def _drawn(space: Space, known: Mapping[str, Result], sampler: BaseSampler) -> Iterator[Point]:
    """Legal points from a sampler that knows what is known."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=sampler)
    axes = distributions(space)
    for point, ratio in [(space.default, 1.0), *ranked(space, known)]:
        study.add_trial(
            optuna.trial.create_trial(params=dict(point), distributions=axes, value=ratio)
        )
    for _ in range(ASKED):
        trial = study.ask(axes)
        if space.refusal(trial.params) is None:
            yield trial.params
        # What is illegal or known already is told to be bad, or it would be proposed again.
        study.tell(trial, state=optuna.trial.TrialState.FAIL)


def _sampler(sampler: Sampler, seed: int) -> BaseSampler:
    from optuna import samplers

    match sampler:
        case "cmaes":
            return samplers.CmaEsSampler(seed=seed)
        case "gp":
            return samplers.GPSampler(seed=seed)
        case "tpe":
            return samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=8)
