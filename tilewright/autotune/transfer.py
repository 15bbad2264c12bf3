"""What the records of similar kernels say about the points of a space.

The time of a point is expected to be, over the default's, what it was for the kernels that are most
alike, at those of their points that are nearest in the dimensions that both have. Times are
compared as logarithms.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log2
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tilewright.autotune.records import Similar, point_of
from tilewright.autotune.traits import Traits, distance
from tilewright.codegen.space import Dimension, Point, Space, Value

Array = NDArray[np.float64]

_REACH: Final = 2.0
"""Doublings of sizes after which another kernel counts by a factor e less."""
_FAR: Final = 8.0
"""So many doublings away, a kernel says nothing."""
_NEAR: Final = 4
"""So many of its points tell what it says about one of ours."""


def transferred(
    space: Space, points: Sequence[Point], traits: Traits, others: Sequence[Similar]
) -> Array | None:
    """The logarithm of each point's expected time over the default's; None if nothing is known."""
    total, weights = np.zeros(len(points)), 0.0
    for other in others:
        apart = distance(traits, other.traits)
        known = [
            (point_of(text), r.ratio) for text, r in other.results.items() if r.ratio is not None
        ]
        shared = [d for d in space.dimensions if known and d.name in known[0][0]]
        known = [(point, ratio) for point, ratio in known if {d.name for d in shared} <= set(point)]
        if apart is None or apart > _FAR or len(known) < _NEAR or not shared:
            continue
        ours, theirs = (_coordinates(shared, of) for of in (points, [point for point, _ in known]))
        base = _coordinates(shared, [space.default])
        ratios = np.log([ratio for _, ratio in known])
        weight = np.exp(-apart / _REACH)
        total += weight * (_nearest(ours, theirs, ratios) - _nearest(base, theirs, ratios))
        weights += weight
    return total / weights if weights else None


def _nearest(at: Array, known: Array, values: Array) -> Array:
    """At each row of `at` the mean of the values that are nearest, the nearer the more."""
    apart = np.zeros((len(at), len(known)))
    for ours, theirs in zip(at.T, known.T, strict=True):
        apart += np.abs(ours[:, None] - theirs[None, :])
    order = np.argpartition(apart, min(_NEAR, apart.shape[1]) - 1, axis=1)[:, :_NEAR]
    near = np.take_along_axis(apart, order, axis=1)
    weight = np.exp(-4 * near) + 1e-9
    return (weight * values[order]).sum(axis=1) / weight.sum(axis=1)


def _coordinates(dimensions: Sequence[Dimension], points: Sequence[Point]) -> Array:
    """Numbers as powers of two, so that equal values of two spaces stand at one place; others by
    their place among the values.
    """
    rows = [[_coordinate(point[d.name], d.values) for d in dimensions] for point in points]
    return np.array(rows, np.float64).reshape(len(points), len(dimensions))


def _coordinate(value: Value, values: Sequence[Value]) -> float:
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, int):
        return log2(value) if value > 0 else -1.0
    return float(values.index(value)) if value in values else -1.0
