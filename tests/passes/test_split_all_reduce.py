"""all_reduce(x) -> all_gather(reduce_scatter(x, dim), dim): by plan, by hand, and refused."""

from typing import Any

import numpy as np
import pytest

from tests.passes.rewriting import names
from tests.passes.test_reorder_all_gather import MESH, block, mesh_program
from tilewright.dsl.builder import graph
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import f32
from tilewright.dsl.errors import IllegalRewrite, PlanError, ProgramError
from tilewright.dsl.graph import Graph
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.ops.collective import all_reduce
from tilewright.dsl.placement import Mesh, Partial, Placement, ReduceOp, Shard
from tilewright.dsl.program import Program, program
from tilewright.dsl.ranks import run_ranks
from tilewright.dsl.sampling import draw_inputs
from tilewright.dsl.tensor import Tensor
from tilewright.passes.base import PassContext
from tilewright.passes.pipeline import Pipeline
from tilewright.passes.plan import Choices, Plan
from tilewright.passes.schedule import Schedule
from tilewright.passes.split_all_reduce import SplitAllReduce
from tilewright.target.spec import parse_target

PARTIAL = Placement.of(tp=Partial("sum"))


def context(plan: dict[str, str]) -> PassContext:
    return PassContext(parse_target("cpu:generic"), choices=Choices(Plan.of(plan)))


def reduced(shape: tuple[Any, ...], mesh: Mesh = MESH, placement: Placement = PARTIAL) -> Program:
    kind: ReduceOp = next(p.op for _, p in placement.entries if isinstance(p, Partial))

    @graph(x=f32[shape].with_placement(placement))
    def g(x: Tensor) -> Tensor:
        return all_reduce(x, "tp", kind)

    return program("p", g, mesh=mesh).program


def agrees(before: Graph, after: Graph, mesh: Mesh, symbols: dict[str, int] | None = None) -> None:
    """The ranks of both graphs hold the same outputs, and what `before` means."""
    inputs = draw_inputs(before, symbols or {}, np.random.default_rng(3))
    wanted = evaluate(before, inputs, symbols=symbols, reading="ideal")
    for each in (before, after):
        found = run_ranks(each, mesh, inputs, symbols=symbols)
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["sum", "max", "min"])
def test_the_first_dimension_that_the_ranks_divide_is_cut(kind: Any) -> None:
    """all_reduce -> reduce_scatter; all_gather"""
    whole = reduced((3, 8), placement=Placement.of(tp=Partial(kind)))
    split = Schedule(whole).split(whole.graphs[0].outputs[0].value.name).program
    assert names(split.graphs[0]) == ["reduce_scatter", "all_gather"]
    assert [node.attrs.int("dim") for node in split.graphs[0].nodes] == [1, 1]
    assert split.graphs[0].nodes[0].attrs.str("reduction") == kind
    assert split.graphs[0].outputs == whole.graphs[0].outputs
    agrees(whole.graphs[0], split.graphs[0], MESH)


def test_a_dimension_can_be_named() -> None:
    whole = mesh_program()
    (total,) = (n.result.name for n in whole.graphs[0].nodes if n.op == "all_reduce")
    for cut in (0, 1):
        after = Schedule(whole).split(total, dim=cut).program.graphs[0]
        (found,) = (n for n in after.nodes if n.op == "reduce_scatter")
        assert found.attrs.int("dim") == cut
        agrees(whole.graphs[0], after, MESH)


def test_shards_of_another_axis_stay_even() -> None:
    """dim 0 of 6 is cut by dp=2 already: three rows cannot be halved again."""
    mesh = Mesh.of(dp=2, tp=2)
    placement = Placement.of(dp=Shard(0), tp=Partial("sum"))
    whole = reduced((6, 4), mesh, placement)
    after = Schedule(whole).split("v0").program.graphs[0]
    assert after.nodes[0].attrs.int("dim") == 1
    agrees(whole.graphs[0], after, mesh)
    both = reduced((8, 3), mesh, placement)
    after = Schedule(both).split("v0").program.graphs[0]
    assert after.nodes[0].attrs.int("dim") == 0
    agrees(both.graphs[0], after, mesh)


def test_refusals_say_why() -> None:
    odd, rows = reduced((3, 5)), dim("n", 1, 64)
    with pytest.raises(IllegalRewrite, match="2 ranks of mesh axis tp divide no dimension"):
        Schedule(odd).split("v0")
    with pytest.raises(IllegalRewrite, match="no dimension 7"):
        Schedule(odd).split("v0", dim=7)
    with pytest.raises(IllegalRewrite, match="divide not dimension 0"):
        Schedule(reduced((rows, 4))).split("v0", dim=0)
    (product,) = (n.result.name for n in mesh_program().graphs[0].nodes if n.op == "matmul")
    with pytest.raises(IllegalRewrite, match="matmul is no all-reduce"):
        Schedule(mesh_program()).split(product)
    with pytest.raises(ProgramError, match="makes %nowhere"):
        Schedule(odd).split("nowhere")


def test_the_graph_is_named_where_several_have_the_value() -> None:
    second = program("p", block, mesh=MESH).program
    both = second.with_graphs([*reduced((4, 4)).graphs, *reduced_as("h").graphs])
    with pytest.raises(ProgramError, match="several graphs: g, h"):
        Schedule(both).split("v0")
    found = Schedule(both).split("v0", graph="h").program
    assert [names(each) for each in found.graphs] == [
        ["all_reduce"],
        ["reduce_scatter", "all_gather"],
    ]


def reduced_as(name: str) -> Program:
    (found,) = reduced((4, 4)).graphs
    renamed = Graph(type(found.name)(name), found.inputs, found.nodes, found.outputs)
    return reduced((4, 4)).with_graphs([renamed])


def test_the_plan_decides_and_keeps_by_default() -> None:
    whole = reduced((4, 4))
    ctx = context({})
    assert Pipeline((SplitAllReduce(),)).run(whole, ctx) is whole
    (choice,) = ctx.choices.met.values()
    assert (choice.id, choice.default) == ("split_all_reduce:g.v0", "keep")
    assert choice.options == ("keep", "split")
    assert [d.reason for d in ctx.log.of_rule("split_all_reduce")] == ["the plan keeps it whole"]
    split = Pipeline((SplitAllReduce(),)).run(whole, context({"split_all_reduce:*": "split"}))
    assert names(split.graphs[0]) == ["reduce_scatter", "all_gather"]
    with pytest.raises(PlanError):
        Pipeline((SplitAllReduce(),)).run(whole, context({"split_all_reduce:*": "half"}))


def test_what_cannot_be_split_is_no_choice() -> None:
    ctx = context({"split_all_reduce:*": "split"})
    whole = reduced((3, 5))
    assert Pipeline((SplitAllReduce(),)).run(whole, ctx) is whole
    assert not ctx.choices.met
    assert "divide no dimension" in next(ctx.log.of_rule("split_all_reduce")).reason
