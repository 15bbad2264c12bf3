"""f(all_gather(x), b) -> all_gather(f(x, shard_slice(b))): by plan, by hand, and refused."""

import numpy as np
import pytest

from tests.passes.rewriting import names
from tilewright.dsl.builder import TracedFunction, graph, param
from tilewright.dsl.dtypes import f32
from tilewright.dsl.errors import IllegalRewrite
from tilewright.dsl.graph import Graph
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.ops.collective import all_gather, all_reduce, send
from tilewright.dsl.ops.norm import rms_norm, softmax
from tilewright.dsl.placement import At, Mesh, Partial, Placement, Shard
from tilewright.dsl.program import Program, program
from tilewright.dsl.ranks import run_ranks
from tilewright.dsl.sampling import draw_inputs
from tilewright.dsl.tensor import Tensor
from tilewright.passes.base import PassContext
from tilewright.passes.pipeline import Pipeline
from tilewright.passes.plan import Choices, Plan
from tilewright.passes.reorder_all_gather import ReorderAllGather
from tilewright.passes.schedule import Schedule
from tilewright.passes.split_all_reduce import SplitAllReduce
from tilewright.target.spec import parse_target

MESH = Mesh.of(tp=2)
COLUMNS = Placement.of(tp=Shard(1))
ROWS = Placement.of(tp=Shard(0))


@graph(x=f32[4, 8].with_placement(COLUMNS), r=f32[4, 6])
def block(x: Tensor, r: Tensor) -> Tensor:
    w = param("w", f32[6, 8].with_placement(COLUMNS))
    return all_reduce(x @ w.T, "tp") + param("b", f32[6]) + r


def mesh_program(function: TracedFunction = block, mesh: Mesh = MESH) -> Program:
    return program("p", function, mesh=mesh).program


def agrees(before: Graph, after: Graph, mesh: Mesh = MESH) -> None:
    inputs = draw_inputs(before, {}, np.random.default_rng(5))
    wanted = evaluate(before, inputs, reading="ideal")
    found = run_ranks(after, mesh, inputs)
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("cut", "slices"), [(0, 1), (1, 2)])
def test_bias_and_residual_move_before_the_gather(cut: int, slices: int) -> None:
    """all_gather(x) + b + r -> all_gather(x + shard_slice(b) + shard_slice(r)); rows broadcast b"""
    whole = mesh_program()
    total, biased, out = (node.result.name for node in whole.graphs[0].nodes[-3:])
    split = Schedule(whole).split(total, dim=cut)
    after = split.reorder(biased, out).program.graphs[0]
    assert names(after).count("shard_slice") == slices
    assert names(after).count("all_gather") == 1
    assert after.nodes[-1].op == "all_gather"
    assert after.outputs == whole.graphs[0].outputs
    agrees(whole.graphs[0], after)


def test_the_plan_reorders_a_chain_in_one_sweep() -> None:
    plan = Plan.of({"split_all_reduce:*": "split", "reorder_all_gather:*": "reorder"})
    ctx = PassContext(parse_target("cpu:generic"), choices=Choices(plan))
    after = Pipeline((SplitAllReduce(), ReorderAllGather())).run(mesh_program(), ctx).graphs[0]
    assert names(after)[-1] == "all_gather"
    assert not ctx.choices.unused()
    agrees(mesh_program().graphs[0], after)
    kept = PassContext(parse_target("cpu:generic"))
    assert Pipeline((ReorderAllGather(),)).run(mesh_program(), kept).graphs[0].nodes


@graph(x=f32[4, 6].with_placement(ROWS), y=f32[4, 6].with_placement(ROWS))
def two_gathers(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    g = all_gather(x, "tp", 0)
    product = g * all_gather(y, "tp", 0)
    return product * g, g


def test_two_gathers_become_one_and_stay_for_other_readers() -> None:
    whole = mesh_program(two_gathers)
    product, last = (n.result.name for n in whole.graphs[0].nodes if n.op == "mul")
    after = Schedule(whole).reorder(product, last).program.graphs[0]
    assert names(after).count("all_gather") == 2, "g is returned, and the result is gathered"
    assert "shard_slice" not in names(after)
    agrees(whole.graphs[0], after)


@graph(x=f32[4, 1].with_placement(ROWS), y=f32[4, 6], p=f32[4, 6].with_placement(COLUMNS))
def narrow(x: Tensor, y: Tensor, p: Tensor) -> Tensor:
    return all_gather(x, "tp", 0) * y - all_gather(p, "tp", 1)


def test_gathers_along_other_dimensions_are_cut() -> None:
    whole = mesh_program(narrow)
    product, out = (n.result.name for n in whole.graphs[0].nodes if n.op in ("mul", "sub"))
    after = Schedule(whole).reorder(product, out).program.graphs[0]
    agrees(whole.graphs[0], after)


@graph(
    x=f32[4, 6].with_placement(ROWS),
    t=f32[4, 6].with_placement(Placement.of(tp=Partial("sum"))),
    o=f32[2, 1].with_placement(COLUMNS),
)
def illegal(x: Tensor, t: Tensor, o: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = all_gather(x, "tp", 0)
    wide = all_gather(o, "tp", 1) * param("w", f32[2, 6])
    return g.sum(0), all_reduce(g * t, "tp"), wide, x * 2.0


def test_refusals_say_why() -> None:
    whole = mesh_program(illegal)
    nodes = whole.graphs[0].nodes
    total = next(n.result.name for n in nodes if n.op == "sum")
    products = [n.result.name for n in nodes if n.op == "mul"]
    cases = {
        total: "sum cannot compute slices from the slices along dimension 0",
        products[0]: "",
        products[1]: "",
        products[2]: "mul reads no all-gather",
    }
    found = {n.result.name: n for n in nodes}
    for name in products[:2]:
        partial = any(o.name == "t" for o in found[name].operands)
        cases[name] = r"%t is partial\(sum\)" if partial else "cannot compute slices"
    for name, reason in cases.items():
        with pytest.raises(IllegalRewrite, match=reason):
            Schedule(whole).reorder(name)


def test_two_axes_on_one_dimension() -> None:
    mesh = Mesh.of(dp=2, tp=2)
    both = Placement.of(dp=Shard(0), tp=Shard(0))

    @graph(x=f32[8, 3].with_placement(both), y=f32[8, 3].with_placement(Placement.of(dp=Shard(0))))
    def g(x: Tensor, y: Tensor) -> Tensor:
        return all_gather(x, "tp", 0) + y

    whole = mesh_program(g, mesh)
    after = Schedule(whole).reorder(whole.graphs[0].outputs[0].value.name).program.graphs[0]
    assert names(after) == ["shard_slice", "add", "all_gather"]
    agrees(whole.graphs[0], after, mesh)


def test_rows_of_norms_and_products_move_before_the_gather() -> None:
    @graph(x=f32[4, 6].with_placement(ROWS))
    def g(x: Tensor) -> Tensor:
        y = rms_norm(all_gather(x, "tp", 0), param("n", f32[6]))
        return softmax(y @ param("w", f32[8, 6]).T)

    whole = mesh_program(g)
    norm, product, out = (
        n.result.name for n in whole.graphs[0].nodes if n.op in ("rms_norm", "matmul", "softmax")
    )
    after = Schedule(whole).reorder(norm, product, out).program.graphs[0]
    assert names(after)[-1] == "all_gather"
    assert names(after).count("all_gather") == 1
    agrees(whole.graphs[0], after)


def test_another_axis_sends_slices() -> None:
    """send(all_gather(x)) -> all_gather(send(x)): each rank of a stage sends its part"""
    mesh = Mesh.of(pp=2, tp=2)
    here = Placement.of(pp=At(0), tp=Shard(0))

    @graph(x=f32[8, 3].with_placement(here))
    def g(x: Tensor) -> Tensor:
        return send(all_gather(x, "tp", 0), "pp", source=0, target=1) * 2.0

    whole = mesh_program(g, mesh)
    sent, out = (n.result.name for n in whole.graphs[0].nodes if n.op in ("send", "mul"))
    after = Schedule(whole).reorder(sent, out).program.graphs[0]
    assert [n for n in names(after) if n in ("send", "mul", "all_gather")] == [
        "send", "mul", "all_gather"
    ]  # fmt: skip
    agrees(whole.graphs[0], after, mesh)


def test_a_gather_stays_where_the_operation_reads_all_of_it_as_well() -> None:
    """g @ g for g = all_gather(x) -> all_gather(x @ g): rows of the left, all of the right"""

    @graph(x=f32[6, 6].with_placement(ROWS))
    def g(x: Tensor) -> Tensor:
        whole = all_gather(x, "tp", 0)
        return whole @ whole

    whole = mesh_program(g)
    after = Schedule(whole).reorder(whole.graphs[0].outputs[0].value.name).program.graphs[0]
    assert names(after) == ["all_gather", "matmul", "all_gather"]
    agrees(whole.graphs[0], after)
