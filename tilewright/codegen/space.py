"""Spaces of schedules: what a backend leaves open for a region. Codegen declares, a tuner searches.

A point gives every dimension a value; backends turn points into the schedules of their families.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import Literal

Value = int | str | bool
Point = Mapping[str, Value]
"""A value for every dimension of a space, by name."""


def integer(value: Value) -> int:
    """The value of a dimension of numbers."""
    assert isinstance(value, int)
    return value


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of several values; those that stand beside each other are neighbours."""

    name: str
    values: tuple[Value, ...]
    default: Value

    def __post_init__(self) -> None:
        assert self.default in self.values, f"{self.name}: {self.default} is none of {self.values}"

    def neighbours(self, value: Value) -> tuple[Value, ...]:
        """The values before and after."""
        at = self.values.index(value)
        return (*self.values[max(at - 1, 0) : at], *self.values[at + 1 : at + 2])


@dataclass(frozen=True, slots=True)
class PowerOfTwo:
    """A power of two from `low` to `high`, both powers of two."""

    name: str
    low: int
    high: int
    default: Value

    def __post_init__(self) -> None:
        assert self.default in self.values, f"{self.name}: {self.default} is none of {self.values}"

    @property
    def values(self) -> tuple[Value, ...]:
        """All of them, ascending."""
        return tuple(1 << e for e in range(self.low.bit_length() - 1, self.high.bit_length()))

    def neighbours(self, value: Value) -> tuple[Value, ...]:
        """Half and double."""
        assert isinstance(value, int)
        return tuple(v for v in (value // 2, value * 2) if v in self.values)


Dimension = OneOf | PowerOfTwo


def _no_reason(point: Point) -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class Space:
    """Dimensions, and `constraint`: why a point that has legal values is not legal (None: it is).

    `family` names who reads the points. `cost` says of a legal point what it should take by the
    rules of the machine, up to a factor: where a search begins, and no more.
    """

    family: str
    dimensions: tuple[Dimension, ...]
    constraint: Callable[[Point], str | None] = field(default=_no_reason, compare=False)
    cost: Callable[[Point], float] | None = field(default=None, compare=False)

    @property
    def default(self) -> Point:
        """The point that is taken untuned; it is always legal."""
        return {d.name: d.default for d in self.dimensions}

    @property
    def fingerprint(self) -> str:
        """Changes with the dimensions and their values: search histories belong to one of these."""
        text = ";".join(f"{d.name}={d.values}/{d.default!r}" for d in self.dimensions)
        return hashlib.sha256(f"{self.family}:{text}".encode()).hexdigest()[:16]

    @property
    def size(self) -> int:
        """How many points there are, legal or not."""
        return prod(len(d.values) for d in self.dimensions)

    def points(self) -> Iterator[Point]:
        """All legal points; for spaces that are small."""
        names = [d.name for d in self.dimensions]
        for values in product(*(d.values for d in self.dimensions)):
            point = dict(zip(names, values, strict=True))
            if self.refusal(point) is None:
                yield point

    def refusal(self, point: Point) -> str | None:
        """Why this is no legal point of the space, or None."""
        if set(point) != {d.name for d in self.dimensions}:
            return f"it names {sorted(point)}, the space {[d.name for d in self.dimensions]}"
        for dimension in self.dimensions:
            if point[dimension.name] not in dimension.values:
                return f"{dimension.name} is {point[dimension.name]!r}"
        return self.constraint(point)

    def neighbours(self, point: Point) -> Iterator[Point]:
        """The legal points that differ in one dimension by one step."""
        for dimension in self.dimensions:
            for value in dimension.neighbours(point[dimension.name]):
                moved = {**point, dimension.name: value}
                if self.refusal(moved) is None:
                    yield moved


REST = "rest"
"""The shape class of all sizes that no limit covers."""


def shape_class(limit: int | None) -> str:
    """The name of an entry of a schedule table: sizes up to a limit, or the rest."""
    return REST if limit is None else f"le{limit}"


def class_limit(shapes: str) -> int | None:
    """The limit that `shape_class` made the name of."""
    return None if shapes == REST else int(shapes.removeprefix("le"))


Origin = Literal["given", "store", "shipped"]
"""Who says that a point is taken: the caller, a store of records, or this package."""


@dataclass(frozen=True, slots=True)
class Schedules:
    """Points by the structural hash of a region (`kernels.as_graph`) and the shape class.

    origins: of those points that the caller did not give.
    """

    points: Mapping[tuple[str, str], Point] = field(default_factory=dict[tuple[str, str], Point])
    origins: Mapping[tuple[str, str], Origin] = field(default_factory=dict[tuple[str, str], Origin])

    @staticmethod
    def of(points: Mapping[tuple[str, str], Point], origin: Origin) -> Schedules:
        """Points of one origin."""
        return Schedules(points, dict.fromkeys(points, origin))

    def find(self, region: str, shapes: str) -> Point | None:
        """The point of one entry of a region's schedule table, if it was tuned."""
        return self.points.get((region, shapes))

    def origin(self, region: str, shapes: str) -> Origin:
        """Where the point of an entry comes from."""
        return self.origins.get((region, shapes), "given")

    def with_point(self, region: str, shapes: str, point: Point) -> Schedules:
        """The same, with one more that the caller gives."""
        return Schedules({(region, shapes): point}).over(self)

    def over(self, others: Schedules) -> Schedules:
        """These, and those of the others for entries of which these say nothing."""
        origins: dict[tuple[str, str], Origin] = {key: self.origin(*key) for key in self.points}
        return Schedules({**others.points, **self.points}, {**others.origins, **origins})
