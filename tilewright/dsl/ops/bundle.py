"""Bundles: many tensors as one flat one, for optimizer steps and collectives in buckets.

    flat = bundle([x, y, z], multiple_of=8)      x, y, z row after row, then zeros up to 8 k
    x, y, z = unbundle(flat, [x.shape, ...])     the parts again

(The buckets of Li et al., PyTorch Distributed, 2020, as a value of the language.)
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from tilewright.dsl.attrs import Attrs, AttrSpec
from tilewright.dsl.builder import active
from tilewright.dsl.composite import Composite
from tilewright.dsl.cost import Cost
from tilewright.dsl.dims import Dim, dim, known_le, product
from tilewright.dsl.dtypes import bf16, f32, i32
from tilewright.dsl.errors import DTypeError, RankError, ShapeError
from tilewright.dsl.op import Sample, error, register, same_dtype, sample, tensors
from tilewright.dsl.ops.movement import Movement, concat, pad
from tilewright.dsl.ops.reshape import reshape
from tilewright.dsl.ops.shape import concrete
from tilewright.dsl.sharding import Rule, axis_letters
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.types import Shape, TensorType, Type, shape_text

_N = dim("n", 1, 64)


@register
class Bundle(Composite):
    """The elements of all operands in one row, in order, with zeros up to a `multiple_of`.

    What kernels make is made in its place there; anything else is copied. Linear in all operands
    together. On a mesh parts may be replicated, Partial (all of them) or Local; a shard of a part
    is no shard of the bundle. A padded bundle is one that a reduce-scatter divides evenly.
    """

    name = "bundle"
    operands = ("x", "others*")
    attrs = {"multiple_of": AttrSpec("int", 1)}

    def check(self, xs: Sequence[TensorType], a: Attrs) -> None:
        same_dtype(self.name, xs)
        if a.int("multiple_of") < 1:
            raise ShapeError(f"bundle: multiple_of is {a.int('multiple_of')}, and at least 1")

    def body(self, *xs: Tensor, a: Attrs) -> Tensor:
        rows = [reshape(x, (product(x.shape),)) for x in xs]
        flat = rows[0] if len(rows) == 1 else concat(rows, 0)
        return _padded(flat, a.int("multiple_of"))

    def samples(self) -> Sequence[Sample]:
        return [
            sample(f32[2, 3], f32[4], f32[()]),
            sample(bf16[_N, 2], bf16[3], multiple_of=4),
            sample(i32[2, 2], multiple_of=3),
            error(DTypeError, f32[2], bf16[2]),
            error(ShapeError, f32[4], multiple_of=0),
        ]


@register
class Part(Movement):
    """The elements of a flat x from `start` on, row after row in another shape: a view.

    Moves elements, so linear.
    """

    name = "part"
    attrs = {"start": AttrSpec("dim"), "shape": AttrSpec("dims")}

    def types(self, xs: Sequence[Type], a: Attrs) -> tuple[Type, ...]:
        (x,) = tensors(self.name, xs)
        start, shape = a.dim("start"), a.dims("shape")
        if x.rank != 1:
            raise RankError(f"part: {shape_text(x.shape)} is not flat", fix="reshape it to [n]")
        if not (known_le(0, start) and known_le(start + product(shape), x.shape[0])):
            raise ShapeError(
                f"part: {shape_text(shape)} from {start} on is not provably within "
                f"{shape_text(x.shape)}",
                fix="bound the symbols so that it holds for all their values",
            )
        return (TensorType(shape, x.dtype),)

    def rule(self, xs: Sequence[Type], a: Attrs) -> Rule:
        return Rule((("flat",),), (axis_letters(len(a.dims("shape"))),)).moves().keep_whole("flat")

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        (start,), shape = concrete((a.dim("start"),)), concrete(a.dims("shape"))
        return (xp.reshape(xs[0][start : start + prod(shape)], shape),)

    def cost(self, xs: Sequence[Type], a: Attrs, out: Sequence[Type]) -> Cost:
        """Nothing moves."""
        return Cost()

    def samples(self) -> Sequence[Sample]:
        return [
            sample(f32[12], start=3, shape=(2, 4)),
            sample(bf16[_N * 4], start=_N, shape=(3, _N)),
            sample(i32[5], start=4, shape=()),
            error(RankError, f32[2, 6], start=0, shape=(6,)),
            error(ShapeError, f32[12], start=5, shape=(2, 4)),
            error(ShapeError, f32[_N], start=_N, shape=(1,)),
        ]


def _padded(flat: Tensor, multiple_of: int) -> Tensor:
    spare = -flat.shape[0] % multiple_of
    return flat if spare == 0 else pad(flat, (0,), (spare,))


def bundle(xs: Sequence[Tensor], *, multiple_of: int = 1) -> Tensor:
    """One flat tensor over all of xs; its length is a multiple of `multiple_of`, zeros at the end.

    Raises DTypeError for parts of several formats, ShapeError, PlacementError for sharded parts
    that do not lie together.
    """
    return active().tensor("bundle", *xs, multiple_of=multiple_of)


def unbundle(flat: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
    """The parts of these shapes that a flat tensor begins with, in order: views of it.

    Raises ShapeError where it is not flat, or shorter than they are together.
    """
    total: Dim = 0
    for shape in shapes:
        total = total + product(shape)
    if len(flat.shape) != 1 or not known_le(total, flat.shape[0]):
        raise ShapeError(
            f"unbundle: {shape_text(flat.shape)} does not hold {total} elements in a row",
            fix="give the shapes that were bundled",
        )
    found: list[Tensor] = []
    start: Dim = 0
    for shape in shapes:
        size = product(shape)
        found.append(active().tensor("part", flat, start=start, shape=tuple(shape)))
        start = start + size
    return tuple(found)
