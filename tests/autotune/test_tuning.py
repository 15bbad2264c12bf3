"""From a program through studies and records to the next compilation."""

import re
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.autotune.faulty_child import BREAKS, IS_WRONG, planted
from tilewright.autotune import child, sizes
from tilewright.autotune.bench import Bench, Measure
from tilewright.autotune.job import (
    Answer,
    Configuration,
    Failure,
    Job,
    Measured,
    Preparation,
    Prepared,
    Task,
)
from tilewright.autotune.launch import Launcher
from tilewright.autotune.prefer import applied_within
from tilewright.autotune.records import Records, Result, point_of
from tilewright.autotune.study import Budget, search, wins
from tilewright.autotune.subjects import Subject, kernel_subjects, plan_subject
from tilewright.codegen.compiler import Compilation, Options, compile_program
from tilewright.codegen.key import compilation_key
from tilewright.codegen.space import Point, Schedules, integer
from tilewright.dsl.builder import graph, param, scope, state
from tilewright.dsl.dims import Dim, dim
from tilewright.dsl.dtypes import f32
from tilewright.dsl.encoding import Tiled
from tilewright.dsl.errors import (
    BaselineFailed,
    InvalidBudget,
    NothingToTune,
    RecordsUnreadable,
    SymbolRangeError,
)
from tilewright.dsl.ops.attention import attention
from tilewright.dsl.program import Program, program
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.text import parse_program
from tilewright.dsl.types import CacheType, TensorType
from tilewright.passes.plan import Plan
from tilewright.runtime.artifact import open_artifact
from tilewright.runtime.model import load
from tilewright.target.spec import parse_target

OPTIONS = Options(parse_target("cpu:native"))
TWICE = Measured([2.0] * 9, [1.0] * 9)
FAULTY = Launcher((sys.executable, "-m", "tests.autotune.faulty_child"))
"""Its process is kept for the whole module, and goes with this one."""


def answering(compare: Callable[[Job], Answer]) -> Measure:
    """A measuring process that prepares nothing."""

    def measure(task: Task, seconds: float) -> Answer:
        return compare(task) if isinstance(task, Job) else Prepared(0.0, 0.0, 1)

    return measure


def products() -> Program:
    @graph(x=f32[dim("rows", 1, 32), 24])
    def products(x: Tensor) -> tuple[Tensor, Tensor]:
        with scope("layer", 0):
            return x @ param("q", f32[40, 24]).T, x @ param("k", f32[8, 24]).T

    return program("products", products).program


def padded() -> Program:
    """A product whose weight does not fill its last tile, whatever their width."""

    @graph(x=f32[dim("rows", 1, 32), 24])
    def padded(x: Tensor) -> Tensor:
        return x @ param("w", f32[41, 24]).T

    return program("padded", padded).program


def compiled(options: Options, folder: Path) -> Compilation:
    source = products()
    return compile_program(source, child.DrawnWeights(source), folder, options)


def kernel_texts(folder: Path) -> list[str]:
    return [path.read_text() for path in sorted((folder / "kernels").iterdir())]


def subject() -> Subject:
    (found,) = kernel_subjects(products(), OPTIONS, "matmul_*")
    return found


def task() -> Job:
    tuned = subject()
    return Job(tuned.case, "nowhere", tuned.candidate(tuned.space.default), 3)


def moved(point: Point, **values: int) -> Point:
    return {**point, **values}


def test_faulty_candidates_never_win_and_the_next_compile_uses_the_winner(tmp_path: Path) -> None:
    tuned, records = subject(), Records.at(tmp_path / "records.db")
    default = tuned.space.default
    good = moved(default, prefetch=0)
    bad = [{**default, **planted(2), "unroll": unroll} for unroll in (BREAKS, IS_WRONG)]
    found = search(tuned, records, Budget(3, 500), FAULTY, [*bad, good])
    failures = [r.failure or "" for r in records.results(tuned.key).values() if r.ratio is None]
    assert sorted(f.split(" ")[0] for f in failures) == ["it", "wrong:"], failures
    assert (found.winner, found.ratio, found.trials) == (good, 0.5, 3)
    assert found.failures == {"crashed": 1, "wrong": 1}

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
    tuned, records = subject(), Records.at(tmp_path / "records.db")
    asked: list[Job] = []

    def compare(job: Job) -> Measured:
        asked.append(job)
        return Measured([1.0] * job.rounds, [1.0] * job.rounds)

    measure = answering(compare)
    first = [moved(tuned.space.default, prefetch=0)]
    assert search(tuned, records, Budget(1), measure, first).winner is None
    assert len(asked) == 1
    search(tuned, records, Budget(1), measure, first)
    assert search(tuned, records, Budget(1), measure, [tuned.space.default]).winner is None
    known = records.results(tuned.key)
    assert len(asked) == len(known)
    assert all(result == Result(1.0, 1.0, None, 1.0, 1.0) for result in known.values())


def test_an_illegal_point_is_never_measured(tmp_path: Path) -> None:
    tuned, records = subject(), Records.at(tmp_path / "records.db")
    wide = moved(tuned.space.default, mr=32)
    assert "registers" in (tuned.space.refusal(wide) or "")

    asked: list[Configuration] = []

    def compare(job: Job) -> Measured:
        asked.append(job.candidate)
        return Measured([1.0] * job.rounds, [1.0] * job.rounds)

    assert search(tuned, records, Budget(3), answering(compare), [wide]).trials == 3
    assert tuned.candidate(wide) not in asked
    assert all(tuned.space.refusal(point_of(text)) is None for text in records.results(tuned.key))


def test_a_stale_schedule_is_refused_and_the_default_taken(tmp_path: Path) -> None:
    tuned, records = subject(), Records.at(tmp_path / "records.db")
    stale = moved(tuned.space.default, unroll=1024)
    records.put(tuned.key, stale, Result(0.5, 1.0))
    records.crown(tuned.key, stale)
    result = compiled(records.applied(products(), OPTIONS), tmp_path / "a")
    compiled(OPTIONS, tmp_path / "b")
    (decision,) = (d for d in result.context.log.decisions if d.rule == "schedule")
    assert decision.outcome == "refused"
    assert "unroll" in decision.reason
    assert kernel_texts(tmp_path / "a") == kernel_texts(tmp_path / "b")


def attentions() -> Program:
    @graph(x=f32[dim("batch", 1, 8), dim("seq", 1, 512), 2, 64])
    def attend(x: Tensor) -> Tensor:
        return attention(x, x, x, scale=0.125)[0]

    return program("attentions", attend).program


def test_attention_is_tuned_at_a_prompt_of_one_batch() -> None:
    (tuned,) = kernel_subjects(attentions(), OPTIONS, "attention_*")
    assert tuned.key.shapes == "rest"
    assert (tuned.case.sizes["batch"], tuned.case.sizes["seq"]) == (1, 256)
    assert all(sizes["seq"] <= 256 for sizes in tuned.case.checked)


def cached() -> Program:
    past, seq = dim("past", 0, 32), dim("seq", 1, 32)

    @graph(q=f32[1, seq, 2, 8], k=f32[1, seq, 2, 8], past=past)
    def step(q: Tensor, k: Tensor, past: Dim) -> Tensor:
        kept = state("cache", CacheType(1, 64, 2, 8, f32)).append(k, k, at=past)
        return attention(q, *kept.view(past + seq), scale=0.5)[0]

    return program("cached", step).program


def test_a_kernel_that_reads_a_cache_is_tuned(tmp_path: Path) -> None:
    (tuned,) = kernel_subjects(cached(), OPTIONS)
    assert tuned.name.startswith("attention_")
    assert tuned.case.sizes["past"] > 0
    child.prepare(Preparation(tuned.case, str(tmp_path)))
    point = {**tuned.space.default, "unroll": 2}
    found = child.measure(Job(tuned.case, str(tmp_path), tuned.candidate(point), 2))
    assert found.mismatch is None
    assert len(found.candidate) == 2
    with np.load(tmp_path / "expected1.npz") as arrays:
        changed = {**arrays, "0/ideal": arrays["0/ideal"] + 0.1}
    np.savez(tmp_path / "expected1.npz", **changed)
    assert child.measure(Job(tuned.case, str(tmp_path), tuned.candidate(point), 2)).mismatch


@pytest.mark.parametrize("change", [{"query_vectors": None}, {"query_vectors": 9}, {"mr": 4}])
def test_a_point_of_another_space_is_refused_and_the_default_taken(
    change: dict[str, int | None], tmp_path: Path
) -> None:
    (tuned,) = kernel_subjects(attentions(), OPTIONS)
    point = {**tuned.space.default, **change}
    kept = {name: value for name, value in point.items() if value is not None}
    given = Schedules().with_point(tuned.key.subject, "rest", kept)
    source, texts, reasons = attentions(), list[list[str]](), list[str]()
    for number, schedules in enumerate((given, Schedules())):
        options = replace(OPTIONS, schedules=schedules)
        done = compile_program(source, child.DrawnWeights(source), tmp_path / str(number), options)
        texts.append(kernel_texts(tmp_path / str(number)))
        decided = (d for d in done.context.log.decisions if d.rule == "schedule")
        reasons += [f"{d.outcome}: {d.reason}" for d in decided]
    (reason,) = reasons
    assert reason.startswith("refused: rest: ")
    assert texts[0] == texts[1]


def test_a_choice_of_the_plan_is_tuned(tmp_path: Path) -> None:
    source, records = products(), Records.at(tmp_path / "records.db")
    tuned = plan_subject(source, OPTIONS, "horizontal_matmul:*", "products", {"rows": 16})
    assert tuned.space.default == {"horizontal_matmul:*": "fuse"}
    separate: Point = {"horizontal_matmul:*": "separate"}
    child.prepare(Preparation(tuned.case, str(tmp_path)))
    measured = child.measure(Job(tuned.case, str(tmp_path), tuned.candidate(separate), 4))
    assert measured.mismatch is None
    assert len(measured.baseline) == len(measured.candidate) == 4

    found = search(tuned, records, Budget(2), answering(lambda job: TWICE))
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
        (Measured([2.0] * 9, [1.0] * 9, mismatch="y is wrong"), False),
        (Failure("it crashed"), False),
    ],
)
def test_winning_is_being_faster_outside_the_noise(
    measured: Measured | Failure, winner: bool
) -> None:
    assert wins(measured) is winner


def test_a_candidate_that_is_not_confirmed_does_not_win(tmp_path: Path) -> None:
    tuned, records = subject(), Records.at(tmp_path / "records.db")
    answers = iter([TWICE, Measured([1.0] * 18, [1.0] * 18)])
    first = [moved(tuned.space.default, prefetch=0)]
    measure = answering(lambda job: next(answers))
    assert search(tuned, records, Budget(1), measure, first).winner is None
    assert records.schedules(tuned.key.target).points == {}


def test_a_process_that_hangs_is_ended() -> None:
    program = "import time; input(); time.sleep(300)"
    with Launcher((sys.executable, "-c", program), grace=0.0) as hanging:
        found = hanging(task(), 0.5)
    assert isinstance(found, Failure)
    assert "longer than 0.5 s" in found.reason


def test_an_answer_that_is_none_is_a_failure() -> None:
    with Launcher((sys.executable, "-c", "input(); print('hello')")) as talking:
        found = talking(task(), 60)
    assert isinstance(found, Failure)
    assert "cannot be read" in found.reason


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    path.write_bytes(b"no database " * 100)
    with pytest.raises(RecordsUnreadable, match="not a database"):
        search(subject(), Records.at(path), Budget(1), answering(lambda job: TWICE))


def test_tasks_survive_the_pipe() -> None:
    tasks = [task(), Preparation(subject().case, "nowhere")]
    assert msgspec.json.decode(msgspec.json.encode(tasks), type=list[Task]) == tasks


def test_a_mistake_of_the_child_is_its_answer() -> None:
    case = msgspec.structs.replace(task().case, target="cpu:marble")
    with Launcher() as launcher:
        found = launcher(Preparation(case, ""), 60)
    assert isinstance(found, Failure)
    assert found.reason.startswith("UnknownTarget: ")


def test_a_wrong_baseline_ends_the_study(tmp_path: Path) -> None:
    def measure(task: Task, seconds: float) -> Answer:
        return Failure("what is taken untuned is wrong")

    with pytest.raises(BaselineFailed, match="untuned is wrong"):
        search(subject(), Records.at(tmp_path / "records.db"), Budget(1), measure)


def test_the_reference_is_evaluated_once_and_sees_every_element(tmp_path: Path) -> None:
    tuned = subject()
    child.prepare(Preparation(tuned.case, str(tmp_path)))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "baseline",
        "expected0.npz",
        "expected1.npz",
    ]
    job = Job(tuned.case, str(tmp_path), tuned.candidate(tuned.space.default), 1)
    with np.load(tmp_path / "expected1.npz") as arrays:
        changed = dict(arrays)
    assert child.measure(job).mismatch is None
    changed["0/ideal"][-1, -1] += 1.0
    np.savez(tmp_path / "expected1.npz", **changed)
    assert "1 of" in (child.measure(job).mismatch or "")


def test_the_reference_gets_sizes_that_it_can_afford(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [*subject().case.checked] == [{"rows": 5}, {"rows": 32}]
    (timed,) = products().graphs
    monkeypatch.setattr(sizes, "_FLOPS", 10 * 24 * 48 * 2)
    assert sizes.checked_sizes(timed, {"rows": 32}, lambda at: True)[1] == {"rows": 8}
    only_many = sizes.checked_sizes(timed, {"rows": 32}, lambda at: at["rows"] > 8)
    assert only_many[1] == {"rows": 16}, "a kernel is checked in its shape class at any cost"


def test_time_that_is_over_says_nothing_about_a_candidate(tmp_path: Path) -> None:
    tuned, records = subject(), Records.at(tmp_path / "records.db")

    def slow(task: Task, seconds: float) -> Answer:
        if isinstance(task, Preparation):
            return Prepared(0.0, 0.0, 1)
        time.sleep(seconds)
        return Failure("it took longer")

    with Bench(tuned, slow, 0.5) as bench:
        assert bench.compare(tuned.space.default, 9) is None
    found = search(tuned, records, Budget(5, 0.5), slow)
    assert (found.trials, found.failures, found.complete) == (0, {}, False)
    assert records.results(tuned.key) == {}


def test_an_interrupted_study_keeps_its_winner_and_goes_on(tmp_path: Path) -> None:
    tuned, records = subject(), Records.at(tmp_path / "records.db")
    good, next_one = (moved(tuned.space.default, prefetch=p) for p in (0, 2))
    asked: list[Job] = []

    def interrupted(job: Job) -> Measured:
        asked.append(job)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return TWICE

    with pytest.raises(KeyboardInterrupt):
        search(tuned, records, Budget(5), answering(interrupted), [good, next_one])
    assert records.winner(tuned.key) == (good, 0.5)

    asked.clear()
    same = answering(lambda job: asked.append(job) or Measured([1.0] * 9, [1.0] * 9))
    found = search(tuned, records, Budget(2), same, [good, next_one])
    assert (found.winner, found.ratio) == (good, 0.5)
    assert [job.candidate for job in asked] == [tuned.candidate(next_one)]


def test_the_memory_of_a_kernel_is_what_the_compiler_laid_out(tmp_path: Path) -> None:
    (tuned,) = (s for s in kernel_subjects(padded(), OPTIONS, "matmul_*") if s.key.shapes == "rest")
    source = parse_program(tuned.case.program)
    (weight,) = (d.type for d in source.params)
    assert isinstance(weight, TensorType)
    assert isinstance(weight.encoding, Tiled)
    rows = weight.encoding.rows
    padding = (-41 % rows) * 24 * 4
    assert padding > 0
    point = tuned.space.default
    sizes: dict[int, int] = {}
    for tiles in (1, 2):
        configuration = tuned.candidate(moved(point, tiles=tiles, pack_rows=0))
        for threads in (1, 3):
            case = msgspec.structs.replace(tuned.case, threads=threads)
            _, sizes[tiles * threads] = child.compiled(source, case, configuration, tmp_path / "a")
    # Sums of `tiles` tiles of mr x rows, on each thread; a line to align each piece of scratch.
    sums = integer(point["mr"]) * rows * 4
    assert sizes[2] - sizes[1] == sums
    assert sizes[6] - sizes[3] == 3 * sums
    assert sizes[3] - padding == 3 * (sizes[1] - padding)
    assert sizes[1] - padding >= sums


def test_the_memory_of_a_plan_is_its_arena_and_its_weights(tmp_path: Path) -> None:
    tuned = plan_subject(products(), OPTIONS, "horizontal_matmul:*", "products", {"rows": 16})
    source = parse_program(tuned.case.program)
    point: Point = {"horizontal_matmul:*": "fuse"}
    folder = tmp_path / "fused"
    model, taken = child.compiled(source, tuned.case, tuned.candidate(point), folder)
    model.run("products", {"x": np.zeros((16, 24), np.float32)})
    stored = sum(array.nbytes for array in open_artifact(folder).weights.values())
    assert model.arena_bytes > 0
    assert taken == model.arena_bytes + stored


def test_progress_tells_trial_best_gain_failures_and_time(tmp_path: Path) -> None:
    tuned, records = subject(), Records.at(tmp_path / "records.db")
    first = [moved(tuned.space.default, prefetch=0), moved(tuned.space.default, prefetch=2)]
    answers = iter([Failure("it was ended by signal 11: x"), TWICE, TWICE])
    measure = answering(lambda job: next(answers, Failure("x")))
    lines: list[str] = []
    search(tuned, records, Budget(2, 500), measure, first, progress=lines.append)
    last = [*tuned.space.neighbours(first[0])][:1]
    search(tuned, records, Budget(3, 500), measure, last, progress=lines.append)
    told = [line.rpartition(", ") for line in lines]
    assert [head for head, _, _ in told] == [
        "trial 1 of 2, none faster yet",
        "trial 2 of 2, none faster yet, 1 crashed",
        "trial 3 of 3, best x0.500, gain 2.00x, 1 crashed",
    ]
    assert all(re.fullmatch(r"\d+ s left", left) for _, _, left in told)


def test_a_record_tells_the_bytes_of_both_sides(tmp_path: Path) -> None:
    tuned, records = subject(), Records.at(tmp_path / "records.db")

    def measure(task: Task, seconds: float) -> Answer:
        if isinstance(task, Preparation):
            return Prepared(0.0, 0.0, 1, 900)
        return Measured([1.0] * 9, [1.3] * 9, bytes=400)

    first = [moved(tuned.space.default, prefetch=0)]
    found = search(tuned, records, Budget(1), measure, first, aims=frozenset({"memory"}))
    assert [(c.point, c.bytes) for c in found.front] == [(None, 900), (first[0], 400)]
    assert found.winner is None, "it is slower"
    (known,) = records.results(tuned.key).values()
    assert (known.bytes, known.default_bytes) == (400, 900)


def test_a_kernel_with_less_memory_is_taken_where_it_costs_little(tmp_path: Path) -> None:
    tuned, records = subject(), Records.at(tmp_path / "records.db")
    fast, small = (moved(tuned.space.default, prefetch=p) for p in (0, 2))
    records.put(tuned.key, fast, Result(0.8, 1.0, None, 0.79, 0.81, 2000, 1000))
    records.put(tuned.key, small, Result(0.82, 1.0, None, 0.81, 0.83, 500, 1000))
    records.crown(tuned.key, fast)
    place = (tuned.key.subject, tuned.key.shapes)
    for slack, taken in ((0.0, fast), (0.05, small)):
        options = applied_within(records, products(), OPTIONS, slack)
        assert options.schedules.points == {place: taken}
    given = replace(OPTIONS, schedules=Schedules({place: fast}))
    assert applied_within(records, products(), given, 0.05).schedules.points == {place: fast}
    records.put(tuned.key, fast, Result(0.96, 1.0, None, 0.95, 0.97, 2000, 1000))
    records.put(tuned.key, small, Result(1.2, 1.0, None, 1.1, 1.3, 500, 1000))
    assert applied_within(records, products(), OPTIONS, 0.05).schedules.points == {}


def test_a_small_space_is_tried_as_a_whole_and_once(tmp_path: Path) -> None:
    records = Records.at(tmp_path / "records.db")
    tuned = plan_subject(products(), OPTIONS, "horizontal_matmul:*", "products", {})
    measure = answering(lambda job: TWICE)
    assert [search(tuned, records, Budget(64), measure).trials for _ in range(2)] == [1, 0]


def test_the_latest_study_of_a_choice_decides_for_all_sizes(tmp_path: Path) -> None:
    source, records = products(), Records.at(tmp_path / "records.db")
    small, large = (
        plan_subject(source, OPTIONS, "horizontal_matmul:*", "products", {"rows": rows})
        for rows in (2, 16)
    )
    search(small, records, Budget(1), answering(lambda job: TWICE))
    assert records.plan(source, OPTIONS).entries == (("horizontal_matmul:*", "separate"),)
    equal = answering(lambda job: Measured([1.0] * 9, [1.0] * 9))
    search(large, records, Budget(1), equal)
    assert records.plan(source, OPTIONS).entries == ()


def test_a_plan_is_tuned_for_the_passes_and_the_plan_around_it(tmp_path: Path) -> None:
    source, records = products(), Records.at(tmp_path / "records.db")
    other = Options(OPTIONS.target, plan=Plan.of({"tile_weights:*": "rows"}))
    tuned = plan_subject(source, other, "horizontal_matmul:*", "products", {})
    assert tuned.case.baseline.plan == {"tile_weights:*": "rows"}
    search(tuned, records, Budget(1), answering(lambda job: TWICE))
    assert records.plan(source, OPTIONS).entries == ()
    assert records.applied(source, other).plan.find("horizontal_matmul:x") is not None


@pytest.mark.parametrize("budget", [(0, 1.0), (1, 0.0), (1, -1.0), (1, float("nan"))])
def test_a_budget_of_nothing_is_refused(budget: tuple[int, float]) -> None:
    with pytest.raises(InvalidBudget):
        Budget(*budget)


@pytest.mark.parametrize("given", [{"rows": 33}, {"rows": 0}, {"columns": 1}])
def test_sizes_that_the_graph_does_not_have_are_refused(given: dict[str, int]) -> None:
    with pytest.raises(SymbolRangeError):
        plan_subject(products(), OPTIONS, "horizontal_matmul:*", "products", given)


def test_a_file_that_may_only_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Records.at(tmp_path / "records.db").require_writable()
    content = bytearray((tmp_path / "records.db").read_bytes())
    content[18] = 3  # written by a version of SQLite whose files this one only reads
    (tmp_path / "sealed.db").write_bytes(content)
    records = Records.at(tmp_path / "sealed.db")
    with pytest.raises(RecordsUnreadable, match="readonly"):
        records.require_writable()
    # And where that changes only after the start, it is the file's mistake, not Optuna's.
    monkeypatch.setattr(Records, "require_writable", _believe)
    with pytest.raises(RecordsUnreadable, match="readonly"):
        search(subject(), records, Budget(1), answering(lambda job: TWICE))


def _believe(records: Records) -> None:
    pass


def test_records_that_are_absent_are_not_made_by_a_compilation(tmp_path: Path) -> None:
    records = Records.at(tmp_path / "records.db")
    with pytest.raises(RecordsUnreadable, match="no file"):
        records.applied(products(), OPTIONS)
    assert not (tmp_path / "records.db").exists()
