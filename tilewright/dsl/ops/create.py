"""Tensors from nothing: filled, counted and literal ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tilewright.dsl.attrs import Attrs, AttrSpec, Data
from tilewright.dsl.builder import active
from tilewright.dsl.dims import Dim, DimExpr, dim
from tilewright.dsl.dtypes import DType, bf16, bool_, f32, from_numpy, i8, i32, i64
from tilewright.dsl.errors import DTypeError, RankError, ShapeError
from tilewright.dsl.op import OpDef, Sample, error, register, sample
from tilewright.dsl.ops.shape import concrete, normal_axis
from tilewright.dsl.sharding import Rule, axis_letters
from tilewright.dsl.tensor import Scalar, Tensor
from tilewright.dsl.types import TensorType, Type

_N = dim("n", 1, 64)


def wrapped(value: int, dtype: DType) -> int:
    """An integer modulo the range of `dtype`: integers wrap."""
    low = -(1 << (dtype.bits - 1)) if dtype.kind == "int" else 0
    return (value - low) % (1 << dtype.bits) + low


class Creation(OpDef):
    """No operands; the result is equal on all ranks."""

    operands = ()

    def rule(self, xs: Sequence[Type], a: Attrs) -> Rule:
        (out,) = self.types(xs, a)
        return Rule((), (axis_letters(out.rank if isinstance(out, TensorType) else 0),))

    def flops(self, xs: Sequence[Type], a: Attrs, out: Sequence[Type]) -> Dim:
        return 0

    def localize(self, a: Attrs, out: Sequence[Type]) -> Attrs:
        (result,) = out
        return a.replace(shape=result.shape) if isinstance(result, TensorType) else a


@register
class Full(Creation):
    """Every element is `value`: a bool, an int, a float, or a dimension's value at run time."""

    name = "full"
    attrs = {"shape": AttrSpec("dims"), "value": AttrSpec("scalar"), "dtype": AttrSpec("dtype")}

    def types(self, xs: Sequence[Type], a: Attrs) -> tuple[Type, ...]:
        dtype, value = a.dtype("dtype"), a["value"]
        if not _holds(dtype, value):
            raise DTypeError(f"full: a {dtype} tensor cannot hold {value}")
        return (TensorType(a.dims("shape"), dtype),)

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        dtype, value = a.dtype("dtype"), a["value"]
        if dtype.is_integer and isinstance(value, int):
            value = wrapped(value, dtype)
        one = xp.asarray(value, dtype=xp.float64 if dtype.is_float else dtype.numpy)
        return (xp.broadcast_to(one, concrete(a.dims("shape"))),)

    def samples(self) -> Sequence[Sample]:
        return [
            sample(shape=(2, 3), value=1.5, dtype=f32),
            sample(shape=(), value=_N, dtype=f32),
            sample(shape=(_N, 2), value=-7, dtype=i8),
            sample(shape=(4,), value=True, dtype=bool_),
            sample(shape=(2,), value=float("-inf"), dtype=bf16),
            error(DTypeError, shape=(2,), value=1.5, dtype=i32),
            error(DTypeError, shape=(2,), value=300, dtype=i8),
        ]


def _holds(dtype: DType, value: object) -> bool:
    if isinstance(value, bool) or dtype == bool_:
        return isinstance(value, bool) and dtype == bool_
    if isinstance(value, DimExpr) or dtype.is_float:
        return True
    return isinstance(value, int) and wrapped(value, dtype) == value


@register
class Iota(Creation):
    """`start` + the index along `axis`."""

    name = "iota"
    attrs = {
        "shape": AttrSpec("dims"),
        "axis": AttrSpec("axis", 0),
        "start": AttrSpec("dim", 0),
        "dtype": AttrSpec("dtype", i32),
    }

    def types(self, xs: Sequence[Type], a: Attrs) -> tuple[Type, ...]:
        normal_axis(self.name, a.int("axis"), len(a.dims("shape")))
        if a.dtype("dtype") == bool_:
            raise DTypeError("iota counts: its dtype is an integer or a float")
        return (TensorType(a.dims("shape"), a.dtype("dtype")),)

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        shape = concrete(a.dims("shape"))
        (start,) = concrete((a.dim("start"),))
        axis = normal_axis(self.name, a.int("axis"), len(shape))
        dtype = a.dtype("dtype")
        target = xp.float64 if dtype.is_float else dtype.numpy
        line = xp.astype(xp.arange(start, start + shape[axis], dtype=xp.int64), target)
        line = xp.reshape(line, (shape[axis],) + (1,) * (len(shape) - axis - 1))
        return (xp.broadcast_to(line, shape),)

    def samples(self) -> Sequence[Sample]:
        return [
            sample(shape=(5,)),
            sample(shape=(_N, 3), axis=-1, start=_N, dtype=i64),
            sample(shape=(2, 4, 3), axis=1, start=-2, dtype=f32),
            error(RankError, shape=(2,), axis=1),
            error(DTypeError, shape=(2,), dtype=bool_),
        ]


@register
class Constant(Creation):
    """A small literal tensor, its elements in row-major order."""

    name = "constant"
    attrs = {"data": AttrSpec("data"), "shape": AttrSpec("ints"), "dtype": AttrSpec("dtype")}

    def types(self, xs: Sequence[Type], a: Attrs) -> tuple[Type, ...]:
        shape, dtype = a.ints("shape"), a.dtype("dtype")
        wanted = dtype.itemsize
        for size in shape:
            wanted *= size
        given = len(a.data("data").raw)
        if given != wanted:
            raise ShapeError(f"constant: {dtype}{list(shape)} takes {wanted} bytes, got {given}")
        return (TensorType(shape, dtype),)

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        dtype = a.dtype("dtype")
        values = np.frombuffer(a.data("data").raw, dtype.numpy).reshape(a.ints("shape"))
        return (xp.asarray(values.astype(np.float64) if dtype.is_float else values),)

    def localize(self, a: Attrs, out: Sequence[Type]) -> Attrs:
        return a

    def samples(self) -> Sequence[Sample]:
        return [
            sample(data=_data(np.arange(6, dtype=np.float32)), shape=(2, 3), dtype=f32),
            sample(data=_data(np.array([True, False])), shape=(2,), dtype=bool_),
            sample(data=_data(np.array(-3, np.int64)), shape=(), dtype=i64),
            error(ShapeError, data=Data(b"\0" * 5), shape=(2,), dtype=f32),
        ]


def _data(values: np.ndarray[Any, Any]) -> Data:
    return Data(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())


def full(shape: tuple[Dim, ...], value: Scalar | DimExpr, dtype: DType) -> Tensor:
    """A tensor whose elements are all `value`."""
    return active().tensor("full", shape=shape, value=value, dtype=dtype)


def iota(shape: tuple[Dim, ...], *, axis: int = 0, start: Dim = 0, dtype: DType = i32) -> Tensor:
    """`start`, `start + 1`, ... along `axis`, equal along all other axes."""
    return active().tensor("iota", shape=shape, axis=axis, start=start, dtype=dtype)


def constant(values: object, dtype: DType | None = None) -> Tensor:
    """A literal tensor from an array or nested lists (at most 64 KiB)."""
    try:
        array = np.asarray(values, None if dtype is None else dtype.numpy)
    except (TypeError, ValueError, OverflowError) as error:
        raise DTypeError(f"the literal is no array of numbers: {error}") from error
    kind = from_numpy(array.dtype) if dtype is None else dtype
    return active().tensor("constant", data=_data(array), shape=array.shape, dtype=kind)
