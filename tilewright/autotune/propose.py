"""Which point of a space to try next, from what is known of it.

A proposer keeps nothing between two questions: what other workers have found in the meantime counts
as if it had found it itself, and a search that was interrupted goes on.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, Protocol

from tilewright.autotune.records import Result, point_of, point_text
from tilewright.codegen.space import Point, Space

ASKED: Final = 32
"""So often is a point drawn until one is legal and new."""


class Proposer(Protocol):
    """Gives the next point to try, or None where nothing is left."""

    def __call__(self, known: Mapping[str, Result], busy: AbstractSet[str]) -> Point | None:
        """known: results by point text; busy: points that others try at this moment."""
        ...


def in_order(space: Space, first: Iterable[Point], then: Proposer) -> Proposer:
    """The legal ones of `first`, and when they are used up what `then` says."""
    points = [point for point in first if space.refusal(point) is None]

    def propose(known: Mapping[str, Result], busy: AbstractSet[str]) -> Point | None:
        fresh = (p for p in points if is_new(space, p, known, busy))
        return next(fresh, None) or then(known, busy)

    return propose


def everything(space: Space) -> Proposer:
    """All legal points, in the order of the space: for small ones."""

    def propose(known: Mapping[str, Result], busy: AbstractSet[str]) -> Point | None:
        return next((p for p in space.points() if is_new(space, p, known, busy)), None)

    return propose


def neighbours(space: Space, seed: int) -> Proposer:
    """The untried neighbours of the best point, else of the next best ones, else anything.

    A point that is slower than the default by more than a fifth has no neighbours worth a trial.
    """

    def propose(known: Mapping[str, Result], busy: AbstractSet[str]) -> Point | None:
        ratios = {point_text(point): ratio for point, ratio in ranked(space, known)}
        tried = [space.default, *(point for point, _ in ranked(space, known))]
        for point in sorted(tried, key=lambda point: ratios.get(point_text(point), 1.0)):
            if ratios.get(point_text(point), 1.0) > 1.2:
                break
            around = [p for p in space.neighbours(point) if is_new(space, p, known, busy)]
            if around:
                return random.Random(f"{seed}/{len(known)}").choice(around)
        return anything(space, seed)(known, busy)

    return propose


def anything(space: Space, seed: int) -> Proposer:
    """New legal points: drawn ones, or the first there is where draws do not meet one."""

    def propose(known: Mapping[str, Result], busy: AbstractSet[str]) -> Point | None:
        draw = random.Random(f"{seed}:{len(known)}")
        for point in drawn(space, draw, ASKED):
            if is_new(space, point, known, busy):
                return point
        return everything(space)(known, busy)

    return propose


def drawn(space: Space, draw: random.Random, times: int) -> Iterator[Point]:
    """The legal ones of so many points drawn at random."""
    for _ in range(times):
        point: Point = {d.name: draw.choice(d.values) for d in space.dimensions}
        if space.refusal(point) is None:
            yield point


def ranked(space: Space, known: Mapping[str, Result]) -> Sequence[tuple[Point, float]]:
    """The points of the space that have a ratio, the best first."""
    found = [(point_of(text), r.ratio) for text, r in known.items() if r.ratio is not None]
    legal = [(p, ratio) for p, ratio in found if space.refusal(p) is None]
    return sorted(legal, key=lambda pair: pair[1])


def is_new(space: Space, point: Point, known: Mapping[str, Result], busy: AbstractSet[str]) -> bool:
    """Whether nobody has tried a point or tries it; the default is known from the beginning."""
    text = point_text(point)
    return text not in known and text not in busy and text != point_text(space.default)
