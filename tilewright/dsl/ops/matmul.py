"""Matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from tilewright.dsl.attrs import Attrs, AttrSpec
from tilewright.dsl.broadcast import broadcast_shapes
from tilewright.dsl.builder import active
from tilewright.dsl.dims import Dim, dim, known_eq, known_le
from tilewright.dsl.dtypes import DType, bf16, bool_, f16, f32, f64, i8, i32, i64, u8
from tilewright.dsl.errors import DTypeError, RankError, ShapeError
from tilewright.dsl.op import OpDef, Sample, error, register, same_dtype, sample, tensors
from tilewright.dsl.sharding import Letters, Rule, broadcast_rule
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.types import TensorType, Type, shape_text

_N = dim("n", 1, 64)
_LONGEST = {i8: (2**31 - 1) // 128**2, u8: (2**31 - 1) // 255**2}
"""The longest sum of products that cannot overflow i32."""


@register
class MatMul(OpDef):
    """`a @ b` over the last two dimensions; leading dimensions broadcast.

    `transpose_a` reads a as [..., k, m], `transpose_b` reads b as [..., n, k]. `out_dtype` is the
    operands' format (for 8-bit integers: i32) or the format that their sums are kept in. Sums of
    short floats are kept in f32; sums of 8-bit integers in i32, where the inner dimension is proved
    short enough; wider integers wrap. Linear in each operand.
    """

    name = "matmul"
    operands = ("a", "b")
    attrs = {
        "transpose_a": AttrSpec("bool", False),
        "transpose_b": AttrSpec("bool", False),
        "out_dtype": AttrSpec("dtype", None, optional=True),
    }

    def types(self, xs: Sequence[Type], a: Attrs) -> tuple[Type, ...]:
        left, right = tensors(self.name, xs)
        for operand in (left, right):
            if operand.rank < 2:
                raise RankError(
                    f"matmul takes matrices, got {shape_text(operand.shape)}",
                    fix="reshape a vector to [1, k] or [k, 1]",
                )
        same_dtype(self.name, (left, right))
        rows, inner, columns = product_dims(left, right, a)
        dtype = self._out_dtype(left.dtype, inner, a)
        batch = broadcast_shapes(self.name, [left.shape[:-2], right.shape[:-2]])
        return (TensorType((*batch, rows, columns), dtype),)

    def _out_dtype(self, dtype: DType, inner: Dim, a: Attrs) -> DType:
        if dtype == bool_:
            raise DTypeError("matmul needs numbers, got bool", fix="cast both to i32")
        longest = _LONGEST.get(dtype)
        if longest is not None and not known_le(inner, longest):
            raise ShapeError(
                f"matmul: sums of {inner} products of {dtype} may overflow i32",
                fix=f"split the inner dimension into parts of at most {longest}",
            )
        legal = {dtype.accumulator} if longest is not None else {dtype, dtype.accumulator}
        wanted = a["out_dtype"]
        chosen = a.dtype("out_dtype") if wanted is not None else self._default(dtype)
        if chosen not in legal:
            raise DTypeError(f"matmul of {dtype} cannot have {chosen} results", fix="cast them")
        return chosen

    def _default(self, dtype: DType) -> DType:
        return dtype.accumulator if dtype in _LONGEST else dtype

    def rule(self, xs: Sequence[Type], a: Attrs) -> Rule:
        left, right = tensors(self.name, xs)
        batches = [left.shape[:-2], right.shape[:-2]]
        lead = broadcast_rule(batches, broadcast_shapes(self.name, batches))
        x: Letters = ("k", "m") if a.bool("transpose_a") else ("m", "k")
        y: Letters = ("n", "k") if a.bool("transpose_b") else ("k", "n")
        operands = ((*lead.operands[0], *x), (*lead.operands[1], *y))
        result = (*lead.results[0], "m", "n")
        return Rule(operands, (result,)).reduces("sum").product()

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        (result,) = tensors(self.name, out)
        left, right = xs
        if result.dtype.is_integer:
            left, right = (xp.astype(x, result.dtype.numpy) for x in (left, right))
        if a.bool("transpose_a"):
            left = xp.matrix_transpose(left)
        if a.bool("transpose_b"):
            right = xp.matrix_transpose(right)
        return (_product(xp, left, right),)

    def flops(self, xs: Sequence[Type], a: Attrs, out: Sequence[Type]) -> Dim:
        left, right = tensors(self.name, xs)
        (result,) = tensors(self.name, out)
        return 2 * result.numel * product_dims(left, right, a)[1]

    def samples(self) -> Sequence[Sample]:
        return [
            sample(f32[2, 3], f32[3, 4]),
            sample(f32[3, 2], f32[4, 3], transpose_a=True, transpose_b=True),
            sample(bf16[2, _N, 5], bf16[5, 3], out_dtype=f32),
            sample(f16[2, 1, 3, _N], f16[4, _N, 2]),
            sample(i8[3, 40], i8[2, 40], transpose_b=True),
            sample(i64[2, 3], i64[3, 2]),
            sample(f32[2, 0], f32[0, 3]),
            error(RankError, f32[3], f32[3, 4]),
            error(ShapeError, f32[2, 3], f32[4, 3]),
            error(ShapeError, f32[2, 3, 4], f32[3, 4, 5]),
            error(ShapeError, i8[2, 140000], i8[140000, 2]),
            error(DTypeError, f32[2, 3], bf16[3, 4]),
            error(DTypeError, f32[2, 3], f32[3, 4], out_dtype=f64),
            error(DTypeError, bool_[2, 3], bool_[3, 4]),
            error(DTypeError, i32[2, 3], i32[3, 4], out_dtype=i8),
        ]


def _product(xp: Any, left: Any, right: Any) -> Any:
    """The product in the form that is fastest on an array library with BLAS: one large product
    where the right operand is a matrix, else products whose right operands are contiguous (small
    ones with a transposed operand can take a hundred times as long with several threads).
    """
    if right.ndim == 2 and left.ndim > 2:
        rows = xp.reshape(left, (-1, left.shape[-1])) if left.size else left
        return xp.reshape(xp.matmul(rows, right), (*left.shape[:-1], right.shape[-1]))
    if right.ndim > 2 and isinstance(right, np.ndarray):
        right = np.ascontiguousarray(cast("np.ndarray[Any, Any]", right))
    return xp.matmul(left, right)


def product_dims(left: TensorType, right: TensorType, a: Attrs) -> tuple[Dim, Dim, Dim]:
    """Rows, inner dimension and columns of a product. Raises ShapeError where they do not meet."""
    *_, rows, inner = left.shape
    *_, other, columns = right.shape
    if a.bool("transpose_a"):
        rows, inner = inner, rows
    if a.bool("transpose_b"):
        other, columns = columns, other
    if not known_eq(inner, other):
        raise ShapeError(
            f"matmul: inner dimensions {inner} and {other} differ "
            f"({shape_text(left.shape)} by {shape_text(right.shape)})"
        )
    return rows, inner, columns


def matmul(
    a: Tensor,
    b: Tensor,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    out_dtype: DType | None = None,
) -> Tensor:
    """`a @ b`, with either operand transposed and, if asked, sums left in the wider format."""
    return active().tensor(
        "matmul", a, b, transpose_a=transpose_a, transpose_b=transpose_b, out_dtype=out_dtype
    )
