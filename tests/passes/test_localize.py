"""The programs of all ranks together are the program of the global view."""

from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.depth import count
from tests.passes.lockstep import ranks_of, run_lockstep
from tests.passes.rewriting import names
from tests.passes.test_reorder_all_gather import MESH, mesh_program
from tilewright.dsl.builder import graph
from tilewright.dsl.dims import DimExpr, dim
from tilewright.dsl.dtypes import f32
from tilewright.dsl.errors import PlacementError, TilewrightError
from tilewright.dsl.graph import Graph
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.ops.collective import (
    all_gather,
    all_reduce,
    all_to_all,
    reduce_scatter,
    send,
    shard_slice,
)
from tilewright.dsl.ops.elementwise import tanh
from tilewright.dsl.ops.norm import softmax
from tilewright.dsl.placement import REPLICATE, At, Mesh, Partial, Placement, Shard
from tilewright.dsl.program import Program, collect, program
from tilewright.dsl.ranks import run_ranks
from tilewright.dsl.sampling import draw_inputs
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.verify import verify_program
from tilewright.passes.base import PassContext
from tilewright.passes.localize import Localize
from tilewright.passes.pipeline import Pipeline
from tilewright.passes.plan import Choices, Plan
from tilewright.passes.reorder_all_gather import ReorderAllGather
from tilewright.passes.schedule import Schedule
from tilewright.passes.split_all_reduce import SplitAllReduce
from tilewright.target.spec import parse_target

ALONE = Pipeline((Localize(),))
TERMS = Placement.of(tp=Partial("sum"))


def shards(*dims: int) -> Placement:
    (placed,) = (Placement.of(tp=Shard(d)) for d in dims)
    return placed


def agrees(before: Graph, mesh: Mesh = MESH, inputs: Any = None) -> list[Graph]:
    """What the ranks' programs make together is what the graph means."""
    found = [p.graphs[0] for p in ranks_of(collect("p", [before], mesh), ALONE)]
    drawn = draw_inputs(before, {}, np.random.default_rng(9)) if inputs is None else inputs
    made = run_lockstep(before, mesh, found, drawn)
    wanted = evaluate(before, drawn, reading="ideal", checked=False)
    for name, value in wanted.items():
        np.testing.assert_allclose(made[name], value, rtol=1e-7, atol=1e-7)
    return found


def test_shapes_are_divided_and_collectives_get_their_size() -> None:
    whole = mesh_program()
    first, second = agrees(whole.graphs[0])
    assert [str(i.value.type) for i in first.inputs][:3] == [
        "f32[4, 4] @ (tp: local)", "f32[4, 6] @ (tp: local)", "f32[6, 4] @ (tp: local)",
    ]  # fmt: skip
    assert str(first) == str(second), "nothing here depends on the rank"
    (reduced,) = (n for n in first.nodes if n.op == "all_reduce")
    assert reduced.attrs.int("size") == 2


@pytest.mark.parametrize("cut", [0, 1])
def test_a_rewritten_program(cut: int) -> None:
    whole = mesh_program()
    total, *after = (node.result.name for node in whole.graphs[0].nodes[-3:])
    found = agrees(Schedule(whole).split(total, cut).reorder(*after).program.graphs[0])
    starts = [[n.attrs.dims("start") for n in g.nodes if n.op == "slice"] for g in found]
    assert starts == ([[(0, 0)], [(2, 0)]] if cut == 0 else [[(0,), (0, 0)], [(3,), (0, 3)]])


@graph(
    x=f32[4, 1, 6].with_placement(shards(0)),
    y=f32[4, 6, 8].with_placement(shards(1)),
    t=f32[3, 4, 6].with_placement(TERMS),
    u=f32[1, 8].with_placement(shards(1)),
)
def exchanges(x: Tensor, y: Tensor, t: Tensor, u: Tensor) -> dict[str, Tensor]:
    return {
        "front": all_gather(x, "tp", 0),
        "inner": all_gather(y, "tp", 1),
        "ones": all_gather(u, "tp", 1),
        "parts": all_gather(reduce_scatter(t, "tp", 2), "tp", 2),
        "turned": all_gather(all_to_all(y, "tp", 1, 2), "tp", 2),
        "back": all_to_all(y, "tp", 1, 0),
        "cut": shard_slice(all_reduce(t, "tp"), "tp", 1),
    }


def test_collectives_exchange_dimension_zero() -> None:
    first, _ = agrees(exchanges.graph(MESH))
    for node in first.nodes:
        if node.op in ("all_gather", "reduce_scatter"):
            before = node.operands[0].tensor.shape[: node.attrs.int("dim")]
            assert all(size == 1 for size in before)
    (plain,) = (n for n in first.nodes if n.result.name == first.outputs[2].value.name)
    assert plain.op == "all_gather", "nothing is moved where all dimensions before have size 1"


def test_composites_count_elements_of_the_global_value() -> None:
    @graph(x=f32[4, 6].with_placement(shards(1)))
    def g(x: Tensor) -> Tensor:
        return all_reduce(x.mean(1), "tp")

    agrees(g.graph(MESH))


def test_an_axis_of_one_rank_exchanges_nothing() -> None:
    mesh = Mesh.of(tp=1)
    (only,) = agrees(exchanges.graph(mesh), mesh)
    assert not set(names(only)) & {"all_gather", "reduce_scatter", "all_reduce", "all_to_all"}


def steps(rng: Random, values: list[Tensor], mesh: Mesh) -> Tensor:
    """One random operation over the values; raises where it is illegal."""
    a, b = rng.choice(values), rng.choice(values)
    axis, one, two = rng.choice(mesh.axes)[0], rng.randrange(2), rng.randrange(2)
    return rng.choice(
        [
            lambda: a + b,
            lambda: a * b,
            lambda: tanh(a),
            lambda: a @ b.T,
            lambda: softmax(a, one),
            lambda: a.mean(one, keepdims=True) * b,
            lambda: a.permute_dims(1, 0),
            lambda: a.reshape(4, 2, 8).reshape(8, 8),
            lambda: all_gather(a, axis, one),
            lambda: all_reduce(a, axis),
            lambda: reduce_scatter(a, axis, one),
            lambda: all_to_all(a, axis, one, two),
            lambda: shard_slice(a, axis, one),
        ]
    )()


def random_program(seed: int, mesh: Mesh) -> Program:
    """Some forty tries at operations over three inputs that lie anywhere."""
    rng = Random(seed)
    places = [Partial("sum"), Shard(0), Shard(1), Shard(0), Shard(1), REPLICATE, REPLICATE]
    types = {
        name: f32[8, 8].with_placement(
            Placement(tuple((axis, rng.choice(places)) for axis, _ in mesh.axes))
        )
        for name in "xyz"
    }

    @graph(**types)
    def g(x: Tensor, y: Tensor, z: Tensor) -> dict[str, Tensor]:
        values = [x, y, z]
        for _ in range(40):
            try:
                found = steps(rng, values, mesh)
            except TilewrightError:
                continue
            if found.shape == (8, 8):
                values.append(found)
        return {f"v{i}": value for i, value in enumerate(values[-6:])}

    return program("p", g, mesh=mesh).program


@settings(max_examples=count(12, 300), deadline=None)
@given(seed=st.integers(0, 2**32), mesh=st.sampled_from([MESH, Mesh.of(dp=2, tp=2)]))
def test_random_programs_as_they_are_and_rewritten(seed: int, mesh: Mesh) -> None:
    whole = random_program(seed, mesh)
    agrees(whole.graphs[0], mesh)
    plan = Plan.of({"split_all_reduce:*": "split", "reorder_all_gather:*": "reorder"})
    ctx = PassContext(parse_target("cpu:generic"), choices=Choices(plan))
    rewritten = Pipeline((SplitAllReduce(), ReorderAllGather())).run(whole, ctx)
    inputs = draw_inputs(whole.graphs[0], {}, np.random.default_rng(2))
    run_ranks(rewritten.graphs[0], mesh, inputs)  # raises where a placement is not what it claims
    agrees(rewritten.graphs[0], mesh, inputs)


def test_refusals_say_what_to_do() -> None:
    rows = dim("n", 1, 64)
    even = dim("n", 2, 64, multiple_of=2)
    target = parse_target("cpu:generic")

    @graph(x=f32[5, 4].with_placement(shards(0)))
    def uneven(x: Tensor) -> Tensor:
        return x

    @graph(x=f32[rows, 4])
    def unknown(x: Tensor) -> Tensor:
        return shard_slice(x, "tp", 0)

    @graph(x=f32[even, 4].with_placement(shards(0)))
    def unbound(x: Tensor) -> Tensor:
        return x * 2.0

    @graph(x=f32[4].with_placement(Placement.of(tp=At(0))))
    def lonely(x: Tensor) -> Tensor:
        return send(x, "tp", 0, 1)

    for function, reason in (
        (uneven, "dimension 0 of %x, of size 5, is sharded over tp=2.*\n.*a later version"),
        (unknown, "of size n, is sharded over tp=2"),
        (unbound, "symbol n of graph unbound.*\n.*argument of the graph: n=n"),
        (lonely, "coordinate 0 of mesh axis tp alone"),
    ):
        with pytest.raises(PlacementError, match=reason):
            ALONE.run(program("p", function, mesh=MESH).program, PassContext(target))
    with pytest.raises(PlacementError, match="has no rank 2"):
        ALONE.run(mesh_program(), PassContext(target, rank=2))


def test_a_symbol_that_is_an_argument_may_be_divided() -> None:
    even = dim("n", 2, 64, multiple_of=2)

    @graph(x=f32[even, 4].with_placement(shards(0)), n=even)
    def g(x: Tensor, n: DimExpr) -> Tensor:
        return all_gather(x * 2.0, "tp", 0)

    for found in ranks_of(program("p", g, mesh=MESH).program, ALONE):
        verify_program(found)
        assert [str(d) for d in found.graphs[0].inputs[0].value.tensor.shape] == ["n // 2", "4"]


def test_one_device_stays_as_it_is() -> None:
    @graph(x=f32[4])
    def g(x: Tensor) -> Tensor:
        return x + x

    whole = program("p", g).program
    assert ALONE.run(whole, PassContext(parse_target("cpu:generic"))) is whole
