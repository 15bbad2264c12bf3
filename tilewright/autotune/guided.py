"""A search that begins where similar kernels and the rules of the machine say, and learns.

The logarithm of a point's time over the default's is a prior (what the records of similar kernels
say, and the space's `cost`) and a Gaussian process through what the measurements say beyond it. The
next point is the one that is expected to improve most on the best.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tilewright.autotune.propose import Proposer, drawn, neighbours
from tilewright.autotune.records import Result, Similar, point_of, point_text
from tilewright.autotune.surrogate import Surrogate, expected_improvement, features
from tilewright.autotune.traits import Traits
from tilewright.autotune.transfer import transferred
from tilewright.codegen.space import Point, Space

Array = NDArray[np.float64]

_ALL: Final = 4096
"""Spaces up to this size are looked at as a whole, of others so many points."""
_FAILED: Final = 1.0
"""What a failure counts as: so much worse than the default, as a logarithm."""
_TRUST: Final = 0.75
"""The part of similar kernels in the prior, where there are any; the rest is the analysis'."""


def guided(space: Space, traits: Traits, others: Sequence[Similar], seed: int) -> Proposer:
    """The proposer. It looks at the same points of a large space whatever is known."""
    points = [p for p in _looked_at(space, seed) if p != space.default]
    texts = [point_text(point) for point in points]
    prior = _prior(space, points, traits, others)
    expect = _Expectation(
        {text: place for place, text in enumerate(texts)},
        prior,
        features(space, points),
        features(space, [space.default]),
    )
    near = neighbours(space, seed)

    def propose(known: Mapping[str, Result], busy: AbstractSet[str]) -> Point | None:
        fresh = [
            place for place, text in enumerate(texts) if text not in known and text not in busy
        ]
        if not fresh:
            return near(known, busy)
        return points[fresh[int(np.argmax(expect.gains(known, busy)[fresh]))]]

    return propose


@dataclass(frozen=True, slots=True)
class _Expectation:
    """What stays the same between two questions: `places` of the points by their texts, what is
    expected of each before anything is measured, and features of them and of the default.
    """

    places: Mapping[str, int]
    prior: Array
    at: Array
    origin: Array

    def gains(self, known: Mapping[str, Result], busy: AbstractSet[str]) -> Array:
        """What is expected to be gained by each point."""
        seen = {text: _value(r) for text, r in known.items() if text in self.places}
        # What others try at this moment counts as if it came out as it is expected to.
        told = [*seen, *(text for text in busy if text in self.places)]
        rows = [self.places[text] for text in told]
        expected = np.array([self.prior[row] for row in rows])
        values = np.array([seen.get(t, self.prior[self.places[t]]) for t in told]) - expected
        observed = np.concatenate([self.origin, self.at[rows]])
        model = Surrogate.fit(observed, np.concatenate([[0.0], values]))
        mean, deviation = model.predict(self.at)
        return expected_improvement(self.prior + mean, deviation, min([0.0, *seen.values()]))


def _value(result: Result) -> float:
    return _FAILED if result.ratio is None else min(float(np.log(result.ratio)), _FAILED)


def _prior(
    space: Space, points: Sequence[Point], traits: Traits, others: Sequence[Similar]
) -> Array:
    """The logarithm of the time of each point over the default's, before anything is measured."""
    analysed = np.zeros(len(points))
    if space.cost is not None:
        base = space.cost(space.default)
        analysed = np.log([space.cost(point) / base for point in points])
    told = transferred(space, points, traits, others)
    return analysed if told is None else _TRUST * told + (1 - _TRUST) * analysed


def _looked_at(space: Space, seed: int) -> list[Point]:
    """All legal points, or many of a large space: drawn ones, and the default's neighbours."""
    if space.size <= _ALL:
        return [*space.points()]
    draw = random.Random(f"{seed}")
    found = {point_text(point): point for point in space.neighbours(space.default)}
    for point in drawn(space, draw, 4 * _ALL):
        found.setdefault(point_text(point), point)
        if len(found) >= _ALL:
            break
    return [point_of(text) for text in found]
