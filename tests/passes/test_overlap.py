"""Products and collectives in parts: equal in meaning, staggered, refused with the reason."""

from collections.abc import Sequence

import numpy as np
import pytest

from tests.passes.rewriting import context, names
from tests.passes.test_reorder_all_gather import agrees, mesh_program
from tilewright.dsl.builder import graph, param
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import f32, u32
from tilewright.dsl.errors import IllegalRewrite, ProgramError
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.ops.collective import all_gather, all_reduce
from tilewright.dsl.ops.random import dropout
from tilewright.dsl.placement import Mesh, Placement, Shard
from tilewright.dsl.program import Program, program
from tilewright.dsl.ranks import run_ranks
from tilewright.dsl.tensor import Tensor
from tilewright.passes.overlap import Overlap
from tilewright.passes.pipeline import Pipeline
from tilewright.passes.plan import Choices, Plan
from tilewright.passes.schedule import Schedule

COLUMNS = Placement.of(tp=Shard(1))
ROWS = Placement.of(tp=Shard(0))


@graph(x=f32[16, 8].with_placement(COLUMNS), r=f32[16, 6], key=u32[2])
def block(x: Tensor, r: Tensor, key: Tensor) -> Tensor:
    w = param("w", f32[6, 8].with_placement(COLUMNS))
    y = all_reduce(x @ w.T, "tp") + param("b", f32[6])
    return dropout(y, key, 0.25) + r


def made_by(of: Program, *ops: str) -> list[str]:
    return [n.results[0].name for n in of.graphs[0].nodes if n.op in ops]


GROUP = ("matmul", "all_reduce", "reduce_scatter", "add", "dropout", "all_gather")


@pytest.mark.parametrize(("parts", "cut"), [(2, 0), (4, 0), (8, None), (3, 1), (6, 1)])
def test_a_product_and_its_sum_in_parts(parts: int, cut: int | None) -> None:
    whole = mesh_program(block)
    values = made_by(whole, *GROUP)
    after = Schedule(whole).overlap(*values, parts=parts, dim=cut).program.graphs[0]
    assert names(after).count("all_reduce") == parts
    assert names(after).count("matmul") == parts
    assert names(after).count("random_bits") == 1, "what is not cut is made once"
    agrees(whole.graphs[0], after)


def test_the_next_product_stands_before_what_waits() -> None:
    whole = mesh_program(block)
    after = Schedule(whole).overlap(*made_by(whole, *GROUP), parts=4).program.graphs[0]
    order = [n.op for n in after.nodes if n.op in ("matmul", "all_reduce", "where")]
    turn = ["matmul", "all_reduce", "where"]
    assert order == ["matmul", "all_reduce", *3 * turn, "where"]


def test_halves_and_what_lies_between_in_parts() -> None:
    whole = mesh_program(block)
    (total,) = made_by(whole, "all_reduce")
    later = [name for name in made_by(whole, "add", "dropout") if name != total]
    split = Schedule(whole).split(total, dim=0).reorder(*later)
    chain = made_by(split.program, *GROUP)
    after = split.overlap(*chain, parts=4).program.graphs[0]
    assert names(after).count("reduce_scatter") == names(after).count("all_gather") == 4
    agrees(whole.graphs[0], after)


def test_a_gather_and_the_product_that_reads_it() -> None:
    @graph(x=f32[8, 4, 6].with_placement(Placement.of(tp=Shard(1))))
    def g(x: Tensor) -> Tensor:
        return all_gather(x, "tp", 1) @ param("w", f32[5, 6]).T

    whole = mesh_program(g)
    values = made_by(whole, "all_gather", "matmul")
    after = Schedule(whole).overlap(*values, parts=4).program.graphs[0]
    assert [n for n in names(after) if n in ("all_gather", "matmul")][:4] == [
        "all_gather", "all_gather", "matmul", "all_gather"
    ]  # fmt: skip
    agrees(whole.graphs[0], after)


@pytest.mark.parametrize("parts", ["2", "8"])
def test_a_plan_asks_for_parts(parts: str) -> None:
    whole = mesh_program(block)
    ctx = context()
    ctx.choices = Choices(Plan.of({"overlap:*": parts}))
    after = Pipeline((Overlap(),)).run(whole, ctx).graphs[0]
    assert names(after).count("all_reduce") == int(parts)
    (met,) = ctx.choices.met.values()
    assert met.options == ("keep", "2", "4", "8", "16")
    agrees(whole.graphs[0], after)
    assert Pipeline((Overlap(),)).run(whole, context()).graphs[0] == whole.graphs[0]


def test_symbolic_rows_are_cut_where_they_divide() -> None:
    rows = dim("n", 8, 64, multiple_of=8)

    @graph(x=f32[rows, 8].with_placement(COLUMNS))
    def g(x: Tensor) -> Tensor:
        return all_reduce(x @ param("w", f32[6, 8].with_placement(COLUMNS)).T, "tp")

    whole = mesh_program(g)
    values = made_by(whole, "matmul", "all_reduce")
    after = Schedule(whole).overlap(*values, parts=8, dim=0).program.graphs[0]
    x = np.random.default_rng(0).normal(size=(24, 8)).astype(np.float32)
    given = {"x": x, "w": np.ones((6, 8), np.float32)}
    found = run_ranks(after, Mesh.of(tp=2), given, symbols={"n": 24})
    wanted = evaluate(whole.graphs[0], given, symbols={"n": 24}, reading="ideal")
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, atol=1e-9)
    with pytest.raises(IllegalRewrite, match="16 equal parts along dimension 0"):
        Schedule(whole).overlap(*values, parts=16, dim=0)


def refused(of: Program, values: Sequence[str], reason: str, parts: int = 2) -> None:
    with pytest.raises(IllegalRewrite, match=reason):
        Schedule(of).overlap(*values, parts=parts)


def test_refusals_say_why() -> None:
    @graph(x=f32[16, 8].with_placement(COLUMNS), r=f32[16, 6])
    def g(x: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        y = all_reduce(x @ param("w", f32[6, 8].with_placement(COLUMNS)).T, "tp")
        return (y * r).sum(0), y.sum(1)

    whole = mesh_program(g)
    product, total, scaled = made_by(whole, "matmul", "all_reduce", "mul")
    columns, _ = made_by(whole, "sum")
    refused(whole, [product], "no collective")
    refused(whole, [product, total], "5 equal parts", parts=5)
    refused(whole, [product, total, scaled, columns], "4 equal parts", parts=4)
    with pytest.raises(ProgramError, match="makes %nothing"):
        Schedule(whole).overlap("nothing", parts=2)


def test_what_is_read_in_between_stays_whole() -> None:
    @graph(x=f32[16, 8].with_placement(COLUMNS))
    def g(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x @ param("w", f32[6, 8].with_placement(COLUMNS)).T
        other = all_reduce(y * 2.0, "tp")
        return all_reduce(y, "tp"), other

    whole = mesh_program(g)
    product, first, second = made_by(whole, "matmul", "all_reduce")
    last = whole.graphs[0].outputs[0].value.name
    refused(whole, [product, last], "is read outside before")
    assert {first, second} >= {last}


def test_an_output_that_nobody_needs() -> None:
    @graph(x=f32[4, 6].with_placement(ROWS))
    def g(x: Tensor) -> dict[str, Tensor]:
        return {"part": x * 2.0, "whole": all_gather(x * 2.0, "tp", 0)}

    whole = program("p", g, mesh=Mesh.of(tp=2)).program
    after = Schedule(whole).dead("whole").program.graphs[0]
    assert "all_gather" not in names(after)
    with pytest.raises(IllegalRewrite, match="all that graph g returns"):
        Schedule(whole).dead("whole").dead("part")
    with pytest.raises(ProgramError, match="no graphs return other"):
        Schedule(whole).dead("other")
