"""Bundles: the parts in one row, and each of them back again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tilewright.dsl.builder import graph
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import f32, f64
from tilewright.dsl.errors import PlacementError, ShapeError
from tilewright.dsl.graph import Graph
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.ops.bundle import bundle, unbundle
from tilewright.dsl.ops.collective import all_gather, reduce_scatter
from tilewright.dsl.placement import AxisPlacement, Mesh, Partial, Placement, Shard
from tilewright.dsl.program import program
from tilewright.dsl.ranks import run_ranks
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.text import parse_program, print_program
from tilewright.dsl.verify import verify

N = dim("n", 1, 9)


@graph(x=f64[2, 3], y=f64[N], z=f64[()])
def through(x: Tensor, y: Tensor, z: Tensor) -> dict[str, Tensor]:
    parts = [x, y, z]
    flat = bundle(parts, multiple_of=4)
    back = unbundle(flat * 2.0, [p.shape for p in parts])
    return {"flat": flat, **{f"part{i}": part for i, part in enumerate(back)}}


@pytest.mark.parametrize("n", [1, 2, 5])
def test_parts_lie_in_a_row_and_come_back(n: int) -> None:
    made = through.graph()
    verify(made)
    x, y, z = np.arange(6.0).reshape(2, 3), 10.0 + np.arange(n), np.array(99.0)
    found = evaluate(made, {"x": x, "y": y, "z": z})
    row = [*x.ravel(), *y, 99.0]
    assert found["flat"].tolist() == row + [0.0] * (-len(row) % 4)
    for index, part in enumerate((x, y, z)):
        assert np.array_equal(found[f"part{index}"], 2 * part)


def test_text_round_trip() -> None:
    made = program("p", through).program
    assert parse_program(print_program(made)) == made
    assert "bundle(x, y, z, multiple_of=4)" in print_program(made)


@pytest.mark.parametrize("shapes", [[(2, 3), (2,)], [(8,)]])
def test_more_than_there_is_cannot_be_taken(shapes: list[Any]) -> None:
    @graph(x=f32[7])
    def g(x: Tensor) -> Tensor:
        return unbundle(bundle([x]), shapes)[0]

    with pytest.raises(ShapeError, match="does not hold 8 elements in a row"):
        g.graph()


def test_only_what_is_flat_is_taken_apart() -> None:
    @graph(x=f32[7, 2])
    def g(x: Tensor) -> Tensor:
        return unbundle(x, [(2,)])[0]

    with pytest.raises(ShapeError, match="in a row"):
        g.graph()


# --- on a mesh ------------------------------------------------------------------------------------

MESH = Mesh.of(dp=2)


def summed(place: AxisPlacement) -> Graph:
    """Gradients of several tensors in one reduce-scatter and one all-gather."""
    on = Placement.of(dp=place)

    @graph(x=f64[2, 3].with_placement(on), y=f64[5].with_placement(on))
    def g(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        flat = reduce_scatter(bundle([x, y], multiple_of=2), "dp", 0)
        return unbundle(all_gather(flat * 0.5, "dp", 0), [x.shape, y.shape])

    return g.graph(MESH)


def test_partial_parts_are_reduced_together() -> None:
    made = summed(Partial("sum"))
    verify(made, MESH)
    assert [node.op for node in made.nodes].count("reduce_scatter") == 1
    rng = np.random.default_rng(0)
    given = {"x": rng.normal(size=(2, 3)), "y": rng.normal(size=5)}
    found = run_ranks(made, MESH, given)
    np.testing.assert_allclose(found["out0"], given["x"] / 2, rtol=1e-9)
    np.testing.assert_allclose(found["out1"], given["y"] / 2, rtol=1e-9)


def test_shards_of_parts_are_no_shard_of_the_bundle() -> None:
    with pytest.raises(PlacementError):
        summed(Shard(0))
