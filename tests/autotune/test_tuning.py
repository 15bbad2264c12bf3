"""From a program through studies and records to the next compilation."""

import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.autotune.faulty_child import CRASHES, IS_WRONG
from tilewright.autotune import child
from tilewright.autotune.job import Job, Measured
from tilewright.autotune.records import Records, Result
from tilewright.autotune.study import Budget, search, wins
from tilewright.autotune.subjects import Subject, kernel_subjects, plan_subject
from tilewright.autotune.worker import Failure, Worker
from tilewright.codegen.compiler import Compilation, Options, compile_program
from tilewright.codegen.key import compilation_key
from tilewright.codegen.space import Point
from tilewright.dsl.builder import graph, param
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import f32
from tilewright.dsl.errors import NothingToTune, RecordsUnreadable
from tilewright.dsl.program import Program, program
from tilewright.dsl.tensor import Tensor
from tilewright.runtime.model import load
from tilewright.target.spec import parse_target

OPTIONS = Options(parse_target("cpu:native"))
TWICE = Measured([2.0] * 9, [1.0] * 9)


def products() -> Program:
    @graph(x=f32[dim("rows", 1, 32), 24])
    def products(x: Tensor) -> tuple[Tensor, Tensor]:
        return x @ param("q", f32[40, 24]).T, x @ param("k", f32[8, 24]).T

    return program("products", products).program


def compiled(options: Options, folder: Path) -> Compilation:
    source = products()
    return compile_program(source, child.DrawnWeights(source), folder, options)


def kernel_texts(folder: Path) -> list[str]:
    return [path.read_text() for path in sorted((folder / "kernels").iterdir())]


def subject() -> Subject:
    (found,) = kernel_subjects(products(), OPTIONS)
    return found


def moved(point: Point, **values: int) -> Point:
    return {**point, **values}


def test_faulty_candidates_never_win_and_the_next_compile_uses_the_winner(tmp_path: Path) -> None:
    tuned, records = subject(), Records(tmp_path / "records.db")
    default = tuned.space.default
    good = moved(default, prefetch=0)
    planted = [moved(default, unroll=CRASHES), moved(default, unroll=IS_WRONG), good]
    faulty = Worker(120, (sys.executable, "-m", "tests.autotune.faulty_child"))
    found = search(tuned, records, Budget(3, 500), faulty, planted)
    failures = [r.failure or "" for r in records.results(tuned.key).values() if r.ratio is None]
    assert sorted(f.split(" ")[0] for f in failures) == ["it", "wrong:"], failures
    assert (found.winner, found.ratio, found.trials, found.failures) == (good, 0.5, 3, 2)

    options = records.applied(products(), OPTIONS)
    plain = compiled(OPTIONS, tmp_path / "plain")
    result = compiled(options, tmp_path / "tuned")
    fired = [d for d in result.context.log.decisions if d.rule == "schedule"]
    (decision,) = fired
    assert decision.outcome == "fired"
    assert decision.reason.startswith("rest: instruction=fma, ")
    assert "prefetch=0" in decision.reason
    assert not any(d.rule == "schedule" for d in plain.context.log.decisions)
    assert kernel_texts(tmp_path / "plain") != kernel_texts(tmp_path / "tuned")
    assert compilation_key(products(), options, []) != compilation_key(products(), OPTIONS, [])
    x = np.random.default_rng(0).standard_normal((5, 24)).astype(np.float32)
    one, two = (load(tmp_path / n, 1).run("products", {"x": x}) for n in ("plain", "tuned"))
    for name, y in one.items():
        assert np.allclose(y, two[name], atol=1e-5)


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    tuned, records = subject(), Records(tmp_path / "records.db")
    asked: list[Job] = []

    def measure(job: Job) -> Measured:
        asked.append(job)
        return Measured([1.0] * job.rounds, [1.0] * job.rounds)

    first = [moved(tuned.space.default, prefetch=0)]
    assert search(tuned, records, Budget(1), measure, first).winner is None
    assert len(asked) == 1
    search(tuned, records, Budget(1), measure, first)
    assert search(tuned, records, Budget(1), measure, [tuned.space.default]).winner is None
    known = records.results(tuned.key)
    assert len(asked) == len(known)
    assert all(result == Result(1.0, 1.0) for result in known.values())


def test_an_illegal_point_is_never_measured(tmp_path: Path) -> None:
    tuned, records = subject(), Records(tmp_path / "records.db")
    wide = moved(tuned.space.default, mr=32)
    assert "registers" in (tuned.space.refusal(wide) or "")

    def measure(job: Job) -> Measured:
        raise AssertionError("measured")

    assert search(tuned, records, Budget(1), measure, [wide]).failures == 1


def test_a_stale_schedule_is_refused_and_the_default_taken(tmp_path: Path) -> None:
    tuned, records = subject(), Records(tmp_path / "records.db")
    stale = moved(tuned.space.default, unroll=1024)
    records.put(tuned.key, stale, Result(0.5, 1.0))
    records.crown(tuned.key, stale)
    result = compiled(records.applied(products(), OPTIONS), tmp_path / "a")
    compiled(OPTIONS, tmp_path / "b")
    (decision,) = (d for d in result.context.log.decisions if d.rule == "schedule")
    assert decision.outcome == "refused"
    assert "unroll" in decision.reason
    assert kernel_texts(tmp_path / "a") == kernel_texts(tmp_path / "b")


def test_a_choice_of_the_plan_is_tuned(tmp_path: Path) -> None:
    source, records = products(), Records(tmp_path / "records.db")
    tuned = plan_subject(source, OPTIONS, "horizontal_matmul:*", "products", {"rows": 16})
    assert tuned.space.default == {"horizontal_matmul:*": "fuse"}
    separate: Point = {"horizontal_matmul:*": "separate"}
    measured = child.measure(tuned.job(separate, 4))
    assert measured.mismatch is None
    assert len(measured.baseline) == len(measured.candidate) == 4

    found = search(tuned, records, Budget(2), lambda job: TWICE)
    assert found.winner == separate
    rules = {c.rule for c in compiled(OPTIONS, tmp_path / "a").manifest.certificates}
    assert "horizontal_matmul" in rules
    options = records.applied(source, OPTIONS)
    rules = {c.rule for c in compiled(options, tmp_path / "b").manifest.certificates}
    assert "horizontal_matmul" not in rules
    with pytest.raises(NothingToTune, match="0 choices"):
        plan_subject(source, OPTIONS, "no_such_pass:*", "products", {})


@pytest.mark.parametrize(
    ("measured", "winner"),
    [
        (TWICE, True),
        (Measured([1.0] * 9, [1.0] * 9), False),
        (Measured([1.0] * 9, [0.98] * 9), False),
        (Measured([1.0] * 8, [0.5] * 5 + [1.5] * 3), False),
        (Measured([2.0] * 9, [1.0] * 9, "y is wrong"), False),
        (Failure("it crashed"), False),
    ],
)
def test_winning_is_being_faster_outside_the_noise(
    measured: Measured | Failure, winner: bool
) -> None:
    assert wins(measured) is winner


def test_a_candidate_that_is_not_confirmed_does_not_win(tmp_path: Path) -> None:
    tuned, records = subject(), Records(tmp_path / "records.db")
    answers = iter([TWICE, Measured([1.0] * 18, [1.0] * 18)])
    first = [moved(tuned.space.default, prefetch=0)]
    assert search(tuned, records, Budget(1), lambda job: next(answers), first).winner is None
    assert records.schedules(tuned.key.target).points == {}


def test_a_process_that_hangs_is_ended() -> None:
    program = "import sys, time; sys.stdin.read(); time.sleep(300)"
    hanging = Worker(0.5, (sys.executable, "-c", program))
    found = hanging(subject().job(subject().space.default, 1))
    assert isinstance(found, Failure)
    assert "longer than 0.5 s" in found.reason


def test_an_answer_that_is_none_is_a_failure() -> None:
    talking = Worker(60, (sys.executable, "-c", "print('hello')"))
    found = talking(subject().job(subject().space.default, 1))
    assert isinstance(found, Failure)
    assert "cannot be read" in found.reason


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    path.write_bytes(b"no database " * 100)
    with pytest.raises(RecordsUnreadable, match="not a database"):
        search(subject(), Records(path), Budget(1), lambda job: TWICE)


def test_jobs_survive_the_pipe() -> None:
    job = subject().job(subject().space.default, 3)
    assert msgspec.json.decode(msgspec.json.encode(job), type=Job) == job
