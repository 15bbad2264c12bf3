"""Whole programs compiled at corners of the spaces of all their kernels, against the reference."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.codegen.corners import corners
from tests.codegen.tvm.kernels import CPUS
from tests.codegen.tvm.running import NO_WEIGHTS
from tests.dsl.tracing import traced
from tilewright.codegen.compiler import Options, compile_program
from tilewright.codegen.kernels import as_graph
from tilewright.codegen.space import Point, Schedules, Space, shape_class
from tilewright.codegen.tvm.backend import TvmBackend
from tilewright.codegen.tvm.family import Family, family_of
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import bf16, f32, i32
from tilewright.dsl.errors import InvalidSchedule
from tilewright.dsl.graph import Graph, Node
from tilewright.dsl.hashing import structural_hash
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.ops.attention import attention
from tilewright.dsl.ops.elementwise import exp, tanh
from tilewright.dsl.ops.grouped import grouped_matmul
from tilewright.dsl.ops.movement import broadcast_to
from tilewright.dsl.ops.norm import layer_norm, rms_norm, softmax
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


def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attention(q, k, v, scale=0.2)[0]


def first_over_sums(x: Tensor) -> Tensor:
    """A row that every row needs: it is none of those that a kernel keeps."""
    powers = exp(x)
    return powers[0:1] / powers.sum(-1, keepdims=True) + powers


def spread(x: Tensor) -> Tensor:
    """A value with equal columns that two passes need."""
    level = x.sum(-1, keepdims=True) + x * 0.0
    same = x.max(-1, keepdims=True) - level
    return same * x + (same + x).sum(-1, keepdims=True)


def equal_columns(x: Tensor, y: Tensor) -> Tensor:
    """As `spread`, of a value that has no columns of its own."""
    level = broadcast_to(abs(y), (*y.shape[:-1], 70)) * 2.0
    return level * x + (level + x).sum(-1, keepdims=True)


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
    "groups": (
        traced(grouped_matmul, f32[M, K], f32[3, K, N], i32[3]),
        "grouped",
        [{"m": 19, "k": 37, "n": 50}, {"m": 30, "k": 300, "n": 9}],
    ),
    "attention of one query": (
        traced(
            attended,
            f32[B, 1, 2, 64],
            f32[B, N, 1, 64],
            f32[B, N, 1, 64],
        ),
        "attention",
        [{"b": 1, "n": 1}, {"b": 3, "n": 100}],
    ),
    "softmax": (
        traced(lambda x: softmax(x, axis=-1), f32[M, N]),
        "loop",
        [{"m": 1, "n": 1}, {"m": 5, "n": 100}, {"m": 3, "n": 37}],
    ),
    "layer norm": (
        traced(layer_norm, f32[M, 140], f32[140], f32[140]),
        "loop",
        [{"m": 1}, {"m": 9}],
    ),
    "rms norm": (traced(rms_norm, bf16[M, 96], bf16[96]), "loop", [{"m": 1}, {"m": 9}]),
    "wide": (traced(lambda x: tanh(x) * 2.0, f32[M, 3000]), "loop", [{"m": 1}, {"m": 3}]),
    "first over sums": (traced(first_over_sums, f32[M, 70]), "loop", [{"m": 1}, {"m": 9}]),
    "spread": (traced(spread, f32[M, 70]), "loop", [{"m": 1}, {"m": 9}]),
    "equal columns": (
        traced(equal_columns, f32[M, 70], f32[M, 1]),
        "loop",
        [{"m": 1}, {"m": 9}],
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


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("name", CASES)
def test_neighbours_are_legal_and_change_the_kernel(name: str, cpu: str) -> None:
    graph, family, _ = CASES[name]
    backend, nodes = regions(collect("p", [graph]), Options(parse_target(f"cpu:{cpu}")))
    met = 0
    for node in nodes:
        spaces = backend.spaces(node)
        for limit, default in backend.table(node):
            space = spaces.get(shape_class(limit))
            if space is None:
                continue
            assert space.refusal(space.default) is None
            assert backend.at(node, space.default) == default
            plain = str(backend.lower("kernel", node, default).function.body)
            for point in space.neighbours(space.default):
                other = backend.lower("kernel", node, backend.at(node, point))
                assert str(other.function.body) != plain, (family, point)
                met += 1
    assert met > 0


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
