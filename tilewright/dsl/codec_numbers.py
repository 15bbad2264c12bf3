"""Quantized values and their codes: integers, minifloats, block floats, codebooks.

All functions work on float64; scales, zeros and tables come out as float64 numbers that float32
can hold, so that what is decoded later is what the codes were chosen for.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilewright.dsl.encoding import BlockFloat, Codebook, FloatFormat, IntFormat, Quantized
from tilewright.dsl.errors import EncodingError

Array = NDArray[Any]
Parts = dict[str, Array]

_FINITE_CODES = {(4, 3): 127, (5, 2): 124}
"""Non-negative finite codes where some stand for NaN or infinity: the OCP formats E4M3 and E5M2.

Every other minifloat has finite codes only, as the OCP microscaling formats do.
"""


def quantize(x: Array, enc: Quantized) -> Parts:
    """Codes, scale (and zero, table) of `x`.

    A group's scale is what maps its largest magnitude to the largest code; 1 where that is zero. A
    group with a NaN or an infinity gets the scale NaN, and so decodes to NaN throughout. Split
    codes take the next power of two, no smaller than the least normal float32: with that, E4M7
    holds what bf16 does.
    """
    groups = _grouped(x, enc)
    match enc.format:
        case IntFormat(bits) if not enc.symmetric:
            parts = _offset_codes(groups, enc.axis, 2**bits - 1)
        case IntFormat(bits):
            limit = 2 ** (bits - 1) - 1
            parts = _signed_codes(groups, limit, _scale(groups, enc.axis, limit))
        case BlockFloat(bits):
            limit = 2 ** (bits - 1) - 1
            parts = _signed_codes(groups, limit, _power_of_two(_scale(groups, enc.axis, limit)))
        case FloatFormat() as fmt:
            scale = _scale(groups, enc.axis, minifloats(fmt)[-1])
            split = enc.packing == "split"
            parts = _float_codes(groups, fmt, _power_of_two(scale) if split else scale)
        case Codebook(bits):
            parts = _table_codes(groups, 2**bits, _scale(groups, enc.axis, 1.0))
    parts |= _packed(parts["codes"].reshape(x.shape), enc)
    for name in ("scale", "zero"):
        if name in parts:
            parts[name] = np.squeeze(parts[name], axis=enc.axis + 1)
    return parts


def dequantize(parts: Parts, enc: Quantized) -> Array:
    """The values that codes stand for, in float64."""
    codes = _unpacked(parts, enc)
    match enc.format:
        case FloatFormat() as fmt:
            values = _signed_minifloats(fmt)[codes]
        case Codebook(bits):
            if codes.size and int(codes.max()) >= 1 << bits:
                raise EncodingError(f"a code of {enc} lies outside its table")
            values = parts["table"].astype(np.float64)[codes]
        case _:
            values = codes.astype(np.float64)
    extent = codes.shape[enc.axis]
    group = extent if enc.group is None else enc.group
    if "zero" in parts:
        values = values - np.repeat(parts["zero"].astype(np.float64), group, axis=enc.axis)
    with np.errstate(invalid="ignore"):
        return values * np.repeat(parts["scale"].astype(np.float64), group, axis=enc.axis)


@cache
def minifloats(fmt: FloatFormat) -> Array:
    """The finite non-negative values of a minifloat, in the order of their codes."""
    key = (fmt.exponent, fmt.mantissa)
    code = np.arange(_FINITE_CODES.get(key, 1 << sum(key)))
    exponent, fraction = code >> fmt.mantissa, code & (2**fmt.mantissa - 1)
    bias = 2 ** (fmt.exponent - 1) - 1
    significand = fraction / 2**fmt.mantissa + (exponent > 0)
    return np.ldexp(significand, np.maximum(exponent, 1) - bias)


@cache
def _signed_minifloats(fmt: FloatFormat) -> Array:
    """Every code's value; NaN for the codes that are not finite, and for bytes that are no code."""
    half = 2 ** (fmt.exponent + fmt.mantissa)
    table = np.full(max(256, 2 * half), np.nan)
    positive = minifloats(fmt)
    table[: len(positive)] = positive
    table[half : half + len(positive)] = -positive
    return table


def _grouped(x: Array, enc: Quantized) -> Array:
    """`x` with the encoded axis split into groups and members."""
    extent = x.shape[enc.axis]
    split = (1, extent) if enc.group is None else (extent // enc.group, enc.group)
    return x.reshape(*x.shape[: enc.axis], *split, *x.shape[enc.axis + 1 :])


def _scale(groups: Array, axis: int, limit: float) -> Array:
    largest = np.max(np.abs(groups), axis=axis + 1, keepdims=True, initial=0.0)
    return _usable(largest / limit)


def _usable(scale: Array) -> Array:
    """Rounded to float32; 1 in place of zero, NaN in place of infinity."""
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = scale.astype(np.float32).astype(np.float64)
    return np.where(rounded == 0.0, 1.0, np.where(np.isfinite(rounded), rounded, np.nan))


def _power_of_two(scale: Array) -> Array:
    """The smallest normal float32 power of two that is not below; NaN stays."""
    fraction, exponent = np.frexp(np.where(np.isnan(scale), 1.0, scale))
    exponent = np.clip(exponent - (fraction == 0.5), -126, 127)
    return np.where(np.isnan(scale), np.nan, np.ldexp(1.0, exponent))


def _ratio(x: Array, scale: Array) -> Array:
    """x / scale, and 0 where that is NaN (the scale says so already)."""
    with np.errstate(invalid="ignore", over="ignore"):
        found = x / scale
    return np.where(np.isnan(found), 0.0, found)


def _signed_codes(groups: Array, limit: int, scale: Array) -> Parts:
    codes = np.clip(np.rint(_ratio(groups, scale)), -limit, limit)
    return {"codes": codes.astype(np.int8), "scale": scale}


def _offset_codes(groups: Array, axis: int, limit: int) -> Parts:
    """The range is widened to hold zero, which then has an exact code."""
    low = np.min(groups, axis=axis + 1, keepdims=True, initial=0.0)
    high = np.max(groups, axis=axis + 1, keepdims=True, initial=0.0)
    with np.errstate(invalid="ignore", over="ignore"):
        scale = _usable((high - low) / limit)
    zero = np.clip(np.rint(_ratio(-low, scale)), 0, limit)
    codes = np.clip(np.rint(_ratio(groups, scale)) + zero, 0, limit)
    return {"codes": codes.astype(np.uint8), "scale": scale, "zero": zero}


def _float_codes(groups: Array, fmt: FloatFormat, scale: Array) -> Parts:
    """Round to nearest, ties to the even code; beyond the largest value, the largest."""
    table = minifloats(fmt)
    middles = (table[:-1] + table[1:]) / 2
    size = np.abs(_ratio(groups, scale))
    below, above = (np.searchsorted(middles, size, side) for side in ("left", "right"))
    codes = np.where(below % 2 == 0, below, above)
    sign = np.signbit(groups).astype(np.int64) << (fmt.exponent + fmt.mantissa)
    return {"codes": (codes | sign).astype(np.uint16), "scale": scale}


def _table_codes(groups: Array, count: int, scale: Array) -> Parts:
    """The table holds equally spaced quantiles of the scaled values, from least to greatest."""
    ratio = _ratio(groups, scale)
    at = np.linspace(0.0, 1.0, count)
    table = np.quantile(ratio, at) if ratio.size else np.zeros(count)
    table = table.astype(np.float32).astype(np.float64)
    codes = np.searchsorted((table[:-1] + table[1:]) / 2, ratio, "left")
    return {"codes": codes.astype(np.uint8), "scale": scale, "table": table}


def _packed(codes: Array, enc: Quantized) -> Parts:
    """The components that hold codes, one of which may be 16 bits long here."""
    match enc.packing:
        case "nibbles":
            return {"codes": _paired(codes, enc.axis)}
        case "split":
            return {"codes": (codes >> 4).astype(np.uint8), "low": _paired(codes, enc.axis)}
        case "plain":
            return {"codes": codes if codes.dtype == np.int8 else codes.astype(np.uint8)}


def _unpacked(parts: Parts, enc: Quantized) -> Array:
    match enc.packing:
        case "nibbles":
            return _unpaired(parts["codes"], enc)
        case "split":
            return (parts["codes"].astype(np.uint16) << 4) | _unpaired(parts["low"], enc)
        case "plain":
            return parts["codes"]


def _paired(codes: Array, axis: int) -> Array:
    """Two codes a byte along the axis, the first in the low half."""
    bits = np.moveaxis(codes, axis, -1).astype(np.uint8) & 0xF
    return np.moveaxis(bits[..., 0::2] | (bits[..., 1::2] << 4), -1, axis)


def _unpaired(packed: Array, enc: Quantized) -> Array:
    halves = np.moveaxis(packed, enc.axis, -1)
    pairs = np.stack([halves & 0xF, halves >> 4], axis=-1)
    codes = pairs.reshape(*halves.shape[:-1], 2 * halves.shape[-1])
    if enc.symmetric and isinstance(enc.format, IntFormat | BlockFloat):
        codes = (codes.astype(np.int8) ^ 8) - 8
    return np.moveaxis(codes, -1, enc.axis)
