"""What a store remembers, read without a change to it; and which dimensions matter."""

import sqlite3
from pathlib import Path

import optuna
import pytest

from tilewright.autotune.history import Candidate, histories
from tilewright.autotune.importance import LEAST, importances
from tilewright.autotune.records import RecordKey, Records, Result
from tilewright.autotune.store import Store
from tilewright.dsl.errors import RecordsUnreadable

KEY = RecordKey("schedule", "f" * 64, "le8", "cpu:znver3", "tools")
PLAN = RecordKey("plan", "0" * 64, "encode[seq=64]", "cpu:znver3", "tools")


def tried(records: Records, key: RecordKey, *mr: int) -> None:
    """A study of a subject whose trials tried these values."""
    study = optuna.create_study(
        study_name="/".join((*key.columns.values(), "space")), storage=records.store.studies()
    )
    for value in mr:
        study.enqueue_trial({"mr": value})
        trial = study.ask()
        trial.suggest_categorical("mr", (1, 2, 3, 4, 7))
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)


def test_candidates_stand_in_the_order_of_the_trials(tmp_path: Path) -> None:
    records = Records.at(tmp_path / "a store #.db")
    for mr, ratio in ((1, None), (2, 0.5), (4, 1.5), (8, 0.9)):
        records.put(KEY, {"mr": mr}, Result(ratio, ratio, None if ratio else "wrong: 1 of 2"))
    records.crown(KEY, {"mr": 2})
    records.put(PLAN, {"fuse:*": "separate"}, Result(1.0, 1.0))
    tried(records, PLAN, 7)
    tried(records, KEY, 4, 3, 2, 4, 3, 1)
    before = (tmp_path / "a store #.db").read_bytes()
    own, other = histories(records.store)
    assert (tmp_path / "a store #.db").read_bytes() == before
    assert (own.key, other.key) == (KEY, PLAN)
    assert [(c.point["mr"], c.trial) for c in own.candidates] == [(4, 0), (2, 2), (1, 5), (8, None)]
    assert own.winner is not None
    assert (own.winner.ratio, own.candidates[2].failure) == (0.5, "wrong: 1 of 2")
    assert other.winner is None


@pytest.mark.parametrize("name", ["records.db", "?%20{x}#.db"])
def test_records_need_no_studies(tmp_path: Path, name: str) -> None:
    records = Records.at(tmp_path / name)
    records.put(KEY, {"mr": 2}, Result(0.5, 1.0))
    (found,) = histories(records.store)
    assert [(c.trial, c.when) for c in found.candidates] == [(None, None)]


def test_studies_of_another_optuna_only_cost_the_order(tmp_path: Path) -> None:
    records = Records.at(tmp_path / "records.db")
    records.put(KEY, {"mr": 2}, Result(0.5, 1.0))
    tried(records, KEY, 2)
    assert histories(records.store)[0].candidates[0].trial == 0
    with sqlite3.connect(tmp_path / "records.db") as table:
        table.execute("UPDATE alembic_version SET version_num='v99'")
    assert histories(records.store)[0].candidates[0].trial is None


def test_an_empty_store_has_no_histories(tmp_path: Path) -> None:
    records = Records.at(tmp_path / "records.db")
    records.require_writable()
    assert histories(records.store) == []
    nothing = tmp_path / "nothing.db"
    nothing.touch()
    with pytest.raises(RecordsUnreadable, match="no records"):
        histories(Store.at(nothing))


@pytest.mark.parametrize(
    "change",
    [
        "candidate='{'",
        "candidate='[1]'",
        "ratio=-1",
        "ratio=1e300",
        "seconds='soon'",
        "kind='?'",
        "bytes=-1",
        "default_bytes='few'",
    ],
)
def test_a_damaged_row_is_the_mistake_of_the_file(tmp_path: Path, change: str) -> None:
    records = Records.at(tmp_path / "records.db")
    records.put(KEY, {"mr": 2}, Result(0.5, 1.0))
    with sqlite3.connect(tmp_path / "records.db") as table:
        table.execute(f"UPDATE tilewright_candidates SET {change}")
    with pytest.raises(RecordsUnreadable):
        histories(records.store)


def test_a_store_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(RecordsUnreadable, match="no file"):
        histories(Store.at(tmp_path / "absent.db"))
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"no database " * 100)
    with pytest.raises(RecordsUnreadable, match="not a database"):
        histories(Store.at(damaged))


def test_the_dimension_that_decides_is_the_most_important() -> None:
    candidates = [
        Candidate({"mr": mr, "kc": kc, "unroll": 4}, 0.5 + mr + 0.001 * kc, 1.0, None, False)
        for mr in (0, 1, 2, 3)
        for kc in (1, 2, 3, 4)
    ]
    found = importances(candidates)
    assert [*found] == ["mr", "kc"]  # what never changes has no importance
    assert found["mr"] > 2 * found["kc"]
    assert sum(found.values()) == pytest.approx(1)
    older = [Candidate({"mr": 1, "warps": w}, 0.1, 1.0, None, False) for w in range(LEAST)]
    assert importances([*older, *candidates]) == found  # of another space than most
    failed = [Candidate({"mr": 1, "kc": 1, "unroll": 1}, None, None, "wrong: 1", False)] * LEAST
    assert importances([*candidates[: LEAST - 1], *failed]) == {}
