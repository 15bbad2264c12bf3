"""Candidates that break, and candidates that are fast and wrong: the study goes on without them."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.autotune.faulty_child import BREAKAGES, BREAKS, IS_WRONG, MISTAKES, planted
from tests.autotune.test_tuning import moved, subject
from tests.depth import count
from tilewright.autotune.bench import Bench
from tilewright.autotune.job import Answer, Job, Measured, Task
from tilewright.autotune.launch import Launcher
from tilewright.autotune.records import Records, failure_class, point_text
from tilewright.autotune.study import Budget, search
from tilewright.codegen.space import Point

GOOD = moved(subject().space.default, prefetch=0)

CLASSES = {
    "hang": "too slow",
    "segfault": "crashed",
    "abort": "crashed",
    "memory": "ended",
    "exit": "other",
    "far beyond": "crashed",
    "beyond": "KernelOverrun",
    "kill": "crashed",
}


@pytest.fixture(scope="module")
def nursery() -> Iterator[Launcher]:
    with Launcher((sys.executable, "-m", "tests.autotune.faulty_child")) as launcher:
        yield launcher


def plants(unroll: int, many: int) -> list[Point]:
    """So many points in the order in which things are planted."""
    points: list[Point] = [{**GOOD, **planted(number), "unroll": unroll} for number in range(many)]
    assert all(subject().space.refusal(point) is None for point in points)
    return points


def test_what_breaks_leaves_the_study_going(tmp_path: Path, nursery: Launcher) -> None:
    tuned, records = subject(), Records.at(tmp_path / "records.db")
    points = [*plants(BREAKS, count(1, 5) * len(BREAKAGES)), GOOD]

    def measure(task: Task, seconds: float) -> Answer:
        broken = isinstance(task, Job) and task.candidate.schedules[0].point["unroll"] == BREAKS
        return nursery(task, 5.0 if broken else seconds)

    found = search(tuned, records, Budget(len(points), 3600), measure, points)
    assert (found.winner, found.trials, found.complete) == (GOOD, len(points), True)
    results = records.results(tuned.key)
    for point, kind in zip(points[:-1], count(1, 5) * [*CLASSES], strict=True):
        failure = results[point_text(point)].failure
        assert failure is not None, kind
        assert failure_class(failure) == CLASSES[kind], (kind, failure)


def test_what_is_wrong_and_fast_never_wins(tmp_path: Path, nursery: Launcher) -> None:
    tuned, records = subject(), Records.at(tmp_path / "records.db")
    points = [*plants(IS_WRONG, len(MISTAKES)), GOOD]
    found = search(tuned, records, Budget(len(points), 3600), nursery, points)
    assert found.winner == GOOD
    results = records.results(tuned.key)
    for point, kind in zip(points[:-1], MISTAKES, strict=True):
        assert (results[point_text(point)].failure or "").startswith("wrong: "), kind


def test_a_nursery_that_is_killed_is_replaced() -> None:
    with Launcher() as launcher, Bench(subject(), launcher, 300) as bench:
        assert isinstance(bench.compare(GOOD, 3), Measured)
        nursery = launcher._nursery
        assert nursery is not None
        nursery._process.kill()
        nursery._process.wait()
        assert isinstance(bench.compare(GOOD, 3), Measured)
