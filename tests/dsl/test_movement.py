"""How a sharded dimension passes through a reshape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import f32
from tilewright.dsl.errors import PlacementError
from tilewright.dsl.op import checked_attrs, get
from tilewright.dsl.ops.reshape import factor_groups
from tilewright.dsl.placement import Mesh, Partial, Placement, Shard
from tilewright.dsl.types import Shape, TensorType

MESH = Mesh.of(dp=2, tp=2)
N = dim("n", 1, 64)
EVEN = dim("m", 2, 64, multiple_of=2)


def placed(old: Shape, new: Shape, placement: Placement) -> Placement:
    op = get("reshape")
    (found,) = op.infer(
        [f32[old].with_placement(placement)], checked_attrs(op, {"shape": new}), MESH
    )
    assert isinstance(found, TensorType)
    return found.placement


@pytest.mark.parametrize(
    ("old", "new", "groups"),
    [
        ((6, 4), (2, 3, 4), [((0,), (0, 1)), ((1,), (2,))]),
        ((2, 3, 4), (6, 4), [((0, 1), (0,)), ((2,), (1,))]),
        ((2, 6), (3, 4), [((0, 1), (0, 1))]),
        ((1, 5, 1), (5, 1), [((1,), (0,))]),
        ((N, 4, 3), (N * 4, 3), [((0, 1), (0,)), ((2,), (1,))]),
        ((N * 4, 3), (N, 2, 2, 3), [((0,), (0, 1, 2)), ((1,), (3,))]),
    ],
)
def test_runs_of_dimensions(old: Shape, new: Shape, groups: list[Any]) -> None:
    assert list(factor_groups(old, new)) == groups


@pytest.mark.parametrize(
    ("old", "new", "dim_", "wanted"),
    [
        ((3, 8), (3, 2, 4), 1, 1),
        ((3, 2, 4), (3, 8), 1, 1),
        ((4, 6), (2, 2, 6), 1, 2),
        ((3, 5), (1, 3, 5), 0, 1),
        ((N, 6), (N, 2, 3), 0, 0),
        ((EVEN * 4, 3), (EVEN, 4, 3), 0, 0),
        ((4, 3), (2, 6), 0, 0),
    ],
)
def test_shards_stay_on_the_major_part(old: Shape, new: Shape, dim_: int, wanted: int) -> None:
    assert placed(old, new, Placement.of(tp=Shard(dim_))) == Placement.of(tp=Shard(wanted))


@pytest.mark.parametrize(
    ("old", "new", "dim_"),
    [
        ((3, 8), (24,), 1),
        ((6, 4), (3, 2, 4), 0),
        ((3, 4), (12,), 0),
        ((N * 4, 3), (N, 4, 3), 0),
        ((3, 1), (3,), 1),
    ],
)
def test_uneven_and_minor_shards_are_refused(old: Shape, new: Shape, dim_: int) -> None:
    with pytest.raises(PlacementError):
        placed(old, new, Placement.of(tp=Shard(dim_)))


def test_two_mesh_axes_on_one_dimension() -> None:
    both = Placement.of(dp=Shard(0), tp=Shard(0))
    assert placed((8, 3), (4, 2, 3), both) == both
    with pytest.raises(PlacementError):
        placed((8, 3), (2, 4, 3), both)


def test_partial_passes_through() -> None:
    assert placed((4, 6), (24,), Placement.of(tp=Partial("max"))) == Placement.of(tp=Partial("max"))


@pytest.mark.parametrize(
    ("old", "new", "dim_"), [((3, 8), (3, 2, 4), 1), ((4, 2, 3), (8, 3), 0), ((4, 3), (2, 6), 0)]
)
def test_chunks_of_the_result_are_reshaped_chunks(
    old: tuple[int, ...], new: tuple[int, ...], dim_: int
) -> None:
    """The claim itself, on the data: rank i's chunk, reshaped, is rank i's chunk of the result."""
    ((_, place),) = placed(old, new, Placement.of(tp=Shard(dim_))).entries
    assert isinstance(place, Shard)
    x = np.arange(np.prod(old)).reshape(old)
    wanted = np.split(x.reshape(new), 2, axis=place.dim)
    for chunk, part in zip(np.split(x, 2, axis=dim_), wanted, strict=True):
        np.testing.assert_array_equal(chunk.reshape(part.shape), part)
