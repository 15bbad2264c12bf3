"""Whether short floats were rounded to the nearest when they were stored.

A tolerance cannot tell: it has room for a last place, which is all that cutting digits off costs.
But what is rounded to the nearest lies above and below the ideal numbers alike, and what is cut off
lies half a last place below them on average. So the average is looked at.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tilewright.dsl.dtypes import from_numpy

Array = NDArray[Any]

_NORMAL: Final = {"bf16": 2.0**-126, "f16": 2.0**-14}
"""The smallest numbers of full precision."""
FEWEST: Final = 256
"""Distinct numbers of which an average is taken: it then varies by a sixteenth at most."""
LARGEST: Final = 0.3
"""Last places by which an average may be off, beyond what it is off in the faithful reading.

Right kernels stay below a twentieth.
"""


def rounding_bias(actual: Array, ideal: Array, faithful: Array) -> str | None:
    """What is wrong with how `actual` was rounded; None where nothing is, or nothing can be told.

    faithful: the reading in which each operation is rounded once, of the dtype of `actual`.
    """
    dtype = from_numpy(actual.dtype)
    smallest = _NORMAL.get(dtype.name)
    if smallest is None:
        return None
    wide: list[Array] = [x.astype(np.float64).ravel() for x in (actual, ideal, faithful)]
    found, y, other = wide
    with np.errstate(invalid="ignore"):
        usual = np.isfinite(found + y + other) & (np.abs(y) >= smallest)
    _, first = np.unique(y[usual], return_index=True)
    if first.size < FEWEST:
        return None
    found, y, other = (x[usual][first] for x in wide)
    place = np.exp2(np.floor(np.log2(np.abs(y)))) * 2.0 * dtype.unit_roundoff
    outwards, usually = (_mean((x - y) * np.sign(y) / place) for x in (found, other))
    if abs(outwards) <= abs(usually) + LARGEST:
        return None
    where = "too far from" if outwards > 0 else "too near to"
    return f"{dtype} numbers lie {abs(outwards):.2f} last places {where} zero on average"


def _mean(places: Array) -> float:
    """The average, in which no single element counts for more than a last place."""
    return float(np.mean(np.clip(places, -1.0, 1.0)))
