"""Where a search begins on a machine of which nothing is recorded."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.autotune.test_tuning import answering, subject
from tests.autotune.test_winners import row, ship
from tilewright.autotune.job import Configuration, Job, Measured
from tilewright.autotune.nearest import nearest_winners
from tilewright.autotune.records import RecordKey, Records, Result
from tilewright.autotune.study import Budget, search
from tilewright.codegen.space import OneOf, Point, Space

KEY = RecordKey("schedule", "product", "rest", "cpu:znver3", "of today")
SPACE = Space("test", (OneOf("mr", (1, 2, 3, 4, 5), 1),))
GONE: Point = {"mr": 64}


def win(records: Records, target: str, point: Point, key: RecordKey = KEY) -> None:
    other = replace(key, target=target)
    records.put(other, point, Result(0.5, 1.0))
    records.crown(other, point)


def nearest(records: Records, space: Space = SPACE) -> list[object]:
    return [point["mr"] for point in nearest_winners(KEY, space, records)]


def test_the_nearest_is_chosen_by_instructions(tmp_path: Path) -> None:
    records = Records.at(tmp_path / "records.db")
    assert nearest(records) == []
    win(records, "cpu:znver4", {"mr": 2})  # the next name, and vectors twice as long
    win(records, "cpu:neoverse-n1", {"mr": 3})
    win(records, "cpu:haswell", {"mr": 4})
    win(records, "cpu:nehalem", {"mr": 5})
    assert nearest(records) == [4, 5, 2]


def test_what_does_not_fit_is_left_out(tmp_path: Path) -> None:
    records = Records.at(tmp_path / "records.db")
    win(records, "cpu:znver2", GONE)
    win(records, "cpu:znver1", {"kc": 2})
    win(records, "cpu:marble", {"mr": 2})
    win(records, "cuda:sm_90", {"mr": 2})
    win(records, "cpu:skylake", {"mr": 3}, replace(KEY, subject="another"))
    win(records, "cpu:skylake", {"mr": 4}, replace(KEY, shapes="le8"))
    win(records, KEY.target, {"mr": 4})
    records.put(replace(KEY, target="cpu:skylake"), {"mr": 4}, Result(0.9, 1.0))
    win(records, "cpu:skylake", {"mr": 5})
    assert nearest(records) == [5]


def test_the_store_comes_before_what_ships_and_both_before_what_is_farther(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = Records.at(tmp_path / "records.db")
    older = replace(KEY, tools="of last year")
    near = replace(KEY, target="cpu:znver2")
    ship(monkeypatch, tmp_path / "winners", row(near, {"mr": 4}), row(older, {"mr": 2}))
    win(records, "cpu:znver4", {"mr": 5})
    win(records, "cpu:znver2", {"mr": 3})
    assert nearest(records) == [2, 3, 4], "with other tools on the same target is the nearest"


@pytest.mark.parametrize("trials", [3, 5], ids=["guided", "whole"])
def test_a_search_on_an_unknown_machine_begins_with_the_nearest(
    tmp_path: Path, trials: int
) -> None:
    tuned, records = replace(subject(), key=KEY, space=SPACE), Records.at(tmp_path / "records.db")
    win(records, "cpu:neoverse-n1", {"mr": 3})
    win(records, "cpu:znver1", {"mr": 5})
    win(records, "cpu:znver2", GONE)
    asked: list[Configuration] = []

    def compare(job: Job) -> Measured:
        asked.append(job.candidate)
        return Measured([1.0] * job.rounds, [1.0] * job.rounds)

    search(tuned, records, Budget(trials), answering(compare))
    assert asked[:2] == [tuned.candidate({"mr": 5}), tuned.candidate({"mr": 3})]
    assert tuned.candidate(GONE) not in asked
    asked.clear()
    search(tuned, records, Budget(trials + 1), answering(compare), [{"mr": 5}])
    assert tuned.candidate({"mr": 5}) not in asked, "it was measured here"
