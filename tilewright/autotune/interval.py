"""The interval in which a median lies, and what differs by too little to count."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from typing import Final

CONFIDENCE = 0.95
MARGIN: Final = 0.03
"""A winner is at least this part faster than the default."""


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
