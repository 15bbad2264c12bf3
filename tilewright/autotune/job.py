"""What is asked of a measuring process, and what it answers: two JSON records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from tilewright.codegen.space import Point, Schedules
from tilewright.passes.plan import Plan


class Tuned(Struct, frozen=True, forbid_unknown_fields=True):
    """A point of one entry of a region's schedule table."""

    region: str
    shapes: str
    point: dict[str, bool | int | str]


class Configuration(Struct, frozen=True, forbid_unknown_fields=True):
    """What may differ between two compilations of one program."""

    plan: dict[str, str] = {}
    schedules: list[Tuned] = []

    def options(self) -> tuple[Plan, Schedules]:
        """As a compilation takes them."""
        points: dict[tuple[str, str], Point] = {
            (t.region, t.shapes): t.point for t in self.schedules
        }
        return Plan.of(self.plan), Schedules(points)


class Job(Struct, frozen=True, forbid_unknown_fields=True):
    """Compare a candidate with what is taken untuned, on one graph at one size.

    stage: a `program` goes through all passes, a `region` stands there as the passes left it.
    sizes: values of the graph's symbols while time is taken; it is checked at small sizes.
    rounds: how many times each side is timed, in turn.
    """

    program: str
    graph: str
    stage: Literal["program", "region"]
    target: str
    sizes: Mapping[str, int]
    baseline: Configuration
    candidate: Configuration
    rounds: int
    threads: int


class Measured(Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds a call, round by round; where `mismatch` says what is wrong, nothing was timed."""

    baseline: list[float] = []
    candidate: list[float] = []
    mismatch: str | None = None
