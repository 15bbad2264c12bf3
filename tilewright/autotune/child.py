"""The measuring process: compiles the two sides of a comparison, checks them, times them in turn.

It is a process of its own, forked by `nursery`, because a candidate may crash or hang.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilewright.autotune.call import Call
from tilewright.autotune.calm import Chill, alone
from tilewright.autotune.expected import drawn_inputs, mismatch, write_expected
from tilewright.autotune.footprint import footprint
from tilewright.autotune.job import (
    Answer,
    Case,
    Configuration,
    Failure,
    Job,
    Measured,
    Preparation,
    Prepared,
    Task,
)
from tilewright.codegen.compiler import Options, compile_program
from tilewright.codegen.weights import read_as
from tilewright.dsl import ops as ops  # fills the registry
from tilewright.dsl.codec import encode_array
from tilewright.dsl.errors import TilewrightError
from tilewright.dsl.graph import Graph
from tilewright.dsl.program import Program
from tilewright.dsl.text import parse_program
from tilewright.passes.registry import REGISTRY
from tilewright.runtime.model import Model, load
from tilewright.target.spec import parse_target

_LEAST = 2e-3
"""Seconds: a sample is made of as many calls as take that long."""
BASELINE = "baseline"
"""The folder of what is taken untuned, in the study's."""
_FEW = 3
"""Rounds after which a hopeless candidate is given up."""


def prepare(task: Preparation) -> Prepared | Failure:
    """Compiles the baseline, evaluates the reference and holds the baseline to it.

    Raises what these raise.
    """
    case, folder = task.case, Path(task.folder)
    program = parse_program(case.program)
    graph = program.graph(case.graph)
    start = time.perf_counter()
    baseline, taken = compiled(program, case, case.baseline, folder / BASELINE)
    compiling = time.perf_counter() - start
    write_expected(graph, _weights(program, graph), case.checked, folder)
    wrong = mismatch(baseline, graph, case.checked, folder)
    if wrong is not None:
        return Failure(f"what is taken untuned is wrong: {wrong}")
    call = Call(baseline, graph, case.sizes)
    call.take(drawn_inputs(graph, case.sizes, 0))
    with alone():
        _seconds(call, 1)  # warms up
        once = _seconds(call, 1)
    repeat = 1 + int(_LEAST / once)
    return Prepared(compiling, once * repeat, repeat, taken)


def measure(job: Job) -> Measured:
    """Compiles a candidate, checks it, and times it beside the baseline.

    Raises what these raise.
    """
    case, folder = job.case, Path(job.folder)
    program = parse_program(case.program)
    graph = program.graph(case.graph)
    with TemporaryDirectory(dir=folder) as own:
        candidate, taken = compiled(program, case, job.candidate, Path(own, "candidate"))
        wrong = mismatch(candidate, graph, case.checked, folder)
        if wrong is not None:
            return Measured(mismatch=wrong)
        sides = {"baseline": load(folder / BASELINE, case.threads), "candidate": candidate}
        if job.incumbent is not None:
            beside = Path(own, "incumbent")
            sides["incumbent"], _ = compiled(program, case, job.incumbent, beside)
        with alone():
            times = _timed(job, graph, {n: Call(m, graph, case.sizes) for n, m in sides.items()})
    return Measured(times["baseline"], times["candidate"], times.get("incumbent", []), bytes=taken)


def _timed(job: Job, graph: Graph, sides: Mapping[str, Call]) -> dict[str, list[float]]:
    """Seconds a call of the sides in turn, on new inputs each round; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    order = [*sides]
    chill = Chill() if job.case.cold else None
    for number in range(job.rounds + 1):
        inputs = drawn_inputs(graph, job.case.sizes, number)
        for name in order if number % 2 else order[::-1]:
            sides[name].take(inputs)
            seconds = _seconds(sides[name], job.repeat, chill)
            if number:
                times[name].append(seconds)
        if number == _FEW and job.hopeless is not None:
            pairs = zip(times["candidate"], times["baseline"], strict=True)
            if min(candidate / baseline for candidate, baseline in pairs) > job.hopeless:
                break
    return times


class DrawnWeights:
    """Weights of a program's parameters, drawn from their paths' places."""

    def __init__(self, program: Program) -> None:
        self._shapes = {d.path: tuple(map(int, map(str, d.type.shape))) for d in _params(program)}

    def read(self, name: str) -> NDArray[Any]:
        """One matrix or vector, scaled like weights."""
        shape = self._shapes[name]
        rng = np.random.default_rng(list(self._shapes).index(name))
        return (rng.standard_normal(shape) / max(1, shape[-1]) ** 0.5).astype(np.float32)


def _params(program: Program) -> list[Any]:
    return list(program.params)


def _weights(program: Program, graph: Graph) -> dict[str, Any]:
    """What `DrawnWeights` gives, as the reference takes it."""
    reader = DrawnWeights(program)
    weights: dict[str, Any] = {}
    for entry in graph.by_role("param"):
        type_ = entry.value.tensor
        dense = read_as(reader, entry.path, type_)
        weights[entry.path] = dense if type_.is_dense else encode_array(dense, type_)
    return weights


def compiled(
    program: Program, case: Case, configuration: Configuration, folder: Path
) -> tuple[Model, int]:
    """The model of a configuration, compiled into a folder, and the bytes that it takes.

    Raises what `compile_program` does.
    """
    plan, schedules = configuration.options()
    pipeline = REGISTRY.parse(case.passes)
    options = Options(
        parse_target(case.target), plan=plan, schedules=schedules, check="off", pipeline=pipeline
    )
    made = compile_program(program, DrawnWeights(program), folder, options)
    return load(folder, case.threads), footprint(program, made, case)


def _seconds(call: Call, repeat: int, chill: Callable[[], None] | None = None) -> float:
    """Seconds a call; `chill` is called before each, and not counted."""
    total = 0.0
    for _ in range(repeat):
        if chill is not None:
            chill()
        start = time.perf_counter()
        call.run()
        total += time.perf_counter() - start
    return total / repeat


def answer(task: Task) -> Answer:
    """What `prepare` or `measure` gives, or why it gives nothing."""
    try:
        return prepare(task) if isinstance(task, Preparation) else measure(task)
    except TilewrightError as mistake:
        return Failure(f"{type(mistake).__name__}: {mistake.message}")
    except (MemoryError, OSError) as refusal:
        return Failure(f"{type(refusal).__name__}: {refusal}")
