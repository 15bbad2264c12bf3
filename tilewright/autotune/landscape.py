"""Recorded landscapes: every point of a space with its time, by which searches are compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from tilewright.autotune.records import Result, point_text
from tilewright.codegen.space import OneOf, Point, Space, Value


class LandscapePoint(Struct, frozen=True, array_like=True):
    """The place of its value in each dimension; its median time over the default's, None where it
    is wrong or fails; the space's `cost` of it.
    """

    at: list[int]
    ratio: float | None
    cost: float


class Landscape(Struct, frozen=True, forbid_unknown_fields=True):
    """All points of a space on one machine.

    rounds: how often each point was timed beside the default; again: the best tenth once more.
    noise: the standard deviation of the default's ratio to itself, measured as the points are.
    traits: what the kernel is, see `Subject.traits`.
    """

    name: str
    family: str
    target: str
    tools: str
    machine: str
    threads: int
    recorded: str
    rounds: int
    again: int
    noise: float
    traits: Mapping[str, float]
    dimensions: Mapping[str, list[bool | int | str]]
    default: Mapping[str, bool | int | str]
    points: list[LandscapePoint]

    def point(self, recorded: LandscapePoint) -> Point:
        """The values of a recorded point."""
        pairs = zip(self.dimensions.items(), recorded.at, strict=True)
        return {name: values[place] for (name, values), place in pairs}

    def results(self) -> dict[str, Result]:
        """What is recorded, as a store would tell it."""
        return {
            point_text(self.point(p)): Result(p.ratio, None, None if p.ratio else "recorded")
            for p in self.points
        }

    def space(self) -> Space:
        """The space of the recorded points; others are refused."""
        costs = {point_text(self.point(p)): p.cost for p in self.points}

        def constraint(point: Point) -> str | None:
            return None if point_text(point) in costs else "it was not recorded"

        axes = [OneOf(n, tuple[Value, ...](v), self.default[n]) for n, v in self.dimensions.items()]
        return Space(self.family, tuple(axes), constraint, lambda point: costs[point_text(point)])

    def save(self, file: Path) -> None:
        """Writes it as JSON, a line for each point."""
        head = msgspec.json.encode(msgspec.structs.replace(self, points=[]))
        points = b",\n".join(msgspec.json.encode(p) for p in self.points)
        file.write_bytes(head.removesuffix(b"[]}") + b"[\n" + points + b"\n]}\n")


def load_landscape(file: Path) -> Landscape:
    """Raises OSError and msgspec.DecodeError."""
    return msgspec.json.decode(file.read_bytes(), type=Landscape)
