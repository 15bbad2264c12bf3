"""Whole programs compiled at corners of the spaces of all their kernels, against the reference."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.codegen.corners import corners
from tests.codegen.tvm.running import NO_WEIGHTS
from tests.dsl.tracing import traced
from tilewright.codegen.compiler import Options, compile_program
from tilewright.codegen.kernels import as_graph
from tilewright.codegen.space import Point, Schedules, Space
from tilewright.codegen.tvm.backend import TvmBackend
from tilewright.codegen.tvm.family import Family, family_of
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import bf16, f32
from tilewright.dsl.errors import InvalidSchedule
from tilewright.dsl.graph import Graph, Node
from tilewright.dsl.hashing import structural_hash
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.program import Program, collect
from tilewright.dsl.sampling import draw_inputs
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.tolerance import check, tolerances
from tilewright.passes.base import PassContext
from tilewright.runtime.model import load
from tilewright.target.cpu import isa_of
from tilewright.target.spec import parse_target

M, B, K, N = dim("m", 1, 32), dim("b", 1, 4), dim("k", 1, 400), dim("n", 1, 100)


def table_product(x: Tensor, table: Tensor) -> Tensor:
    return x @ table.permute_dims(1, 0) + 1.0


CASES: dict[str, tuple[Graph, Family, list[dict[str, int]]]] = {
    "table": (
        traced(table_product, f32[M, 37], f32[50, 37]),
        "table",
        [{"m": 1}, {"m": 7}, {"m": 29}],
    ),
    "short table": (
        traced(table_product, bf16[2, M, 70], bf16[N, 70]),
        "table",
        [{"m": 1, "n": 3}, {"m": 4, "n": 50}, {"m": 16, "n": 33}],
    ),
    "batches": (
        traced(lambda x, y: x @ y, f32[B, M, K], f32[B, K, N]),
        "batched",
        [{"b": 2, "m": 19, "k": 37, "n": 50}, {"b": 1, "m": 30, "k": 300, "n": 9}],
    ),
}


def regions(program: Program, options: Options) -> tuple[TvmBackend, list[Node]]:
    """The regions that a compilation has kernels for."""
    backend = TvmBackend(isa_of(options.target))
    final = options.pipeline.run(program, PassContext(options.target, backend=backend))
    return backend, [node for graph in final.graphs for node in graph.nodes]


def open_spaces(backend: TvmBackend, nodes: list[Node]) -> dict[tuple[str, str], Space]:
    return {
        (structural_hash(as_graph(node)), shapes): space
        for node in nodes
        for shapes, space in backend.spaces(node).items()
    }


def at_corner(
    program: Program, options: Options, points: Mapping[tuple[str, str], Point], folder: Path
) -> None:
    """Compiles a program by these points, and fails unless they are taken."""
    given = Options(options.target, schedules=Schedules(points), check="off")
    done = compile_program(program, NO_WEIGHTS, folder, given)
    outcomes = [d.outcome for d in done.context.log.decisions if d.rule == "schedule"]
    assert outcomes == ["fired"] * len(points)


@pytest.mark.parametrize(("target", "number"), [("cpu:native", 3), ("cpu:generic", 1)])
@pytest.mark.parametrize("name", CASES)
def test_corners(name: str, target: str, number: int, tmp_path: Path) -> None:
    graph, family, all_sizes = CASES[name]
    program, options = collect("p", [graph]), Options(parse_target(target))
    backend, nodes = regions(program, options)
    assert family in {family_of(node) for node in nodes}
    spaces = open_spaces(backend, nodes)
    drawn = {key: corners(space, number) for key, space in spaces.items()}
    for place in range(number):
        points = {key: found[place % len(found)] for key, found in drawn.items()}
        folder = tmp_path / str(place)
        at_corner(program, options, points, folder)
        with load(folder, threads=2) as model:
            for seed, sizes in enumerate(all_sizes):
                inputs = draw_inputs(graph, sizes, np.random.default_rng(seed))
                ideal = evaluate(graph, inputs, symbols=sizes, reading="ideal")
                found = model.run(graph.name, inputs, poison=True)
                for output, allowed in tolerances(graph, inputs, symbols=sizes).items():
                    wrong = check(found[output], ideal[output], allowed)
                    assert wrong is None, (points, sizes, wrong)


def test_a_schedule_of_another_family_is_refused() -> None:
    graph, _, _ = CASES["table"]
    backend, nodes = regions(collect("p", [graph]), Options(parse_target("cpu:native")))
    batched, others = regions(collect("p", [CASES["batches"][0]]), Options(parse_target("cpu")))
    (product,), (other,) = nodes, others
    (_, few), *_ = backend.table(product)
    with pytest.raises(InvalidSchedule, match="is no schedule of the family batched"):
        batched.lower("kernel", other, few)
