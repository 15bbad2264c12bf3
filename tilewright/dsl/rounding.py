"""From float64 to a number format with a single rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilewright.dsl.dtypes import DType

Array = NDArray[Any]
_BY_NUMPY = ("f64", "f32", "f16")


def rounded(x: Array, dtype: DType) -> Array:
    """`x` in the storage of `dtype`: floats to nearest even, integers wrapped.

    ml_dtypes converts float64 by way of float32, which would round twice; so its formats get a
    float32 that is rounded to odd first (Boldo and Melquiond, 2008).
    """
    if x.dtype == dtype.numpy:
        return x
    with np.errstate(over="ignore", invalid="ignore"):
        if not dtype.is_float or dtype.name in _BY_NUMPY or x.dtype != np.float64:
            return x.astype(dtype.numpy)
        return _to_odd(x).astype(dtype.numpy)


def _to_odd(x: Array) -> NDArray[np.float32]:
    near = np.asarray(x.astype(np.float32))
    back = near.astype(np.float64)
    bits = near.view(np.int32)
    inexact = (back != x) & ~np.isnan(x)
    away = inexact & (np.abs(back) > np.abs(x))
    odd = np.where(inexact, (bits - away) | 1, bits)
    return odd.astype(np.int32).view(np.float32)
