"""Operations that only move elements: views, cuts, joins and copies."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any

from tilewright.dsl.attrs import Attrs, AttrSpec
from tilewright.dsl.broadcast import broadcast_shapes
from tilewright.dsl.builder import active
from tilewright.dsl.cost import Cost, nbytes
from tilewright.dsl.dims import Dim, bounds, dim, known_eq, known_le
from tilewright.dsl.dtypes import bf16, bool_, f32, i32
from tilewright.dsl.encoding import IntFormat, LowRank, Quantized
from tilewright.dsl.errors import DTypeError, EncodingError, RankError, ShapeError
from tilewright.dsl.op import OpDef, Sample, error, register, same_dtype, sample, tensors
from tilewright.dsl.ops.encoded import (
    encoded_axes,
    moved_parts,
    parts_of,
    require_whole,
    with_moved_axes,
)
from tilewright.dsl.ops.shape import concrete, normal_axis
from tilewright.dsl.sharding import Rule, axis_letters, broadcast_rule
from tilewright.dsl.tensor import Scalar, Tensor
from tilewright.dsl.types import Shape, TensorType, Type, shape_text

_N = dim("n", 1, 64)
_INT8_ROWS = Quantized(IntFormat(8), axis=1)


class Movement(OpDef):
    """No arithmetic: Partial of any kind passes where every operand has it."""

    operands = ("x",)

    def flops(self, xs: Sequence[Type], a: Attrs, out: Sequence[Type]) -> Dim:
        return 0


def _shape_of(out: Sequence[Type]) -> Shape:
    (result,) = tensors("movement", out)
    return result.shape


@register
class PermuteDims(Movement):
    """Dimension i of the result is dimension `axes[i]` of x."""

    name = "permute_dims"
    attrs = {"axes": AttrSpec("ints")}
    takes_encoded = True

    def types(self, xs: Sequence[Type], a: Attrs) -> tuple[Type, ...]:
        (x,) = tensors(self.name, xs)
        axes = self._axes(x, a)
        require_whole(self.name, x.encoding, ())
        return (
            TensorType(
                tuple(x.shape[axis] for axis in axes),
                x.dtype,
                encoding=with_moved_axes(x.encoding, axes.index),
            ),
        )

    def _axes(self, x: TensorType, a: Attrs) -> tuple[int, ...]:
        axes = tuple(normal_axis(self.name, axis, x.rank) for axis in a.ints("axes"))
        if sorted(axes) != list(range(x.rank)):
            raise RankError(f"permute_dims: {list(axes)} does not name each of {x.rank} dims once")
        return axes

    def rule(self, xs: Sequence[Type], a: Attrs) -> Rule:
        (x,) = tensors(self.name, xs)
        letters = axis_letters(x.rank)
        return Rule((letters,), (tuple(letters[axis] for axis in self._axes(x, a)),)).moves()

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        rank = len(_shape_of(out))
        axes = tuple(normal_axis(self.name, axis, rank) for axis in a.ints("axes"))
        return (moved_parts(xs[0], lambda part: xp.permute_dims(part, axes)),)

    def samples(self) -> Sequence[Sample]:
        return [
            sample(f32[2, 3, 4], axes=(2, 0, 1)),
            sample(bf16[_N, 3], axes=(1, 0)),
            sample(bool_[_N, 3], axes=(-1, 0)),
            sample(f32[3, 8].with_encoding(_INT8_ROWS), axes=(1, 0)),
            error(RankError, f32[2, 3], axes=(0, 0)),
            error(RankError, f32[2, 3], axes=(0,)),
            error(EncodingError, f32[3, 8].with_encoding(LowRank(2)), axes=(1, 0)),
        ]


@register
class BroadcastTo(Movement):
    """Repeats dimensions of size one, and adds leading ones, up to `shape`."""

    name = "broadcast_to"
    attrs = {"shape": AttrSpec("dims")}

    def types(self, xs: Sequence[Type], a: Attrs) -> tuple[Type, ...]:
        (x,) = tensors(self.name, xs)
        shape = a.dims("shape")
        if broadcast_shapes(self.name, [x.shape, shape]) != shape:
            raise ShapeError(f"{shape_text(x.shape)} does not broadcast to {shape_text(shape)}")
        return (TensorType(shape, x.dtype),)

    def rule(self, xs: Sequence[Type], a: Attrs) -> Rule:
        (x,) = tensors(self.name, xs)
        return broadcast_rule([x.shape], a.dims("shape")).moves()

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        return (xp.broadcast_to(xs[0], concrete(_shape_of(out))),)

    def localize(self, a: Attrs, out: Sequence[Type]) -> Attrs:
        return a.replace(shape=_shape_of(out))

    def samples(self) -> Sequence[Sample]:
        return [
            sample(f32[3, 1], shape=(2, 3, 5)),
            sample(i32[()], shape=(_N,)),
            sample(bf16[_N, 1], shape=(_N, 4)),
            error(ShapeError, f32[2, 3], shape=(2, 4)),
            error(ShapeError, f32[2, 3], shape=(3,)),
        ]


@register
class Slice(Movement):
    """`size[i]` elements from `start[i]` on along every dimension, proved to be in range."""

    name = "slice"
    attrs = {"start": AttrSpec("dims"), "size": AttrSpec("dims")}
    takes_encoded = True

    def types(self, xs: Sequence[Type], a: Attrs) -> tuple[Type, ...]:
        (x,) = tensors(self.name, xs)
        starts, sizes = a.dims("start"), a.dims("size")
        if not len(starts) == len(sizes) == x.rank:
            raise RankError(f"slice: {len(starts)} starts and {len(sizes)} sizes for rank {x.rank}")
        for axis, (start, size, full) in enumerate(zip(starts, sizes, x.shape, strict=True)):
            if not (known_le(0, start) and known_le(0, size) and known_le(start + size, full)):
                raise ShapeError(
                    f"slice: {start} + {size} is not provably within dimension {axis} of "
                    f"{shape_text(x.shape)}",
                    fix="bound the symbols so that it holds for all their values",
                )
        require_whole(self.name, x.encoding, _cut_axes(x.shape, a))
        return (x.with_shape(sizes),)

    def rule(self, xs: Sequence[Type], a: Attrs) -> Rule:
        (x,) = tensors(self.name, xs)
        letters, cut = axis_letters(x.rank), _cut_axes(x.shape, a)
        kept = tuple(f"cut{i}" if i in cut else letter for i, letter in enumerate(letters))
        return Rule((letters,), (kept,)).moves().keep_whole(*(letters[i] for i in cut))

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        starts, sizes = concrete(a.dims("start")), concrete(a.dims("size"))
        if parts_of(xs[0]) is None:
            return (xs[0][tuple(map(_range, starts, sizes))],)
        (result,) = tensors(self.name, out)
        whole = encoded_axes(self.name, result.encoding)
        index = tuple(
            builtins.slice(None) if axis in whole else _range(start, size)
            for axis, (start, size) in enumerate(zip(starts, sizes, strict=True))
        )
        return (moved_parts(xs[0], lambda part: part[index]),)

    def cost(self, xs: Sequence[Type], a: Attrs, out: Sequence[Type]) -> Cost:
        """Only what is kept is read."""
        return Cost(0, nbytes(out), nbytes(out))

    def localize(self, a: Attrs, out: Sequence[Type]) -> Attrs:
        return a.replace(size=_shape_of(out))

    def samples(self) -> Sequence[Sample]:
        encoded = f32[3, 8].with_encoding(_INT8_ROWS)
        return [
            sample(f32[4, 6], start=(1, 2), size=(2, 3)),
            sample(bf16[_N + 2, 4], start=(_N, 0), size=(2, 4)),
            sample(f32[4], start=(2,), size=(0,)),
            sample(encoded, start=(1, 0), size=(2, 8)),
            error(ShapeError, f32[4, 6], start=(3, 0), size=(2, 6)),
            error(ShapeError, f32[_N], start=(0,), size=(2,)),
            error(ShapeError, f32[4], start=(-1,), size=(2,)),
            error(RankError, f32[4], start=(0, 0), size=(2, 2)),
            error(EncodingError, encoded, start=(0, 0), size=(3, 4)),
        ]


def _range(start: int, size: int) -> builtins.slice:
    return builtins.slice(start, start + size)


def _cut_axes(shape: Shape, a: Attrs) -> list[int]:
    return [axis for axis, size in enumerate(a.dims("size")) if not known_eq(size, shape[axis])]


@register
class Concat(Movement):
    """The operands one after the other along `axis`."""

    name = "concat"
    operands = ("x", "others*")
    attrs = {"axis": AttrSpec("axis")}
    takes_encoded = True

    def types(self, xs: Sequence[Type], a: Attrs) -> tuple[Type, ...]:
        ts = tensors(self.name, xs)
        first = ts[0]
        axis = normal_axis(self.name, a.int("axis"), first.rank)
        same_dtype(self.name, ts)
        total: Dim = 0
        for t in ts:
            if t.rank != first.rank or any(
                i != axis and size != first.shape[i] for i, size in enumerate(t.shape)
            ):
                raise ShapeError(
                    f"concat: {shape_text(t.shape)} and {shape_text(first.shape)} differ outside "
                    f"dimension {axis}"
                )
            if t.encoding != first.encoding:
                raise EncodingError(f"concat: operands are {first.encoding} and {t.encoding}")
            total = total + t.shape[axis]
        require_whole(self.name, first.encoding, (axis,))
        shape = (*first.shape[:axis], total, *first.shape[axis + 1 :])
        return (TensorType(shape, first.dtype, encoding=first.encoding),)

    def rule(self, xs: Sequence[Type], a: Attrs) -> Rule:
        ts = tensors(self.name, xs)
        axis = normal_axis(self.name, a.int("axis"), ts[0].rank)
        letters = axis_letters(ts[0].rank)

        def named(joined: str) -> tuple[str, ...]:
            return (*letters[:axis], joined, *letters[axis + 1 :])

        parts = [f"part{index}" for index in range(len(ts))]
        rule = Rule(tuple(map(named, parts)), (named("joined"),))
        return rule.moves().keep_whole(*parts)

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        axis = normal_axis(self.name, a.int("axis"), len(_shape_of(out)))
        first = parts_of(xs[0])
        if first is None:
            return (xp.concat(list(xs), axis=axis),)
        return ({name: xp.concat([x[name] for x in xs], axis=axis) for name in first},)

    def samples(self) -> Sequence[Sample]:
        encoded = f32[3, 8].with_encoding(_INT8_ROWS)
        return [
            sample(f32[2, 3], f32[2, 4], axis=1),
            sample(bf16[_N, 3], bf16[2, 3], bf16[_N, 3], axis=-2),
            sample(i32[4], axis=0),
            sample(encoded, encoded, axis=0),
            error(ShapeError, f32[2, 3], f32[3, 3], axis=1),
            error(DTypeError, f32[2], bf16[2], axis=0),
            error(RankError, f32[2], f32[2], axis=1),
            error(EncodingError, encoded, encoded, axis=1),
            error(EncodingError, encoded, f32[3, 8], axis=0),
        ]


@register
class Pad(Movement):
    """`low[i]` elements of `value` before and `high[i]` after x along every dimension."""

    name = "pad"
    attrs = {
        "low": AttrSpec("dims"), "high": AttrSpec("dims"), "value": AttrSpec("scalar", 0),
    }  # fmt: skip

    def types(self, xs: Sequence[Type], a: Attrs) -> tuple[Type, ...]:
        (x,) = tensors(self.name, xs)
        low, high = a.dims("low"), a.dims("high")
        if not len(low) == len(high) == x.rank:
            raise RankError(f"pad: {len(low)} and {len(high)} widths for rank {x.rank}")
        for width in (*low, *high):
            if bounds(width)[0] < 0:
                raise ShapeError(f"pad: a width of {width} can be negative", fix="use slice")
        if isinstance(a["value"], float) and not x.dtype.is_float:
            raise DTypeError(f"pad: {a['value']} does not fit a {x.dtype} tensor")
        return (x.with_shape(tuple(b + s + e for b, s, e in zip(low, x.shape, high, strict=True))),)

    def rule(self, xs: Sequence[Type], a: Attrs) -> Rule:
        (x,) = tensors(self.name, xs)
        letters = axis_letters(x.rank)
        widths = zip(a.dims("low"), a.dims("high"), strict=True)
        grown = [i for i, pair in enumerate(widths) if pair != (0, 0)]
        kept = tuple(f"pad{i}" if i in grown else letter for i, letter in enumerate(letters))
        rule = Rule((letters,), (kept,)).keep_whole(*(letters[i] for i in grown))
        return rule.moves() if a["value"] == 0 else rule

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        made = xp.full(concrete(_shape_of(out)), a["value"], dtype=xs[0].dtype)
        made[tuple(map(_range, concrete(a.dims("low")), xs[0].shape))] = xs[0]
        return (made,)

    def samples(self) -> Sequence[Sample]:
        return [
            sample(f32[2, 3], low=(1, 0), high=(0, 2)),
            sample(bf16[_N, 3], low=(0, 0), high=(_N, 0), value=float("-inf")),
            sample(i32[2], low=(0,), high=(0,), value=7),
            error(RankError, f32[2], low=(0, 0), high=(1, 1)),
            error(ShapeError, f32[2], low=(-1,), high=(0,)),
            error(DTypeError, i32[2], low=(1,), high=(0,), value=0.5),
        ]


@register
class Copy(Movement):
    """x in storage of its own: for readers of a value whose storage a successor takes over."""

    name = "copy"
    takes_encoded = True

    def types(self, xs: Sequence[Type], a: Attrs) -> tuple[Type, ...]:
        return tensors(self.name, xs)

    def rule(self, xs: Sequence[Type], a: Attrs) -> Rule:
        (x,) = tensors(self.name, xs)
        return Rule((axis_letters(x.rank),), (axis_letters(x.rank),)).moves()

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        return (moved_parts(xs[0], lambda part: xp.asarray(part, copy=True)),)

    def samples(self) -> Sequence[Sample]:
        encoded = f32[3, 8].with_encoding(_INT8_ROWS)
        return [sample(f32[2, 3]), sample(bool_[_N]), sample(encoded)]


def permute_dims(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Dimension i of the result is dimension `axes[i]` of x."""
    return active().tensor("permute_dims", x, axes=axes)


def broadcast_to(x: Tensor, shape: tuple[Dim, ...]) -> Tensor:
    """x repeated along dimensions of size one up to `shape`."""
    return active().tensor("broadcast_to", x, shape=shape)


def slice(x: Tensor, start: tuple[Dim, ...], size: tuple[Dim, ...]) -> Tensor:
    """`size[i]` elements from `start[i]` on; `x[2:5]` says the same."""
    return active().tensor("slice", x, start=start, size=size)


def concat(xs: Sequence[Tensor], axis: int) -> Tensor:
    """The tensors one after the other along `axis`."""
    return active().tensor("concat", *xs, axis=axis)


def pad(x: Tensor, low: tuple[Dim, ...], high: tuple[Dim, ...], value: Scalar = 0) -> Tensor:
    """x surrounded by `value`."""
    return active().tensor("pad", x, low=low, high=high, value=value)


def copy(x: Tensor) -> Tensor:
    """x in storage of its own."""
    return active().tensor("copy", x)
