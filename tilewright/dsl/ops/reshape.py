"""Reshape, and how a sharded dimension passes through a split or a merge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tilewright.dsl.attrs import Attrs, AttrSpec
from tilewright.dsl.builder import active
from tilewright.dsl.dims import Dim, dim, known_divides, known_eq, product
from tilewright.dsl.dtypes import bf16, f32, i32
from tilewright.dsl.encoding import IntFormat, Quantized
from tilewright.dsl.errors import EncodingError, PlacementError, ShapeError
from tilewright.dsl.op import Sample, error, register, sample, tensors
from tilewright.dsl.ops.movement import Movement
from tilewright.dsl.ops.shape import concrete
from tilewright.dsl.placement import Mesh, Placement, Shard
from tilewright.dsl.sharding import Rule
from tilewright.dsl.tensor import Tensor, infer_minus_one
from tilewright.dsl.types import Shape, TensorType, Type, shape_text

_N = dim("n", 1, 64)

Axes = tuple[int, ...]


def factor_groups(old: Shape, new: Shape) -> Iterator[tuple[Axes, Axes]]:
    """The smallest runs of old and new dimensions with equal products, left to right.

    Dimensions of size one belong to no run. [6, 4] -> [2, 3, 4] gives ((0,), (0, 1)), ((1,), (2,)).
    """
    left = [axis for axis, size in enumerate(old) if size != 1]
    right = [axis for axis, size in enumerate(new) if size != 1]
    olds, news = _prefixes(old, left), _prefixes(new, right)
    i = j = 0
    while i < len(left) or j < len(right):
        ends = (
            (k, m)
            for k in range(i + 1, len(left) + 1)
            for m in range(j + 1, len(right) + 1)
            if known_eq(olds[k], news[m])
        )
        k, m = next(ends, (len(left), len(right)))
        yield tuple(left[i:k]), tuple(right[j:m])
        i, j = k, m


def _prefixes(shape: Shape, axes: Sequence[int]) -> list[Dim]:
    found: list[Dim] = [1]
    for axis in axes:
        found.append(found[-1] * shape[axis])
    return found


@register
class Reshape(Movement):
    """The same elements, in row-major order, under another shape.

    A dimension that stays one keeps its sharding. One that is split or merged keeps it on the major
    part, where the devices divide the major part's size, so that chunks stay contiguous and even.
    """

    name = "reshape"
    attrs = {"shape": AttrSpec("dims")}
    takes_encoded = True

    def types(self, xs: Sequence[Type], a: Attrs) -> tuple[Type, ...]:
        (x,) = tensors(self.name, xs)
        shape = a.dims("shape")
        if not x.is_dense:
            raise EncodingError(
                f"reshape of a value stored as {x.encoding} would cut its groups",
                fix="reshape before encoding, or reshape(decode(x))",
            )
        if not known_eq(product(x.shape), product(shape)):
            raise ShapeError(
                f"reshape: {shape_text(x.shape)} and {shape_text(shape)} are not known to have "
                "equally many elements"
            )
        return (TensorType(shape, x.dtype),)

    def rule(self, xs: Sequence[Type], a: Attrs) -> Rule:
        (x,) = tensors(self.name, xs)
        shape = a.dims("shape")
        old = [f"old{axis}" for axis in range(x.rank)]
        new = [f"new{axis}" for axis in range(len(shape))]
        whole = set(old)
        for left, right in factor_groups(x.shape, shape):
            if len(left) == len(right) == 1:
                new[right[0]] = old[left[0]]
                whole.discard(old[left[0]])
        return Rule((tuple(old),), (tuple(new),)).moves().keep_whole(*whole)

    def placements(
        self, xs: Sequence[Type], a: Attrs, out: Sequence[Type], mesh: Mesh
    ) -> Sequence[Placement]:
        (x,) = tensors(self.name, xs)
        shape = a.dims("shape")
        groups = factor_groups(x.shape, shape)
        target = {left[0]: (left, right) for left, right in groups if left and right}
        result = Placement()
        for axis, place in x.placement.entries:
            if isinstance(place, Shard):
                if place.dim not in target:
                    raise _minor(axis, place.dim, x.shape, shape)
                left, right = target[place.dim]
                if len(left) > 1 or len(right) > 1:
                    self._require_even(x, place.dim, shape[min(right)], mesh)
                place = Shard(min(right))
            result = result.replace(axis, place)
        return [result]

    def _require_even(self, x: TensorType, axis: int, major: Dim, mesh: Mesh) -> None:
        devices = 1
        for name in x.placement.sharding(axis):
            devices *= mesh.size(name)
        for size in (x.shape[axis], major):
            if not known_divides(devices, size):
                raise PlacementError(
                    f"reshape: {devices} devices shard dimension {axis} of {shape_text(x.shape)}, "
                    f"but do not divide the major part {size}",
                    fix="all_gather it first, or choose a mesh axis that divides it",
                )

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        return (xp.reshape(xs[0], concrete(a.dims("shape"))),)

    def localize(self, a: Attrs, out: Sequence[Type]) -> Attrs:
        (result,) = tensors(self.name, out)
        return a.replace(shape=result.shape)

    def samples(self) -> Sequence[Sample]:
        return [
            sample(f32[2, 6], shape=(3, 4)),
            sample(bf16[_N, 4, 3], shape=(_N * 4, 3)),
            sample(f32[_N * 6], shape=(_N, 2, 3)),
            sample(i32[()], shape=(1, 1)),
            error(ShapeError, f32[2, 6], shape=(5,)),
            error(ShapeError, f32[_N], shape=(_N + 1,)),
            error(
                EncodingError,
                f32[4, 8].with_encoding(Quantized(IntFormat(8), axis=1)),
                shape=(32,),
            ),
        ]


def _minor(axis: str, dim_: int, old: Shape, new: Shape) -> PlacementError:
    return PlacementError(
        f"reshape: mesh axis {axis} shards dimension {dim_} of {shape_text(old)}, which is not the "
        f"major part of a dimension of {shape_text(new)}",
        fix="all_gather it first",
    )


def reshape(x: Tensor, shape: tuple[Dim, ...]) -> Tensor:
    """The same elements under another shape; one -1 is inferred."""
    return active().tensor("reshape", x, shape=infer_minus_one(x.shape, shape))
