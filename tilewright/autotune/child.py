"""The measuring process: reads a Job, compiles both sides, checks the candidate, times both.

It is a process of its own because a candidate may crash or hang. Run as a module; standard input
holds the Job, the last line of standard output the Measured.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tilewright.autotune.job import Configuration, Job, Measured
from tilewright.codegen.compiler import Options, compile_program
from tilewright.codegen.weights import read_as
from tilewright.dsl import ops as ops  # fills the registry
from tilewright.dsl.codec import encode_array
from tilewright.dsl.graph import Graph
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.program import Program
from tilewright.dsl.sampling import draw_inputs, draw_symbols
from tilewright.dsl.text import parse_program
from tilewright.dsl.tolerance import check, tolerances
from tilewright.passes.pipeline import Pipeline
from tilewright.runtime.model import Model, load
from tilewright.target.spec import parse_target

_CHECKS = 2
"""Sets of inputs at which a candidate is compared with the reference."""
_LEAST = 2e-3
"""Seconds: a sample is made of as many calls as take that long."""


def measure(job: Job) -> Measured:
    """Compiles, checks and times. Raises what these raise."""
    program = parse_program(job.program)
    with TemporaryDirectory(prefix="tilewright-tune-") as folder:
        candidate = _model(program, job, job.candidate, Path(folder, "candidate"))
        mismatch = _mismatch(program, job, candidate)
        if mismatch is not None:
            return Measured(mismatch=mismatch)
        baseline = _model(program, job, job.baseline, Path(folder, "baseline"))
        graph = program.graph(job.graph)
        repeat = _repeat(baseline, graph, job)
        times: dict[str, list[float]] = {"baseline": [], "candidate": []}
        for number in range(job.rounds + 1):
            inputs = _inputs(graph, job.sizes, np.random.default_rng(number))
            sides = [("baseline", baseline), ("candidate", candidate)]
            for name, model in sides if number % 2 else sides[::-1]:
                seconds = _seconds(model, job.graph, inputs, repeat)
                if number:  # the first round warms up
                    times[name].append(seconds)
        return Measured(times["baseline"], times["candidate"])


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


def _model(program: Program, job: Job, configuration: Configuration, folder: Path) -> Model:
    plan, schedules = configuration.options()
    options = Options(parse_target(job.target), plan=plan, schedules=schedules, check="off")
    if job.stage == "region":
        options = replace(options, pipeline=Pipeline(()))
    compile_program(program, DrawnWeights(program), folder, options)
    return load(folder, job.threads)


def _mismatch(program: Program, job: Job, model: Model) -> str | None:
    """What the candidate gets wrong at small sizes, on poisoned memory; None where nothing is."""
    graph = program.graph(job.graph)
    reader = DrawnWeights(program)
    weights: dict[str, Any] = {}
    for entry in graph.by_role("param"):
        type_ = entry.value.tensor
        dense = read_as(reader, entry.path, type_)
        weights[entry.path] = dense if type_.is_dense else encode_array(dense, type_)
    for seed in range(_CHECKS):
        rng = np.random.default_rng(1000 + seed)
        symbols = draw_symbols(graph, rng) if seed else dict(job.sizes)
        inputs = _inputs(graph, symbols, rng)
        given = {**inputs, **weights}
        ideal = evaluate(graph, given, symbols=symbols, reading="ideal")
        found = model.run(job.graph, inputs, poison=True)
        for name, tolerance in tolerances(graph, given, symbols=symbols).items():
            mismatch = check(found[name], ideal[name], tolerance)
            if mismatch is not None:
                return f"{name}: {mismatch}"
    return None


def _inputs(graph: Graph, sizes: Mapping[str, int], rng: np.random.Generator) -> dict[str, Any]:
    """New values for what the caller of a graph gives."""
    given = Graph(
        graph.name, tuple(i for i in graph.inputs if i.role != "param"), graph.nodes, graph.outputs
    )
    wanted = {entry.path for entry in given.inputs}
    drawn = draw_inputs(graph, sizes, rng)
    return {name: value for name, value in drawn.items() if name in wanted}


def _seconds(model: Model, graph: str, inputs: Mapping[str, Any], repeat: int) -> float:
    start = time.perf_counter()
    for _ in range(repeat):
        model.run(graph, inputs)
    return (time.perf_counter() - start) / repeat


def _repeat(model: Model, graph: Graph, job: Job) -> int:
    inputs = _inputs(graph, job.sizes, np.random.default_rng(0))
    _seconds(model, job.graph, inputs, 1)
    return 1 + int(_LEAST / _seconds(model, job.graph, inputs, 3))


def main() -> None:
    """Standard input to standard output."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    print(msgspec.json.encode(measure(job)).decode(), flush=True)


if __name__ == "__main__":
    main()
