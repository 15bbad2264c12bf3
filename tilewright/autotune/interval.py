"""The interval in which a median lies."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

CONFIDENCE = 0.95


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The narrowest pair of order statistics that holds the median with `CONFIDENCE`.

    It assumes nothing of the distribution (Conover, "Practical Nonparametric Statistics", 1999,
    section 3.2). Fewer than six values do not suffice: then it is the least and the largest.
    """
    ordered = sorted(values)
    count = len(ordered)
    outside = 0.0
    for cut in range(count // 2):
        outside += 2 * comb(count, cut) / 2**count
        if outside > 1 - CONFIDENCE:
            return ordered[max(cut - 1, 0)], ordered[-max(cut, 1)]
    return ordered[0], ordered[-1]
