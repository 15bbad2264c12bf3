"""Rows in groups: each by its own matrix, and nothing where nothing is counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.dsl.tracing import traced
from tilewright.dsl.builder import graph
from tilewright.dsl.dtypes import f64, i32
from tilewright.dsl.errors import IndexOutOfRange, PlacementError
from tilewright.dsl.graph import Graph
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.ops.collective import all_reduce
from tilewright.dsl.ops.grouped import grouped_matmul
from tilewright.dsl.placement import AxisPlacement, Mesh, Partial, Placement, Replicate, Shard
from tilewright.dsl.ranks import run_ranks
from tilewright.dsl.sampling import draw_inputs
from tilewright.dsl.tensor import Tensor

X, W = f64[6, 4], f64[3, 4, 5]


def grouped(x: Tensor, w: Tensor, counts: Tensor) -> Tensor:
    return grouped_matmul(x, w, counts)


def by_rows(x: Any, w: Any, counts: list[int]) -> Any:
    """Row by row: who owns it, and its product."""
    owner = np.repeat(np.arange(len(counts)), counts)
    y = np.zeros((len(x), w.shape[2]))
    for row, group in enumerate(owner):
        y[row] = x[row] @ w[group]
    return y


@pytest.mark.parametrize("counts", [[2, 1, 3], [0, 6, 0], [0, 0, 0], [1, 0, 2], [6, 0, 0]])
def test_each_row_meets_the_matrix_of_its_group(counts: list[int]) -> None:
    rng = np.random.default_rng(sum(counts))
    x, w = rng.normal(size=(6, 4)), rng.normal(size=(3, 4, 5))
    x[sum(counts) :] = np.nan
    given = {"x0": x, "x1": w, "x2": np.array(counts, np.int32)}
    found = evaluate(traced(grouped, X, W, i32[3]), given)["out"]
    np.testing.assert_allclose(found, by_rows(x, w, counts), rtol=1e-13)


def test_stored_the_other_way_round() -> None:
    def turned(x: Tensor, w: Tensor, counts: Tensor) -> Tensor:
        return grouped_matmul(x, w, counts, transpose_w=True)

    made = traced(turned, X, f64[3, 5, 4], i32[3])
    given = draw_inputs(made, {}, np.random.default_rng(0))
    same = given | {"x1": given["x1"].swapaxes(1, 2)}
    wanted = evaluate(traced(grouped, X, W, i32[3]), same)["out"]
    assert np.array_equal(evaluate(made, given)["out"], wanted)


@pytest.mark.parametrize("counts", [[3, 3, 1], [-1, 2, 2], [2**31 - 1, 2**31 - 1, 0]])
def test_wrong_counts_are_refused_or_cut(counts: list[int]) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(6, 4)), rng.normal(size=(3, 4, 5))
    made = traced(grouped, X, W, i32[3])
    given = {"x0": x, "x1": w, "x2": np.array(counts, np.int32)}
    with pytest.raises(IndexOutOfRange, match="are not those of 6 rows"):
        evaluate(made, given)
    cut, left = list[int](), 6
    for count in counts:
        cut.append(min(max(count, 0), left))
        left -= cut[-1]
    found = evaluate(made, given, checked=False)["out"]
    np.testing.assert_allclose(found, by_rows(x, w, cut), rtol=1e-13)


# --- on a mesh ------------------------------------------------------------------------------------

MESH = Mesh.of(tp=2)


def placed(x: AxisPlacement, w: AxisPlacement, *, reduced: bool = False) -> Graph:
    on = Placement.of

    @graph(x=X.with_placement(on(tp=x)), w=f64[3, 4, 6].with_placement(on(tp=w)), counts=i32[3])
    def g(x: Tensor, w: Tensor, counts: Tensor) -> Tensor:
        found = grouped_matmul(x, w, counts)
        return all_reduce(found, "tp") if reduced else found

    return g.graph(MESH)


@pytest.mark.parametrize(
    ("x", "w", "out"),
    [
        (Replicate(), Shard(2), Shard(1)),
        (Shard(1), Shard(1), Partial("sum")),
        (Partial("sum"), Replicate(), Partial("sum")),
    ],
)
def test_columns_and_the_inner_dimension_may_be_sharded(
    x: AxisPlacement, w: AxisPlacement, out: AxisPlacement
) -> None:
    made = placed(x, w)
    assert made.output_values[0].tensor.placement.on("tp") == out
    given = draw_inputs(made, {}, np.random.default_rng(0))
    wanted = evaluate(made, given)["out"]
    np.testing.assert_allclose(run_ranks(made, MESH, given)["out"], wanted, rtol=1e-9)


@pytest.mark.parametrize(
    ("x", "w"), [(Shard(0), Replicate()), (Replicate(), Shard(0)), (Partial("sum"), Partial("sum"))]
)
def test_rows_and_groups_are_whole(x: AxisPlacement, w: AxisPlacement) -> None:
    with pytest.raises(PlacementError, match=r"needs whole|two factors"):
        placed(x, w)
