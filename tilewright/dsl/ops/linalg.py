"""Factorizations of matrices: operations that no kernel computes, and a `host` step runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tilewright.dsl import factor
from tilewright.dsl.attrs import Attrs
from tilewright.dsl.builder import active
from tilewright.dsl.dims import Dim, dim, known_eq, known_le, product
from tilewright.dsl.dtypes import bf16, f32, f64, i32
from tilewright.dsl.errors import DTypeError, RankError, ShapeError
from tilewright.dsl.op import OpDef, Sample, error, register, sample, tensors
from tilewright.dsl.sharding import Rule, axis_letters
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.types import TensorType, Type, shape_text

_N = dim("n", 1, 64)


class Factorization(OpDef):
    """A batch of matrices into two factors each. The batch may be sharded, a matrix is whole.

    Floats of 32 or 64 bits; computed in float64 and rounded once. A matrix with NaN or infinities
    gives NaN throughout.
    """

    operands = ("x",)
    is_backward_stable = True

    def matrix(self, xs: Sequence[Type]) -> TensorType:
        """The operand. Raises RankError for no matrices, DTypeError for a format not listed."""
        (x,) = tensors(self.name, xs)
        if x.rank < 2:
            raise RankError(
                f"{self.name} takes matrices, got {shape_text(x.shape)}",
                fix="reshape a vector to [n, 1]",
            )
        if x.dtype not in (f32, f64):
            raise DTypeError(f"{self.name} takes f32 or f64, got {x.dtype}", fix="cast(x, f32)")
        return x


@register
class Eigh(Factorization):
    """Eigenvalues [..., n], ascending, and eigenvectors [..., n, n] of symmetric matrices.

    Eigenvectors are columns of length one. The lower triangle is read, the upper one is not. Of
    each vector the largest component by magnitude (the first of equals) is not negative. Vectors
    of near-equal eigenvalues are ill-conditioned: any basis of their space may come out, and
    checks allow for it (see `dsl.tolerance`).
    """

    name = "eigh"

    def types(self, xs: Sequence[Type], a: Attrs) -> tuple[Type, ...]:
        x = self.matrix(xs)
        if not known_eq(x.shape[-1], x.shape[-2]):
            raise ShapeError(
                f"eigh takes square matrices, got {shape_text(x.shape)}",
                fix="x @ x.T and x.T @ x are square",
            )
        return TensorType(x.shape[:-1], x.dtype), TensorType(x.shape, x.dtype)

    def rule(self, xs: Sequence[Type], a: Attrs) -> Rule:
        batch = axis_letters(self.matrix(xs).rank - 2)
        whole = (*batch, "row", "column")
        return Rule((whole,), ((*batch, "column"), whole)).keep_whole("row", "column")

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        return factor.eigh(np.asarray(xs[0]))

    def flops(self, xs: Sequence[Type], a: Attrs, out: Sequence[Type]) -> Dim:
        """9 n^3 a matrix (Golub and Van Loan, Matrix Computations, 8.3: vectors too)."""
        x = self.matrix(xs)
        return 9 * x.numel * x.shape[-1]

    def samples(self) -> Sequence[Sample]:
        return [
            sample(f32[3, 3]),
            sample(f64[_N, 4, 4]),
            sample(f32[2, 1, 1]),
            sample(f32[2, 0, 0]),
            error(RankError, f32[3]),
            error(ShapeError, f32[3, 4]),
            error(DTypeError, bf16[3, 3]),
            error(DTypeError, i32[3, 3]),
        ]


@register
class Qr(Factorization):
    """Orthonormal columns q [..., m, n] and upper triangles r [..., n, n]: q r = x, m >= n.

    The diagonal of r is not negative, which makes both unique where columns are independent.
    """

    name = "qr"

    def types(self, xs: Sequence[Type], a: Attrs) -> tuple[Type, ...]:
        x = self.matrix(xs)
        *batch, rows, columns = x.shape
        if not known_le(columns, rows):
            raise ShapeError(
                f"qr takes matrices with at least as many rows as columns, got "
                f"{shape_text(x.shape)}",
                fix="transpose it: x.T = q r gives x = r.T q.T",
            )
        return TensorType(x.shape, x.dtype), TensorType((*batch, columns, columns), x.dtype)

    def rule(self, xs: Sequence[Type], a: Attrs) -> Rule:
        batch = axis_letters(self.matrix(xs).rank - 2)
        tall, square = (*batch, "row", "column"), (*batch, "pivot", "column")
        return Rule((tall,), (tall, square)).keep_whole("row", "column")

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        return factor.qr(np.asarray(xs[0]))

    def flops(self, xs: Sequence[Type], a: Attrs, out: Sequence[Type]) -> Dim:
        """4 n^2 (m - n / 3) a matrix (Golub and Van Loan, 5.2: q formed by reflections)."""
        *batch, rows, columns = self.matrix(xs).shape
        return 4 * product(batch) * columns * columns * (rows - columns // 3)

    def samples(self) -> Sequence[Sample]:
        return [
            sample(f32[3, 3]),
            sample(f64[_N, 5, 2]),
            sample(f32[2, 3, 4, 1]),
            sample(f32[3, 0]),
            error(RankError, f32[3]),
            error(ShapeError, f32[2, 3]),
            error(DTypeError, bf16[3, 3]),
            error(DTypeError, i32[3, 3]),
        ]


def eigh(x: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors (columns) of the lower triangles of x."""
    values, vectors = active().tensors("eigh", x)
    return values, vectors


def qr(x: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal columns and an upper triangle of non-negative diagonal whose product is x."""
    q, r = active().tensors("qr", x)
    return q, r
