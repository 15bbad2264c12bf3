"""Recorded landscapes: every point of a space with its time.

Searches are compared by replaying them, and begin with what they say of similar kernels. Those of
the folder ship with the package; `benchmarks/landscapes.py` records them.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from tilewright.autotune.propose import Proposer
from tilewright.autotune.records import Result, Similar, point_text
from tilewright.codegen.space import OneOf, Point, Space, Value

FOLDER: Final = Path(__file__).with_name("landscapes")
GOOD: Final = 0.97
"""The part of the best point's speed at which a search has found enough."""


class LandscapePoint(Struct, frozen=True, array_like=True):
    """The place of its value in each dimension; its time over the default's (the mean over loads of
    their medians), None where it is wrong or fails; the space's `cost` of it.
    """

    at: list[int]
    ratio: float | None
    cost: float


class Landscape(Struct, frozen=True, forbid_unknown_fields=True):
    """All points of a space on one machine.

    rounds: how often each point was timed beside the default, if it was not far slower; again: the
    best tenth once more.
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

    def trials_needed(self, propose: Proposer, most: int, seed: int) -> int:
        """Trials until a point is tried that has `GOOD` of the best one's speed; most + 1 where
        none is.

        What the search is told is as noisy as a measurement; what counts is what was recorded.
        """
        everything, known = self.results(), dict[str, Result]()
        best = min(r.ratio for r in everything.values() if r.ratio is not None)
        draw = random.Random(f"{self.name}/{seed}")
        for number in range(1, most + 1):
            point = propose(known, frozenset())
            if point is None:
                break
            found = everything[point_text(point)]
            if found.ratio is not None and found.ratio * GOOD <= best:
                return number
            factor = math.exp(draw.gauss(0.0, self.noise))
            ratio = None if found.ratio is None else found.ratio * factor
            known[point_text(point)] = replace(found, ratio=ratio)
        return most + 1

    def save(self, file: Path) -> None:
        """Writes it as JSON, a line for each point."""
        head = msgspec.json.encode(msgspec.structs.replace(self, points=[]))
        points = b",\n".join(msgspec.json.encode(p) for p in self.points)
        file.write_bytes(head.removesuffix(b"[]}") + b"[\n" + points + b"\n]}\n")


def similar_to(family: str, landscapes: Iterable[Landscape]) -> list[Similar]:
    """Those of a family, as a search takes them."""
    return [
        Similar(found.traits, found.results()) for found in landscapes if found.family == family
    ]


@functools.cache
def shipped() -> tuple[Landscape, ...]:
    """The landscapes of the package."""
    return tuple(load_landscape(file) for file in sorted(FOLDER.glob("*.json")))


def load_landscape(file: Path) -> Landscape:
    """Raises OSError and msgspec.DecodeError."""
    return msgspec.json.decode(file.read_bytes(), type=Landscape)
