"""What a measuring process is asked, and what it answers: JSON records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
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


class Case(Struct, frozen=True, forbid_unknown_fields=True):
    """What all candidates of a study have in common.

    passes: what the program goes through; nothing where it stands there as the passes left it.
    baseline: what is taken untuned.
    sizes: values of the graph's symbols while time is taken.
    checked: those at which a candidate is compared with the reference.
    cold: caches are emptied before each call, as they are for a kernel that is bound by memory: in
    a model its weights come from there, and here they would not.
    shapes: the shape class of the one kernel that this is; None for a whole graph.
    """

    program: str
    graph: str
    passes: str
    target: str
    baseline: Configuration
    sizes: Mapping[str, int]
    checked: list[Mapping[str, int]]
    threads: int
    cold: bool = False
    shapes: str | None = None


class Preparation(Struct, frozen=True, forbid_unknown_fields=True, tag="prepare"):
    """Compile the baseline into a folder, and evaluate the reference there."""

    case: Case
    folder: str


class Job(Struct, frozen=True, forbid_unknown_fields=True, tag="compare"):
    """Compare a candidate with what was prepared in a folder.

    incumbent: the winner so far, timed beside both where it is given.
    rounds: how many times each side is timed, in turn; a sample is `repeat` calls.
    hopeless: a candidate whose time is above so many times the baseline's in each of the first
    rounds is timed no longer.
    """

    case: Case
    folder: str
    candidate: Configuration
    rounds: int
    repeat: int = 1
    incumbent: Configuration | None = None
    hopeless: float | None = None


Task = Preparation | Job


class Request(Struct, frozen=True, forbid_unknown_fields=True):
    """A task, and after how many seconds whoever works on it is killed."""

    task: Task
    seconds: float


class Prepared(Struct, frozen=True, forbid_unknown_fields=True, tag="prepared"):
    """The folder is filled: seconds to compile, seconds of a sample, and the calls in it.

    bytes: what the baseline takes in memory, see `footprint`.
    """

    compiling: float
    sample: float
    repeat: int
    bytes: int | None = None


class Measured(Struct, frozen=True, forbid_unknown_fields=True, tag="measured"):
    """Seconds a call, round by round; where `mismatch` says what is wrong, nothing was timed.

    bytes: what the candidate takes in memory, see `footprint`.
    """

    baseline: list[float] = []
    candidate: list[float] = []
    incumbent: list[float] = []
    mismatch: str | None = None
    bytes: int | None = None


class Failure(Struct, frozen=True, forbid_unknown_fields=True, tag="failure"):
    """There is no such answer, and why."""

    reason: str


Answer = Prepared | Measured | Failure
_ANSWER: Any = Answer


def read_answer(text: bytes) -> Answer:
    """An answer as a process wrote it. Raises msgspec.DecodeError."""
    return msgspec.json.decode(text, type=_ANSWER)
