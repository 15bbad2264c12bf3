"""Rows in groups, each multiplied by a matrix of its own: the experts of a mixture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tilewright.dsl.attrs import Attrs, AttrSpec
from tilewright.dsl.builder import active
from tilewright.dsl.dims import Dim, dim, known_eq
from tilewright.dsl.dtypes import bf16, f32, i32, i64
from tilewright.dsl.errors import DTypeError, IndexOutOfRange, RankError, ShapeError
from tilewright.dsl.op import (
    OpDef,
    Sample,
    error,
    need_float,
    register,
    same_dtype,
    sample,
    tensors,
)
from tilewright.dsl.sharding import Letters, Rule
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.types import TensorType, Type, shape_text

_N = dim("n", 6, 64)


@register
class GroupedMatMul(OpDef):
    """x [m, k], whose rows lie group after group, by w [groups, k, n]: [m, n].

    The first `counts[0]` rows are multiplied by w[0], the next `counts[1]` by w[1], and so on; rows
    beyond the counts are 0, whatever x holds there. `transpose_w` reads w as [groups, n, k].
    Counts below 0, or that reach beyond m together, are an error in checked evaluation; kernels
    take them as 0, and stop at m. Sums of short floats are kept in f32. Linear in x and in w.

    The form is that of MegaBlocks (Gale et al., 2023): no capacity, no padding of a group.
    """

    name = "grouped_matmul"
    operands = ("x", "w", "counts")
    attrs = {"transpose_w": AttrSpec("bool", False)}

    def types(self, xs: Sequence[Type], a: Attrs) -> tuple[Type, ...]:
        x, w, counts = tensors(self.name, xs)
        if (x.rank, w.rank, counts.rank) != (2, 3, 1):
            shapes = ", ".join(shape_text(t.shape) for t in (x, w, counts))
            raise RankError(
                f"grouped_matmul takes x [m, k], w [groups, k, n], counts [groups], got {shapes}",
                fix="reshape x to one row for each token",
            )
        same_dtype(self.name, (x, w))
        need_float(self.name, x)
        if counts.dtype not in (i32, i64):
            raise DTypeError(
                f"grouped_matmul: counts are i32 or i64, got {counts.dtype}", fix="cast them"
            )
        inner, columns = _sides(w, a)
        if not (known_eq(x.shape[1], inner) and known_eq(w.shape[0], counts.shape[0])):
            raise ShapeError(
                f"grouped_matmul: x {shape_text(x.shape)}, w {shape_text(w.shape)} and counts "
                f"{shape_text(counts.shape)} do not fit: k, or the groups, differ",
                fix="transpose_w=True reads w as [groups, n, k]",
            )
        return (TensorType((x.shape[0], columns), x.dtype),)

    def rule(self, xs: Sequence[Type], a: Attrs) -> Rule:
        w: Letters = ("g", "n", "k") if a.bool("transpose_w") else ("g", "k", "n")
        rule = Rule((("m", "k"), w, ("g",)), (("m", "n"),)).reduces("sum").product(0, 1)
        return rule.keep_whole("m", "g")

    def check_values(self, xs: Sequence[Any], a: Attrs) -> None:
        rows, counts = xs[0].shape[0], xs[2]
        if counts.size and (counts.min() < 0 or sum(counts.tolist()) > rows):
            raise IndexOutOfRange(
                f"grouped_matmul: the counts {counts.tolist()} are not those of {rows} rows",
                fix="kernels stop at the last row; the checked evaluation refuses them",
            )

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        x, w, counts = xs
        if a.bool("transpose_w"):
            w = xp.matrix_transpose(w)
        parts: list[Any] = []
        start, rows = 0, x.shape[0]
        for group, count in enumerate(counts.tolist()):
            end = min(start + max(count, 0), rows)
            parts.append(xp.matmul(x[start:end], w[group]))
            start = end
        parts.append(xp.zeros((rows - start, w.shape[2]), dtype=x.dtype))
        return (xp.concat(parts, axis=0),)

    def flops(self, xs: Sequence[Type], a: Attrs, out: Sequence[Type]) -> Dim:
        """Of all rows: what is counted is known at run time alone."""
        x, w, _ = tensors(self.name, xs)
        return 2 * x.numel * _sides(w, a)[1]

    def samples(self) -> Sequence[Sample]:
        fills = ("normal", "normal", "index")
        x, w = f32[6, 4], f32[3, 4, 5]
        return [
            sample(x, w, i32[3], fills=fills, below=3),
            sample(bf16[_N, 4], bf16[3, 2, 4], i64[3], fills=fills, below=3, transpose_w=True),
            sample(f32[2, 0], f32[1, 0, 3], i32[1], fills=fills, below=3),
            error(RankError, f32[2, 6, 4], w, i32[3]),
            error(ShapeError, x, w, i32[4]),
            error(ShapeError, x, w, i32[3], transpose_w=True),
            error(DTypeError, x, bf16[3, 4, 5], i32[3]),
            error(DTypeError, x, w, f32[3]),
            error(DTypeError, i32[6, 4], i32[3, 4, 5], i32[3]),
        ]


def _sides(w: TensorType, a: Attrs) -> tuple[Dim, Dim]:
    """The inner dimension and the columns."""
    _, inner, columns = w.shape
    return (columns, inner) if a.bool("transpose_w") else (inner, columns)


def grouped_matmul(x: Tensor, w: Tensor, counts: Tensor, *, transpose_w: bool = False) -> Tensor:
    """Rows of x, group after group, by the matrix of their group; rows beyond the counts are 0."""
    return active().tensor("grouped_matmul", x, w, counts, transpose_w=transpose_w)
