"""Reading and adding at indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tilewright.dsl.attrs import Attrs, AttrSpec
from tilewright.dsl.builder import active
from tilewright.dsl.cost import Cost, nbytes
from tilewright.dsl.dims import Dim, dim
from tilewright.dsl.dtypes import bf16, f32, i32, i64
from tilewright.dsl.encoding import IntFormat, Quantized
from tilewright.dsl.errors import (
    DTypeError,
    EncodingError,
    IndexOutOfRange,
    RankError,
    ShapeError,
)
from tilewright.dsl.op import OpDef, Sample, error, register, same_dtype, sample, tensors
from tilewright.dsl.ops.encoded import moved_parts, parts_of, require_whole, with_moved_axes
from tilewright.dsl.ops.shape import normal_axis
from tilewright.dsl.sharding import Letters, Rule, axis_letters
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.types import Shape, TensorType, Type, shape_text

_N = dim("n", 1, 64)


def _require_index(op: str, index: TensorType) -> None:
    if index.dtype not in (i32, i64):
        raise DTypeError(f"{op}: indices are i32 or i64, got {index.dtype}", fix="cast them")


def _spread(x: tuple[Any, ...], index: tuple[Any, ...], axis: int) -> tuple[Any, ...]:
    """`x` with its entry at `axis` replaced by all of `index`."""
    return (*x[:axis], *index, *x[axis + 1 :])


def check_indices(op: str, index: Any, extent: int) -> None:
    """Raises IndexOutOfRange unless 0 <= index < extent everywhere."""
    if index.size and (index.min() < 0 or index.max() >= extent):
        wrong = index[(index < 0) | (index >= extent)]
        raise IndexOutOfRange(
            f"{op}: index {int(wrong.flat[0])} is outside 0..{extent - 1}",
            fix="kernels clamp indices; the checked evaluation refuses them",
        )


def _part(x: Any) -> Any:
    """Any component that has the tensor's own extent outside encoded axes."""
    parts = parts_of(x)
    if parts is None:
        return x
    return parts["codes"] if "codes" in parts else parts["values"]


@register
class Gather(OpDef):
    """`x[..., index, ...]` along `axis`: the index's dimensions take the place of that one.

    Moves elements of x, so linear in it. An index out of range is an error in checked evaluation
    and clamped in kernels.
    """

    name = "gather"
    operands = ("x", "index")
    attrs = {"axis": AttrSpec("axis", 0)}
    takes_encoded = True

    def types(self, xs: Sequence[Type], a: Attrs) -> tuple[Type, ...]:
        x, index = tensors(self.name, xs)
        axis = normal_axis(self.name, a.int("axis"), x.rank)
        _require_index(self.name, index)
        if not index.is_dense:
            raise EncodingError("gather: indices are dense")
        require_whole(self.name, x.encoding, (axis,))
        added = index.rank - 1
        encoding = with_moved_axes(x.encoding, lambda i: i + added if i > axis else i)
        return (TensorType(_spread(x.shape, index.shape, axis), x.dtype, encoding=encoding),)

    def rule(self, xs: Sequence[Type], a: Attrs) -> Rule:
        x, index = tensors(self.name, xs)
        axis = normal_axis(self.name, a.int("axis"), x.rank)
        letters, places = axis_letters(x.rank), axis_letters(index.rank, "i")
        rule = Rule((letters, places), (_spread(letters, places, axis),))
        return rule.moves(0).keep_whole(letters[axis])

    def check_values(self, xs: Sequence[Any], a: Attrs) -> None:
        part = _part(xs[0])
        axis = normal_axis(self.name, a.int("axis"), part.ndim)
        check_indices(self.name, xs[1], part.shape[axis])

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        axis = normal_axis(self.name, a.int("axis"), _part(xs[0]).ndim)
        index = xs[1]

        def take(part: Any) -> Any:
            shape = _spread(part.shape, index.shape, axis)
            if part.shape[axis] == 0:
                return xp.zeros(shape, dtype=part.dtype)
            flat = xp.clip(xp.reshape(index, (-1,)), 0, part.shape[axis] - 1)
            return xp.reshape(xp.take(part, flat, axis=axis), shape)

        return (moved_parts(xs[0], take),)

    def flops(self, xs: Sequence[Type], a: Attrs, out: Sequence[Type]) -> Dim:
        return 0

    def cost(self, xs: Sequence[Type], a: Attrs, out: Sequence[Type]) -> Cost:
        """Of x only what is looked up is read."""
        return Cost(0, xs[1].nbytes + nbytes(out), nbytes(out))

    def samples(self) -> Sequence[Sample]:
        fills = ("normal", "index")
        encoded = f32[5, 8].with_encoding(Quantized(IntFormat(8), axis=1))
        return [
            sample(f32[5, 4], i32[3], fills=fills, below=5),
            sample(bf16[3, 6, 2], i64[2, _N], fills=fills, below=6, axis=1),
            sample(f32[4, 5], i32[()], fills=fills, below=5, axis=-1),
            sample(encoded, i32[2, 3], fills=fills, below=5),
            error(DTypeError, f32[5, 4], f32[3]),
            error(RankError, f32[5], i32[3], axis=1),
            error(EncodingError, encoded, i32[2], axis=1),
        ]


@register
class ScatterAdd(OpDef):
    """x, and `updates[..., i, ...]` added at `index[i]` along `axis`; equal indices add up.

    Linear in x and the updates together. An index out of range is an error in checked evaluation
    and clamped in kernels.
    """

    name = "scatter_add"
    operands = ("x", "index", "updates")
    attrs = {"axis": AttrSpec("axis", 0)}

    def types(self, xs: Sequence[Type], a: Attrs) -> tuple[Type, ...]:
        x, index, updates = tensors(self.name, xs)
        axis = normal_axis(self.name, a.int("axis"), x.rank)
        _require_index(self.name, index)
        same_dtype(self.name, (x, updates))
        wanted: Shape = _spread(x.shape, index.shape, axis)
        if updates.shape != wanted:
            raise ShapeError(
                f"scatter_add: updates are {shape_text(updates.shape)}, expected "
                f"{shape_text(wanted)}"
            )
        return (TensorType(x.shape, x.dtype),)

    def rule(self, xs: Sequence[Type], a: Attrs) -> Rule:
        x, index, _ = tensors(self.name, xs)
        axis = normal_axis(self.name, a.int("axis"), x.rank)
        letters, places = axis_letters(x.rank), axis_letters(index.rank, "i")
        updates: Letters = _spread(letters, places, axis)
        rule = Rule((letters, places, updates), (letters,)).terms(0, 2)
        return rule.keep_whole(letters[axis], *places)

    def check_values(self, xs: Sequence[Any], a: Attrs) -> None:
        axis = normal_axis(self.name, a.int("axis"), xs[0].ndim)
        check_indices(self.name, xs[1], xs[0].shape[axis])

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        x, index, updates = xs
        axis = normal_axis(self.name, a.int("axis"), x.ndim)
        made = xp.asarray(x, copy=True)
        if made.shape[axis] == 0 or index.size == 0:
            return (made,)
        flat = xp.clip(xp.reshape(index, (-1,)), 0, made.shape[axis] - 1)
        rows = xp.reshape(updates, (*x.shape[:axis], flat.size, *x.shape[axis + 1 :]))
        np.add.at(xp.moveaxis(made, axis, 0), flat, xp.moveaxis(rows, axis, 0))
        return (made,)

    def flops(self, xs: Sequence[Type], a: Attrs, out: Sequence[Type]) -> Dim:
        return tensors(self.name, xs)[2].numel

    def samples(self) -> Sequence[Sample]:
        fills = ("normal", "index", "normal")
        return [
            sample(f32[5, 4], i32[7], f32[7, 4], fills=fills, below=5),
            sample(bf16[3, 4], i64[2, _N], bf16[3, 2, _N], fills=fills, below=4, axis=1),
            sample(i32[6], i32[()], i32[()], fills=("small_int", "index", "small_int"), below=6),
            error(ShapeError, f32[5, 4], i32[7], f32[4, 7]),
            error(DTypeError, f32[5, 4], i32[7], bf16[7, 4]),
            error(DTypeError, f32[5], f32[7], f32[7]),
        ]


def gather(x: Tensor, index: Tensor, axis: int = 0) -> Tensor:
    """`x[..., index, ...]` along `axis`."""
    return active().tensor("gather", x, index, axis=axis)


def scatter_add(x: Tensor, index: Tensor, updates: Tensor, axis: int = 0) -> Tensor:
    """x with the updates added at the indices along `axis`."""
    return active().tensor("scatter_add", x, index, updates, axis=axis)
