"""Matrices of bf16 in 12 bits an element, in integers alone: fast."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilewright.dsl.codec_numbers import dequantize, quantize
from tilewright.dsl.dtypes import bf16
from tilewright.dsl.encoding import SHORT
from tilewright.dsl.rounding import rounded

Array = NDArray[Any]
Parts = dict[str, Array]

_BLOCK = 1 << 19
"""Elements at a time: what is computed for them stays in the cache."""

_MANTISSA = 7
_CODES = 15
"""The exponent of the largest codes."""


def shorten(x: Array) -> Parts:
    """The components of bf16 [rows, columns] stored SHORT; `columns` is even.

    The exponents of a row become codes by one subtraction, the mantissas stay. Rows of zeros, of
    numbers that the least scale is for, and of NaN or infinity take the general way.
    """
    bits = np.ascontiguousarray(x).view(np.uint16)
    rows, columns = bits.shape
    high, low = np.empty((rows, columns), np.uint8), np.empty((rows, columns // 2), np.uint8)
    scale = np.empty((rows, 1))
    for here in _blocks(rows, columns):
        codes, base = _codes(bits[here])
        high[here] = codes >> 4
        pairs = codes.view(np.uint32)
        low[here] = (pairs & 0xF) | (pairs >> 12 & 0xF0)
        scale[here] = np.ldexp(1.0, base.astype(np.int32) - 120)  # 2**e is the code e + 7
        for row in here.start + np.flatnonzero(_is_odd(base)):
            with np.errstate(invalid="ignore"):
                odd = quantize(x[row : row + 1].astype(np.float64), SHORT)
            high[row], low[row], scale[row] = odd["codes"], odd["low"], odd["scale"]
    return {"codes": high, "low": low, "scale": scale}


def lengthen(parts: Parts) -> Array:
    """The bf16 [rows, columns] that components stored SHORT stand for: `dequantize`, but fast."""
    high, scale = parts["codes"], parts["scale"]
    bits = np.empty(high.shape, np.uint16)
    for here in _blocks(*high.shape):
        fraction, exponent = np.frexp(scale[here])
        base = np.where(fraction == 0.5, exponent + 119, 0).astype(np.int16)
        bits[here] = _bits(_joined(high[here], parts["low"][here]), base)
        for row in here.start + np.flatnonzero(_is_odd(base)):
            odd = {name: part[row : row + 1] for name, part in parts.items()}
            bits[row] = rounded(dequantize(odd, SHORT), bf16).view(np.uint16)
    return bits.view(bf16.numpy)


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, _BLOCK // max(columns, 1))
    yield from (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def _is_odd(base: Array) -> Array:
    return (base < 1) | (base > 254 - _CODES)


def _codes(bits: Array) -> tuple[Array, Array]:
    """Codes (uint16) of rows that are not odd, and the exponents that their code 0 stands for."""
    sizes = (bits & 0x7FFF).view(np.int16)
    base = (sizes.max(axis=1, keepdims=True, initial=0) >> _MANTISSA) - _CODES
    with np.errstate(over="ignore"):
        codes = sizes - (base << _MANTISSA)
    small = np.nonzero(codes < 1 << _MANTISSA)
    codes[small] = _rounded(sizes[small], base[small[0], 0])
    return codes.view(np.uint16) | (bits >> 4 & 0x800), base


def _joined(high: Array, low: Array) -> Array:
    codes = high.astype(np.uint16) << 4
    codes[:, 0::2] |= low & 0xF
    codes[:, 1::2] |= low >> 4
    return codes


def _bits(codes: Array, base: Array) -> Array:
    """What `_codes` was given, except for what it rounded."""
    sizes = codes & 0x7FF
    bits = sizes + (base << _MANTISSA).view(np.uint16)
    small = np.nonzero(sizes < 1 << _MANTISSA)
    values = np.ldexp(sizes[small].astype(np.float32), base[small[0], 0].astype(np.int32) - 133)
    bits[small] = values.astype(bf16.numpy).view(np.uint16)
    return bits | ((codes & 0x800) << 4)


def _rounded(sizes: Array, base: Array) -> Array:
    """Codes below the least normal one: fixed point, to nearest even."""
    exponent = np.maximum(sizes >> _MANTISSA, 1)
    significand = (sizes & 0x7F) | ((sizes >= 0x80) << _MANTISSA)
    shift = np.clip(base + 1 - exponent, 1, 10)  # from ten on nothing is left of eight bits
    half = (1 << shift - 1) - 1
    return (significand + half + (significand >> shift & 1)) >> shift
