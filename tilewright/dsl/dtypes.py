"""Number formats: what the numbers of a tensor mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import ml_dtypes
import numpy as np

from tilewright.dsl.errors import DTypeError

if TYPE_CHECKING:
    from tilewright.dsl.dims import Dim
    from tilewright.dsl.types import TensorType

Kind = Literal["float", "int", "uint", "bool"]


@dataclass(frozen=True, slots=True)
class DType:
    """A number format. `f32[2, rows]` is the dense, replicated tensor type of that shape."""

    name: str
    kind: Kind
    bits: int
    mantissa: int = 0
    """Explicit mantissa bits of a float; 0 for the other kinds."""

    def __getitem__(self, dims: Dim | tuple[Dim, ...]) -> TensorType:
        """`f32[8, 4]`, `f32[rows, 4]`, `f32[()]` for a scalar."""
        from tilewright.dsl.dims import extent
        from tilewright.dsl.types import TensorType

        shape = dims if isinstance(dims, tuple) else (dims,)
        return TensorType(tuple(map(extent, shape)), self)

    def __str__(self) -> str:
        return self.name

    @property
    def is_float(self) -> bool:
        """True for every floating-point format."""
        return self.kind == "float"

    @property
    def is_integer(self) -> bool:
        """True for signed and unsigned integers, not for bool."""
        return self.kind in ("int", "uint")

    @property
    def itemsize(self) -> int:
        """Bytes of one stored element (bool takes a whole byte)."""
        return max(1, self.bits // 8)

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The NumPy (or ml_dtypes) type that stores it."""
        return _NUMPY[self.name]

    @property
    def unit_roundoff(self) -> float:
        """Largest relative error of one rounding; 0 where arithmetic is exact."""
        return 2.0 ** -(self.mantissa + 1) if self.is_float else 0.0

    @property
    def accumulator(self) -> DType:
        """The format that sums of this one are kept in: f32 for short floats, i32 for i8 and u8."""
        if self.is_float and self.bits < 32:
            return f32
        return i32 if self.bits == 8 and self.is_integer else self


f64 = DType("f64", "float", 64, 52)
f32 = DType("f32", "float", 32, 23)
f16 = DType("f16", "float", 16, 10)
bf16 = DType("bf16", "float", 16, 7)
f8e4m3 = DType("f8e4m3", "float", 8, 3)
f8e5m2 = DType("f8e5m2", "float", 8, 2)
f8e8m0 = DType("f8e8m0", "float", 8, 0)
i64 = DType("i64", "int", 64)
i32 = DType("i32", "int", 32)
i8 = DType("i8", "int", 8)
u32 = DType("u32", "uint", 32)
u8 = DType("u8", "uint", 8)
bool_ = DType("bool", "bool", 8)

ALL = (f64, f32, f16, bf16, f8e4m3, f8e5m2, f8e8m0, i64, i32, i8, u32, u8, bool_)
BY_NAME = {dtype.name: dtype for dtype in ALL}

_NUMPY: dict[str, np.dtype[np.generic]] = {
    "f64": np.dtype(np.float64),
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "f8e4m3": np.dtype(ml_dtypes.float8_e4m3fn),
    "f8e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "f8e8m0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "i64": np.dtype(np.int64),
    "i32": np.dtype(np.int32),
    "i8": np.dtype(np.int8),
    "u32": np.dtype(np.uint32),
    "u8": np.dtype(np.uint8),
    "bool": np.dtype(np.bool_),
}
_FROM_NUMPY = {numpy: BY_NAME[name] for name, numpy in _NUMPY.items()}


def from_numpy(dtype: np.dtype[np.generic]) -> DType:
    """The format that a NumPy dtype stores. Raises DTypeError where we have none."""
    found = _FROM_NUMPY.get(dtype.newbyteorder("="))
    if found is None:
        raise DTypeError(f"no number format for numpy dtype {dtype}", fix=f"use one of {names()}")
    return found


def names() -> str:
    """All format names, for messages."""
    return ", ".join(dtype.name for dtype in ALL)
