"""How far two orders of the same things agree."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """The correlation of the ranks; equal values share the mean of their places."""
    return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])


def kendall(x: Sequence[float], y: Sequence[float]) -> float:
    """Pairs in the same order less those in opposite order, over all pairs; without equal values.

    With ten things, 0.9 allows for two pairs in the wrong order.
    """
    pairs = [*combinations(zip(x, y, strict=True), 2)]
    return float(np.mean([np.sign(a - c) * np.sign(b - d) for (a, b), (c, d) in pairs]))


def _ranks(values: Sequence[float]) -> list[float]:
    below = [sum(other < value for other in values) for value in values]
    same = [sum(other == value for other in values) for value in values]
    return [low + (count - 1) / 2 for low, count in zip(below, same, strict=True)]
