"""Tracing handles: what a user's function computes with while it becomes a graph.

Operators read like mathematics; a Python scalar takes the dtype of the tensor it meets (weakly
typed), tensors among themselves never promote.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import EllipsisType
from typing import TYPE_CHECKING, NoReturn, cast

import numpy as np

from tilewright.dsl.dims import Dim, to_text
from tilewright.dsl.dtypes import DType
from tilewright.dsl.errors import DTypeError, InvalidOperand, RankError, ShapeError
from tilewright.dsl.graph import Value
from tilewright.dsl.types import CacheType, TensorType

if TYPE_CHECKING:
    from tilewright.dsl.builder import GraphBuilder

Scalar = bool | int | float
Operand = "Tensor | Scalar | DimExpr"
Index = int | slice | EllipsisType


_FROM_THE_LEFT = {"add": "add", "subtract": "sub", "multiply": "mul", "divide": "div"}
"""Operations by the names of NumPy's."""


class Handle:
    """A value of the graph under construction."""

    __slots__ = ("builder", "value")

    def __init__(self, builder: GraphBuilder, value: Value) -> None:
        self.builder = builder
        self.value = value

    def __bool__(self) -> bool:
        raise DTypeError(
            "a traced value has no truth value while the graph is built",
            fix="use where(condition, a, b)",
        )

    def __iter__(self) -> NoReturn:
        raise InvalidOperand(
            "a traced value is one value, not a list of its rows", fix="take slices: x[0], x[1:]"
        )

    def _refuse_numpy(self, *_: object, **__: object) -> NoReturn:
        raise InvalidOperand(
            "NumPy was given a traced value, which has no numbers yet",
            fix="use tilewright's operation; tilewright.constant brings an array into the graph",
        )

    __array__ = __array_ufunc__ = __array_function__ = _refuse_numpy


class Tensor(Handle):
    """A tensor of the graph under construction."""

    __slots__ = ()

    @property
    def type(self) -> TensorType:
        """Shape, dtype, placement, encoding."""
        return self.value.tensor

    @property
    def shape(self) -> tuple[Dim, ...]:
        """Dimensions: ints and expressions."""
        return self.type.shape

    @property
    def dtype(self) -> DType:
        """Number format."""
        return self.type.dtype

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return self.type.rank

    def __repr__(self) -> str:
        return f"%{self.value.name}: {self.type}"

    def _binary(self, op: str, other: object, *, swap: bool = False) -> Tensor:
        right = self.builder.lift(other, self.dtype)
        pair = (right, self) if swap else (self, right)
        return self.builder.tensor(op, *pair)

    def __array_ufunc__(self, ufunc: object, method: str, *inputs: object, **_: object) -> Tensor:
        """`np.sqrt(n) * x`: NumPy hands its scalars on the left over; all else is refused."""
        op = _FROM_THE_LEFT.get(getattr(ufunc, "__name__", ""))
        scalar = inputs[0]
        if op and method == "__call__" and isinstance(scalar, np.generic):
            return self._binary(op, cast("object", scalar), swap=True)
        self._refuse_numpy()

    def __add__(self, other: Tensor | Scalar) -> Tensor:
        return self._binary("add", other)

    def __radd__(self, other: Scalar) -> Tensor:
        return self._binary("add", other, swap=True)

    def __sub__(self, other: Tensor | Scalar) -> Tensor:
        return self._binary("sub", other)

    def __rsub__(self, other: Scalar) -> Tensor:
        return self._binary("sub", other, swap=True)

    def __mul__(self, other: Tensor | Scalar) -> Tensor:
        return self._binary("mul", other)

    def __rmul__(self, other: Scalar) -> Tensor:
        return self._binary("mul", other, swap=True)

    def __truediv__(self, other: Tensor | Scalar) -> Tensor:
        return self._binary("div", other)

    def __rtruediv__(self, other: Scalar) -> Tensor:
        return self._binary("div", other, swap=True)

    def __floordiv__(self, other: Tensor | Scalar) -> Tensor:
        return self._binary("floordiv", other)

    def __mod__(self, other: Tensor | Scalar) -> Tensor:
        return self._binary("mod", other)

    def __pow__(self, other: Tensor | Scalar) -> Tensor:
        return self._binary("pow", other)

    def __neg__(self) -> Tensor:
        return self.builder.tensor("neg", self)

    def __abs__(self) -> Tensor:
        return self.builder.tensor("abs", self)

    def __matmul__(self, other: Tensor) -> Tensor:
        return self.builder.tensor("matmul", self, other)

    def __lt__(self, other: Tensor | Scalar) -> Tensor:
        return self._binary("less", other)

    def __le__(self, other: Tensor | Scalar) -> Tensor:
        return self._binary("less_equal", other)

    def __gt__(self, other: Tensor | Scalar) -> Tensor:
        return self._binary("less", other, swap=True)

    def __ge__(self, other: Tensor | Scalar) -> Tensor:
        return self._binary("less_equal", other, swap=True)

    def __eq__(self, other: Tensor | Scalar) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]  # as NumPy's
        return self._binary("equal", other)

    def __ne__(self, other: Tensor | Scalar) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]  # as NumPy's
        return ~self._binary("equal", other)

    __hash__ = Handle.__hash__

    def __and__(self, other: Tensor | Scalar) -> Tensor:
        return self._binary("logical_and", other)

    def __or__(self, other: Tensor | Scalar) -> Tensor:
        return self._binary("logical_or", other)

    def __invert__(self) -> Tensor:
        return self.builder.tensor("logical_not", self)

    @property
    def T(self) -> Tensor:
        """The last two dimensions swapped."""
        if self.rank < 2:
            raise RankError(f"a transpose needs two dimensions, got {self.type}")
        axes = (*range(self.rank - 2), self.rank - 1, self.rank - 2)
        return self.builder.tensor("permute_dims", self, axes=axes)

    def reshape(self, *shape: Dim) -> Tensor:
        """The same elements in row-major order under another shape; one -1 is inferred."""
        return self.builder.tensor("reshape", self, shape=infer_minus_one(self.shape, shape))

    def permute_dims(self, *axes: int) -> Tensor:
        """Dimension i of the result is dimension `axes[i]` of this."""
        return self.builder.tensor("permute_dims", self, axes=axes)

    def cast(self, dtype: DType) -> Tensor:
        """Converted to another number format (nothing is emitted where it already is)."""
        return self if dtype == self.dtype else self.builder.tensor("cast", self, dtype=dtype)

    def sum(self, axis: int, *, keepdims: bool = False) -> Tensor:
        """Sum along an axis."""
        return self.builder.tensor("sum", self, axis=axis, keepdims=keepdims)

    def mean(self, axis: int, *, keepdims: bool = False) -> Tensor:
        """Mean along an axis."""
        return self.builder.tensor("mean", self, axis=axis, keepdims=keepdims)

    def max(self, axis: int, *, keepdims: bool = False) -> Tensor:
        """Largest element along an axis; NaN propagates."""
        return self.builder.tensor("max", self, axis=axis, keepdims=keepdims)

    def min(self, axis: int, *, keepdims: bool = False) -> Tensor:
        """Smallest element along an axis; NaN propagates."""
        return self.builder.tensor("min", self, axis=axis, keepdims=keepdims)

    def __getitem__(self, index: Index | tuple[Index, ...]) -> Tensor:
        """Basic slicing with steps of one; an integer drops its dimension."""
        return _slice(self, index if isinstance(index, tuple) else (index,))


class Cache(Handle):
    """A KV cache of the graph under construction. Linear: at most one op consumes it."""

    __slots__ = ()

    @property
    def type(self) -> CacheType:
        """Capacity, heads, dtype, encoding."""
        return self.value.cache

    def append(self, k: Tensor, v: Tensor, *, at: Dim) -> Cache:
        """The cache with `k`, `v` [batch, seq, heads, head_dim] written from position `at`.

        Consumes this cache: every other use must stand before.
        """
        return self.builder.cache("append", self, k, v, at=at)

    def view(self, length: Dim) -> tuple[Tensor, Tensor]:
        """The first `length` keys and values, [batch, length, heads, head_dim] each."""
        k, v = self.builder.tensors("view", self, length=length)
        return k, v


def infer_minus_one(old: Sequence[Dim], new: Sequence[Dim]) -> tuple[Dim, ...]:
    """The target shape with a single -1 replaced. Raises ShapeError where it does not divide."""
    holes = [i for i, size in enumerate(new) if isinstance(size, int) and size == -1]
    if not holes:
        return tuple(new)
    if len(holes) > 1:
        raise ShapeError("only one dimension of a reshape can be -1")
    from tilewright.dsl.dims import product, quotient

    known = product(size for i, size in enumerate(new) if i != holes[0])
    missing = quotient(product(old), known)
    if missing is None:
        sizes = ", ".join(s if isinstance(s, str) else _text(s) for s in old)
        raise ShapeError(f"cannot infer -1: [{sizes}] does not divide by {_text(known)}")
    return tuple(missing if i == holes[0] else size for i, size in enumerate(new))


def _text(size: Dim) -> str:
    return str(size) if isinstance(size, int) else to_text(size)


def _slice(x: Tensor, index: tuple[Index, ...]) -> Tensor:
    dots = sum(1 for part in index if isinstance(part, EllipsisType))
    if dots > 1 or len(index) - dots > x.rank:
        raise RankError(f"{len(index)} indices for a tensor of rank {x.rank}")
    fill = (slice(None),) * (x.rank - (len(index) - dots))
    where = next((i for i, part in enumerate(index) if isinstance(part, EllipsisType)), len(index))
    full = (*index[:where], *fill, *index[where + dots :])
    starts: list[Dim] = []
    sizes: list[Dim] = []
    kept: list[Dim] = []
    for size, part in zip(x.shape, full, strict=True):
        if isinstance(part, slice):
            start, length = _range(size, part)
            kept.append(length)
        else:
            if not isinstance(part, int):
                raise RankError("an index is an int, a slice or ...")
            start, length = (size + part if part < 0 else part), 1
        starts.append(start)
        sizes.append(length)
    out = x.builder.tensor("slice", x, start=tuple(starts), size=tuple(sizes))
    return out if len(kept) == x.rank else out.reshape(*kept)


def _range(size: Dim, part: slice) -> tuple[Dim, Dim]:
    if part.step not in (None, 1):
        raise ShapeError("slices have steps of one", fix="use gather for other steps")
    start: Dim = 0 if part.start is None else part.start
    stop: Dim = size if part.stop is None else part.stop
    start = size + start if isinstance(start, int) and start < 0 else start
    stop = size + stop if isinstance(stop, int) and stop < 0 else stop
    if isinstance(stop, int) and isinstance(size, int):
        stop = min(stop, size)
    return start, stop - start
