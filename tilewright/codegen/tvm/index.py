"""Indices of kernel values: where each axis stands, and which axis the vector runs along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tvm import tirx

from tilewright.codegen import places
from tilewright.codegen.tvm.emit import Expr, KernelBuilder, i64
from tilewright.dsl.dims import Dim, DimOp, Operation, Symbol, arithmetic, fold
from tilewright.dsl.types import Shape


class NeedsScalar(Exception):  # a request to the loop that asked, not a mistake
    """A value has no vector form here; the loop is emitted again, one element at a time."""


@dataclass(frozen=True, slots=True)
class Ix:
    """One axis of an index: lane l of the vector stands at `base + step * l`.

    `low` and `high` bound the places of all lanes, `unit` divides `base`, where these are known
    when the kernel is built; they decide which piece of a concatenation is read, and whether a
    vector crosses the border of a merged axis.
    """

    base: Expr
    step: int = 0
    low: int | None = None
    high: int | None = None
    unit: int = 1

    def moved(self, by: Expr) -> Ix:
        """The same axis, `by` places further on."""
        if isinstance(by, int) and by == 0:
            return self
        if not isinstance(by, int):
            return replace(self, base=self.base + by, low=None, high=None, unit=1)
        low = None if self.low is None else self.low + by
        high = None if self.high is None else self.high + by
        unit = self.unit if by % self.unit == 0 else 1
        return Ix(self.base + by, self.step, low, high, unit)


Index = tuple[Ix, ...]
ZERO = Ix(0, 0, 0, 1)
ARITHMETIC: Mapping[DimOp, Operation[Expr]] = arithmetic(
    smaller=tirx.Min, larger=tirx.Max, floordiv=tirx.floordiv, mod=tirx.floormod
)
"""What a dimension's operators do to expressions."""


def dim_expr(kernel: KernelBuilder, size: Dim) -> Expr:
    """A dimension as an int, or as an int64 expression over the kernel's symbols."""
    if isinstance(size, int):
        return size

    def symbol(s: Symbol) -> Any:
        return kernel.symbol(s.name)

    return fold(size, i64, symbol, ARITHMETIC)


def times(a: Expr, b: Expr) -> Expr:
    """a * b, folded where one is a known 0 or 1."""
    for one, other in ((a, b), (b, a)):
        if isinstance(one, int) and one in (0, 1):
            return other if one else 0
    return a * b


def plus(a: Expr, b: Expr) -> Expr:
    """a + b, folded where one is a known 0."""
    if isinstance(a, int) and a == 0:
        return b
    return a if isinstance(b, int) and b == 0 else a + b


def strides(kernel: KernelBuilder, shape: Sequence[Dim]) -> list[Expr]:
    """Row-major strides in elements."""
    found: list[Expr] = []
    stride: Dim = 1
    for size in reversed(shape):
        found.append(kernel.let(dim_expr(kernel, stride), "stride"))
        stride = stride * size
    return found[::-1]


def unflatten(kernel: KernelBuilder, flat: Expr, shape: Shape) -> tuple[Expr, ...]:
    """The index whose row-major place in `shape` is `flat`; axes of size one cost nothing."""

    def parted(flat: Expr, size: Dim) -> tuple[Expr, Expr]:
        return split(kernel, flat, dim_expr(kernel, size))

    return places.unflatten(flat, shape, 0, parted)


def split(kernel: KernelBuilder, place: Expr, size: Expr) -> tuple[Expr, Expr]:
    """Quotient and rest of a place. Of no places (size 0) none is divided, so by 1."""
    whole = i64(size)
    if isinstance(whole, tirx.IntImm) and whole.value == 0:
        whole = i64(1)
    rest = kernel.let(tirx.truncmod(i64(place), whole), "at")
    return kernel.let(tirx.truncdiv(i64(place), whole), "rest"), rest


def flatten(kernel: KernelBuilder, index: Sequence[Expr], shape: Sequence[Dim]) -> Expr:
    """The row-major place of an index in `shape`."""
    flat: Expr = 0
    for at, size in zip(index, shape, strict=True):
        flat = plus(times(flat, dim_expr(kernel, size)), at)
    return flat
