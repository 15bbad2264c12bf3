"""One store and many workers: nothing is lost or doubled, whoever is killed."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from tests.autotune.claimer import KEY, SPACE
from tests.depth import count
from tilewright.autotune import store as stores
from tilewright.autotune.exchange import file_of
from tilewright.autotune.history import histories
from tilewright.autotune.ledger import Ledger, study_name
from tilewright.autotune.prefer import preferred
from tilewright.autotune.records import Records, Result, point_text, tools
from tilewright.autotune.workers import Worker
from tilewright.codegen.space import Point

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real PostgreSQL server."""
    pgserver = pytest.importorskip("pgserver")
    pytest.importorskip("psycopg")
    running = pgserver.get_server(tmp_path_factory.mktemp("postgres"))
    try:
        yield running.get_uri()
    finally:
        running.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "records.db")
    server: str = request.getfixturevalue("server")
    name = f"t{time.time_ns()}"
    import psycopg

    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return server.replace("/postgres?", f"/{name}?")


def claimer(location: str, most: int, seed: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.autotune.claimer", location, str(most), str(seed)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def acknowledged(worker: subprocess.Popen[str]) -> list[str]:
    out, _ = worker.communicate(timeout=250)
    return [line for line in out.splitlines() if line.startswith("{")]


def trials(location: str) -> list[tuple[int, str, str]]:
    """Number, state and point of each of Optuna's trials."""
    storage = Records.at(location).store.studies()
    study = storage.get_study_id_from_name(study_name(KEY, SPACE))
    found = storage.get_all_trials(study, deepcopy=False)
    return [(t.number, t.state.name, point_text(t.params)) for t in found]


def test_a_point_is_claimed_once(location: str) -> None:
    ledger = Ledger(KEY, SPACE, Records.at(location))
    one: Point = {"a": 1, "b": 1}
    trial = ledger.claim(one, 2)
    assert trial is not None
    assert ledger.claim(one, 2) is None
    assert ledger.claimed() == {point_text(one)}
    assert ledger.claim({"a": 2, "b": 1}, 1) is None, "the only candidate is claimed"
    ledger.settle(trial, one, Result(0.5, 1.0, bytes=8))
    assert ledger.claim(one, 2) is None, "it is known"
    assert ledger.claimed() == set()
    second: Point = {"a": 2, "b": 1}
    other = ledger.claim(second, 2)
    assert other is not None
    ledger.release(other, second)
    assert ledger.claim(second, 2) is not None, "it was given back"
    assert [state for _, state, _ in trials(location)] == ["COMPLETE", "FAIL", "RUNNING"]


def test_a_study_has_both_values_beside_one_of_the_time_alone(location: str) -> None:
    records = Records.at(location)
    storage = records.store.studies()
    older = f"{KEY}/{SPACE.fingerprint}"
    optuna.create_study(study_name=older, storage=storage).add_trial(
        optuna.trial.create_trial(value=0.5)
    )
    ledger = Ledger(KEY, SPACE, records)
    found = {(1, 1): (0.5, 800), (1, 2): (0.6, 900), (1, 3): (0.9, 100)}
    for (a, b), (ratio, taken) in found.items():
        trial = ledger.claim({"a": a, "b": b}, 9)
        assert trial is not None
        ledger.settle(trial, {"a": a, "b": b}, Result(ratio, 1.0, bytes=taken))
    study = optuna.load_study(study_name=study_name(KEY, SPACE), storage=storage)
    assert [d.name for d in study.directions] == ["MINIMIZE", "MINIMIZE"]
    assert sorted(t.values for t in study.best_trials) == [[0.5, 800.0], [0.9, 100.0]]
    assert optuna.load_study(study_name=older, storage=storage).best_value == 0.5


def make_older(location: str) -> None:
    """Turns a store into what version 2 wrote."""
    with Records.at(location).store.writing() as connection:
        for name in ("bytes", "default_bytes"):
            connection.exec_driver_sql(f"ALTER TABLE tilewright_candidates DROP COLUMN {name}")
        connection.exec_driver_sql("UPDATE tilewright_store SET version = 2")
    stores._engine.cache_clear()


def test_a_store_of_version_2_is_brought_up_by_whoever_comes_first(location: str) -> None:
    point: Point = {"a": 29, "b": 29}
    Records.at(location).put(KEY, point, Result(0.5, 1.0, None, 0.4, 0.6, 7, 8))
    Records.at(location).crown(KEY, point)
    make_older(location)
    running = [claimer(location, 8, seed) for seed in range(3)]
    said = [line for worker in running for line in acknowledged(worker)]
    assert [worker.returncode for worker in running] == [0, 0, 0]
    results = Records.at(location).results(KEY)
    assert results.pop(point_text(point)) == Result(0.5, 1.0, None, 0.4, 0.6)
    assert sorted(results) == sorted(said)
    assert len(said) == 7
    assert {r.bytes for r in results.values()} == {64}
    assert Records.at(location).winner(KEY) == (point, 0.5)


def test_who_may_only_read_reads_a_store_of_version_2(location: str) -> None:
    point: Point = {"a": 29, "b": 29}
    key = replace(KEY, tools=tools())
    records = Records.at(location)
    records.put(key, point, Result(0.5, 1.0, None, 0.4, 0.6, 7, 8))
    records.crown(key, point)
    make_older(location)
    assert [(r.ratio, r.bytes, r.won) for r in file_of(records).rows] == [(0.5, None, True)]
    (told,) = histories(records.store)
    assert (told.ratio, told.candidates[0].bytes) == (0.5, None)
    assert records.schedules(KEY.target).find(KEY.subject, KEY.shapes) == point
    (measured,) = records.measured(KEY.target).values()
    assert preferred(measured, point, 0.5) == point
    with records.store.reading() as connection:
        version = connection.exec_driver_sql("SELECT version FROM tilewright_store").scalar()
    assert version == 2, "it is as it was"


def test_what_a_dead_worker_left_is_taken_up(location: str) -> None:
    """Killed before the result, and between the result and the end of Optuna's trial."""
    code = (
        "import os, sys\n"
        "from tests.autotune.claimer import KEY, SPACE\n"
        "from tilewright.autotune.ledger import Ledger\n"
        "from tilewright.autotune.records import Records, Result\n"
        "ledger = Ledger(KEY, SPACE, Records.at(sys.argv[1]))\n"
        "ledger.claim({'a': 1, 'b': 1}, 9)\n"
        "settled = ledger.claim({'a': 2, 'b': 2}, 9)\n"
        "ledger._finish = lambda *_: os.kill(os.getpid(), 9)\n"
        "ledger.settle(settled, {'a': 2, 'b': 2}, Result(0.5, 1.0, bytes=8))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, location], cwd=ROOT, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert [state for _, state, _ in trials(location)] == ["RUNNING", "RUNNING"]
    ledger = Ledger(KEY, SPACE, Records.at(location))
    assert ledger.reclaim() == 2
    assert [state for _, state, _ in trials(location)] == ["FAIL", "COMPLETE"]
    assert ledger.claimed() == set()
    assert [*ledger.results()] == [point_text({"a": 2, "b": 2})]
    assert ledger.reclaim() == 0


def test_the_claims_of_the_living_stay(location: str) -> None:
    ledger = Ledger(KEY, SPACE, Records.at(location))
    assert ledger.claim({"a": 1, "b": 1}, 9) is not None
    assert Ledger(KEY, SPACE, Records.at(location)).reclaim() == 0
    assert len(ledger.claimed()) == 1


def test_who_lives() -> None:
    me = Worker.this()
    assert Worker.parse(str(me)) == me
    assert me.lives(None)
    assert not Worker(me.place, me.number, "1").lives(time.time()), "its number was given anew"
    elsewhere = Worker("another machine", 1, "1")
    assert elsewhere.lives(time.time() - 30)
    assert not elsewhere.lives(time.time() - 1000)
    assert not elsewhere.lives(None)


def test_workers_share_a_study(location: str) -> None:
    most, workers = count(40, 400), count(3, 8)
    running = [claimer(location, most, seed) for seed in range(workers)]
    said = Counter(line for worker in running for line in acknowledged(worker))
    assert [worker.returncode for worker in running] == [0] * workers
    assert said.total() == most
    assert max(said.values()) == 1
    found = trials(location)
    assert [number for number, _, _ in found] == [*range(most)]
    assert {state for _, state, _ in found} == {"COMPLETE"}
    assert {point for _, _, point in found} == set(said)


def test_nothing_is_lost_or_doubled_by_kills(tmp_path: Path) -> None:
    location, seed = str(tmp_path / "records.db"), random.Random(0)
    said: list[str] = []
    for turn in range(count(4, 40)):
        worker = claimer(location, 10_000, turn)
        assert worker.stdout is not None
        assert worker.stdout.readline() == "open\n"
        time.sleep(seed.uniform(0.0, 0.4))
        os.kill(worker.pid, signal.SIGKILL)
        said += acknowledged(worker)
    ledger = Ledger(KEY, SPACE, Records.at(location))
    ledger.reclaim()
    results, found = ledger.results(), trials(location)
    assert set(said) <= results.keys()
    assert len(said) == len(set(said))
    assert ledger.claimed() == set()
    complete = Counter(point for _, state, point in found if state == "COMPLETE")
    assert complete == Counter([*results])
    assert not any(state == "RUNNING" for _, state, _ in found)
    assert [number for number, _, _ in found] == [*range(len(found))]
