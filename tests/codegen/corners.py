"""Points of a space whose values are all the least or the most: where kernels go wrong."""

import random
from collections.abc import Iterator

from tilewright.codegen.space import Point, Space, Value


def corners(space: Space, count: int, seed: int = 0) -> list[Point]:
    """`count` legal corners (fewer where there are not so many), drawn by a seed."""
    found: dict[tuple[Value, ...], Point] = {}
    for point in _drawn(space, random.Random(seed)):
        found.setdefault(tuple(point.values()), point)
        if len(found) == count:
            break
    assert found, "no corner is legal"
    return list(found.values())


def _drawn(space: Space, rng: random.Random) -> Iterator[Point]:
    for _ in range(400):
        ends = ((d.values[0], d.values[-1]) for d in space.dimensions)
        point = {d.name: rng.choice(v) for d, v in zip(space.dimensions, ends, strict=True)}
        if space.refusal(point) is None:
            yield point
