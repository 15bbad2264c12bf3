"""A Gaussian process over the points of a space: what a time may be, and where to look next.

Source: Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006), sections 2 and 5;
expected improvement: Jones, Schonlau and Welch, "Efficient Global Optimization of Expensive
Black-Box Functions" (1998).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tilewright.codegen.space import Point, Space

Array = NDArray[np.float64]
_linalg: Any = np.linalg  # its stubs leave results unknown

_SCALES: Final = (0.25, 0.5, 1.0, 2.0, 8.0)
"""Distances at which two values of a dimension still tell of each other; its whole range is 1."""
_SWEEPS: Final = 2
_NOISE: Final = 0.02
"""Standard deviation of the logarithm of a measured ratio."""
_SPREAD, _BELIEF = 0.15, 4.0
"""How far a prior is usually off, as a logarithm, and for how many observations that counts."""


def features(space: Space, points: Sequence[Point]) -> Array:
    """A row for each point, a column for each dimension: the place of its value, from 0 to 1.

    Values of a dimension stand in order, so that neighbours are alike.
    """
    columns: list[list[float]] = []
    for dimension in space.dimensions:
        last = max(1, len(dimension.values) - 1)
        places = {value: place / last for place, value in enumerate(dimension.values)}
        columns.append([places[point[dimension.name]] for point in points])
    return np.array(columns, np.float64).T.reshape(len(points), len(space.dimensions))


@dataclass(frozen=True, slots=True)
class Surrogate:
    """What is known after some observations: `at` [n, d], and how far they were from the prior."""

    at: Array
    solved: Array
    factor: Array
    scales: Array
    spread: float

    @staticmethod
    def fit(at: Array, values: Array) -> Surrogate:
        """A process of mean 0 through `values` [n]; scales are those of most likelihood on a grid,
        dimension by dimension.
        """
        scales = np.full(at.shape[1], 1.0)
        best = _fitted(at, values, scales)
        for _ in range(_SWEEPS):
            for axis in range(len(scales)):
                for scale in _SCALES:
                    trial = scales.copy()
                    trial[axis] = scale
                    found = _fitted(at, values, trial)
                    if found[0] > best[0]:
                        best, scales = found, trial
        return best[1]

    def predict(self, at: Array) -> tuple[Array, Array]:
        """Mean and standard deviation at each row."""
        cross = self.spread**2 * _alike(at, self.at, self.scales)
        mean = cross @ self.solved
        known: Array = _linalg.solve(self.factor, cross.T)
        left = self.spread**2 - np.square(known).sum(axis=0)
        return mean, np.sqrt(np.maximum(left, 1e-12))


def expected_improvement(mean: Array, deviation: Array, best: float) -> Array:
    """How much below `best` each is expected to come, counting nothing where it does not."""
    gain = best - mean
    z = gain / deviation
    density = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    return gain * _below(z) + deviation * density


def _below(z: Array) -> Array:
    """The normal distribution function; Abramowitz and Stegun, "Handbook of Mathematical
    Functions" (1964), 26.2.17, exact to 7.5e-8.
    """
    t = 1 / (1 + 0.2316419 * np.abs(z))
    series = t * (
        0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429)))
    )
    above = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi) * series
    return 0.5 + np.sign(z) * (0.5 - above)


def _fitted(at: Array, values: Array, scales: Array) -> tuple[float, Surrogate]:
    """The logarithm of the likelihood, with the best spread, and the process."""
    count = len(values)
    total = float(np.square(values).sum()) + _BELIEF * _SPREAD**2
    spread = (total / (count + _BELIEF)) ** 0.5
    alike = spread**2 * _alike(at, at, scales)
    factor: Array = _linalg.cholesky(alike + _NOISE**2 * np.eye(count))
    half: Array = _linalg.solve(factor, values)
    solved: Array = _linalg.solve(factor.T, half)
    likelihood = -0.5 * float(half @ half) - float(np.log(np.diag(factor)).sum())
    return likelihood, Surrogate(at, solved, factor, scales, spread)


def _alike(a: Array, b: Array, scales: Array) -> Array:
    """Matern's function of order 5/2 of the distance."""
    square = np.zeros((len(a), len(b)))
    for ours, theirs, scale in zip(a.T, b.T, scales, strict=True):
        square += np.square((ours[:, None] - theirs[None, :]) / scale)
    distance = np.sqrt(5 * square)
    return (1 + distance + distance**2 / 3) * np.exp(-distance)
