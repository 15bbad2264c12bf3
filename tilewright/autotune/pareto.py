"""Time and memory together: the candidates that no other one beats in both.

Only what was compared with the reference and is right counts, and the default. Bytes are exact,
times are not: what is faster than the default, but not outside the noise, is as fast as that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from tilewright.autotune.interval import MARGIN
from tilewright.autotune.records import Result, point_of
from tilewright.codegen.space import Point


@dataclass(frozen=True, slots=True)
class Contender:
    """A point (None: the default) with its ratio, the high end of that, and its bytes."""

    point: Point | None
    ratio: float
    high: float
    bytes: int
    time: float
    """The ratio; 1 where it differs by too little, or is shorter within the noise alone."""


def pareto(results: Mapping[str, Result]) -> list[Contender]:
    """The Pareto set of results by point text, the fastest first.

    Ties go to the default, then to what was faster. Empty where no bytes are known.
    """
    front: list[Contender] = []
    for found in sorted(contenders(results), key=_order):
        if not front or found.bytes < front[-1].bytes:
            front.append(found)
    return front


def contenders(results: Mapping[str, Result]) -> list[Contender]:
    """The default, and what is right and has known bytes; none where those of the default are not.

    Bytes depend on the number of threads, which are not in a record's key. So where machines with
    different ones have filled a store, only what most of the records agree on is compared.
    """
    known = {text: r for text, r in results.items() if r.ratio is not None and r.bytes is not None}
    counts = Counter(r.default_bytes for r in known.values() if r.default_bytes is not None)
    if not counts:
        return []
    ((default, _),) = counts.most_common(1)
    found = [Contender(None, 1.0, 1.0, default, 1.0)]
    for text, result in known.items():
        if result.default_bytes == default:
            found.append(_contender(point_of(text), result))
    return found


def _contender(point: Point, result: Result) -> Contender:
    ratio, taken = result.ratio, result.bytes
    assert ratio is not None
    assert taken is not None
    high = ratio if result.high is None else result.high
    differs = abs(ratio - 1) > MARGIN and (ratio > 1 or high < 1)
    return Contender(point, ratio, high, taken, ratio if differs else 1.0)


def _order(found: Contender) -> tuple[float, int, bool, float]:
    return found.time, found.bytes, found.point is not None, found.ratio
