"""One entry of dimension 0, where it lies; and entries put together to such a dimension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tilewright.dsl.attrs import Attrs, AttrSpec
from tilewright.dsl.builder import active
from tilewright.dsl.cost import Cost
from tilewright.dsl.dims import Dim, dim, known_le
from tilewright.dsl.dtypes import bf16, f32, i32
from tilewright.dsl.encoding import IntFormat, Quantized
from tilewright.dsl.errors import EncodingError, RankError, ShapeError
from tilewright.dsl.op import Sample, error, register, sample, tensors
from tilewright.dsl.ops.encoded import moved_parts, require_whole, with_moved_axes
from tilewright.dsl.ops.movement import Movement
from tilewright.dsl.ops.shape import concrete
from tilewright.dsl.sharding import Rule, axis_letters
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.types import TensorType, Type, shape_text

_N = dim("n", 4, 64)


@register
class Row(Movement):
    """x[at], proved to be in range: dimension 0 goes, and the rest lies where it did.

    A view, as `reshape` is: no kernel runs, and kernels that read rows of one array at several
    places are one kernel. Moves elements, so linear.
    """

    name = "row"
    attrs = {"at": AttrSpec("dim")}
    takes_encoded = True

    def types(self, xs: Sequence[Type], a: Attrs) -> tuple[Type, ...]:
        (x,) = tensors(self.name, xs)
        at = a.dim("at")
        if not x.rank:
            raise RankError("row: a scalar has no rows")
        if not (known_le(0, at) and known_le(at + 1, x.shape[0])):
            raise ShapeError(
                f"row: {at} is not provably a row of {shape_text(x.shape)}",
                fix="bound the symbols so that it holds for all their values",
            )
        require_whole(self.name, x.encoding, (0,))
        encoding = with_moved_axes(x.encoding, lambda axis: axis - 1)
        return (TensorType(x.shape[1:], x.dtype, encoding=encoding),)

    def rule(self, xs: Sequence[Type], a: Attrs) -> Rule:
        letters = axis_letters(tensors(self.name, xs)[0].rank)
        return Rule((letters,), (letters[1:],)).moves().keep_whole(letters[0])

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        (at,) = concrete((a.dim("at"),))
        return (moved_parts(xs[0], lambda part: part[at]),)

    def cost(self, xs: Sequence[Type], a: Attrs, out: Sequence[Type]) -> Cost:
        """Nothing moves."""
        return Cost()

    def samples(self) -> Sequence[Sample]:
        rows = Quantized(IntFormat(8), axis=1)
        return [
            sample(f32[3, 4], at=2),
            sample(bf16[_N, 2, 3], at=_N - 1),
            sample(i32[5], at=0),
            sample(f32[3, 8].with_encoding(rows), at=1),
            error(RankError, f32[()], at=0),
            error(ShapeError, f32[3, 4], at=3),
            error(ShapeError, f32[_N, 4], at=4),
            error(EncodingError, f32[3, 8].with_encoding(Quantized(IntFormat(8), axis=0)), at=0),
        ]


@register
class Stack(Movement):
    """The operands, all of one type, as the entries of a new dimension 0.

    What kernels make is made in its place; anything else is copied there.
    """

    name = "stack"
    operands = ("x", "others*")

    def types(self, xs: Sequence[Type], a: Attrs) -> tuple[Type, ...]:
        first, *others = tensors(self.name, xs)
        for other in others:
            if (other.shape, other.dtype) != (first.shape, first.dtype):
                raise ShapeError(
                    f"stack: operands are {first.dtype}{shape_text(first.shape)} and "
                    f"{other.dtype}{shape_text(other.shape)}"
                )
        return (TensorType((len(xs), *first.shape), first.dtype),)

    def rule(self, xs: Sequence[Type], a: Attrs) -> Rule:
        letters = axis_letters(tensors(self.name, xs)[0].rank)
        return Rule((letters,) * len(xs), (("entry", *letters),)).moves()

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        return (xp.stack(list(xs), axis=0),)

    def samples(self) -> Sequence[Sample]:
        return [
            sample(f32[2, 3], f32[2, 3], f32[2, 3]),
            sample(bf16[_N]),
            sample(i32[()], i32[()]),
            error(ShapeError, f32[2, 3], f32[3, 2]),
            error(ShapeError, f32[2], bf16[2]),
        ]


def row(x: Tensor, at: Dim) -> Tensor:
    """x[at] where it lies: a view."""
    return active().tensor("row", x, at=at)


def stack(xs: Sequence[Tensor]) -> Tensor:
    """Tensors of one type as the entries of a new dimension 0."""
    return active().tensor("stack", *xs)
