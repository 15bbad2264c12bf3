"""Encoding and decoding of arrays: what every storage encoding means.

`encode_array` and `decode_components` serve compile time (weights); `encode_values` and
`decode_values` are the meaning of the operations `encode` and `decode`, with floats in float64.
What is encoded is rounded to the formats of its components, in every reading: a decoded value is a
function of the stored components alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilewright.dsl.codec_numbers import dequantize, quantize
from tilewright.dsl.codec_short import lengthen, shorten
from tilewright.dsl.codec_sparse import keep, spread
from tilewright.dsl.dims import Dim
from tilewright.dsl.dtypes import bf16
from tilewright.dsl.encoding import (
    DENSE,
    SHORT,
    BlockFloat,
    Dense,
    Encoding,
    FloatFormat,
    IntFormat,
    LowRank,
    Quantized,
    Sparse,
    Sum,
    Tiled,
    components,
)
from tilewright.dsl.errors import EncodingError
from tilewright.dsl.rounding import rounded
from tilewright.dsl.types import TensorType, shape_text

Array = NDArray[Any]
Parts = dict[str, Array]

_BLOCK = 1 << 20
"""Elements that are decoded at a time where rows can be decoded on their own."""


def encode_array(x: Array, type_: TensorType) -> Parts:
    """The component arrays of `x`, in their stored formats; `type_` has the encoding.

    Raises EncodingError where shape or encoding do not fit.
    """
    if x.shape != type_.shape:
        raise EncodingError(f"an array of shape {list(x.shape)} is no {type_}")
    short = x.dtype == bf16.numpy and is_short(type_.encoding)
    parts = encode_values(x if short else np.asarray(x, np.float64), type_)
    return {name: parts[name].astype(part.dtype.numpy) for name, part in components(type_).items()}


def decode_components(parts: Mapping[str, Array], type_: TensorType) -> Array:
    """The array of `type_.dtype` that component arrays stand for.

    Raises EncodingError where a component is missing, superfluous or of the wrong kind, or where an
    index is out of range.
    """
    wanted = components(type_)
    if set(parts) != set(wanted):
        raise EncodingError(
            f"{type_} has components {', '.join(wanted)}, got {', '.join(parts) or 'none'}"
        )
    for name, part in wanted.items():
        found = parts[name]
        if found.shape != part.shape or found.dtype != part.dtype.numpy:
            raise EncodingError(
                f"component {name} of {type_} is {found.dtype}{list(found.shape)}, "
                f"expected {part.dtype}{shape_text(part.shape)}"
            )
    if type_.dtype == bf16 and is_short(type_.encoding):
        flat = components(type_.with_encoding(SHORT))
        return lengthen({name: _untile(parts[name], part) for name, part in flat.items()})
    return rounded(decode_values(parts, type_), type_.dtype)


def row_blocks(
    parts: Mapping[str, Array], type_: TensorType
) -> Iterator[tuple[slice, Parts, TensorType]]:
    """A stored array in pieces that decode on their own: which rows, their parts and their type.

    One piece where rows have something in common besides the tiles that they lie in.
    """
    height = _rows_together(type_.encoding) if type_.rank == 2 else None
    if height is None:
        yield slice(None), dict(parts), type_
        return
    rows, columns = _sizes(type_)
    step = max(1, _BLOCK // max(1, columns) // height) * height
    for start in range(0, rows, step):
        here = slice(start, min(start + step, rows))
        block = {
            name: part[_tiles(here, height) if part.ndim == 4 else here]
            for name, part in parts.items()
        }
        yield here, block, type_.with_shape((here.stop - here.start, columns))


def _rows_together(encoding: Encoding) -> int | None:
    """How many rows lie together, each with its own scale; None for anything else."""
    match encoding:
        case Tiled(rows=rows, values=values) if _rows_together(values) == 1:
            return rows
        case Quantized(format=IntFormat() | FloatFormat() | BlockFloat(), axis=1):
            return 1
        case _:
            return None


def _tiles(rows: slice, height: int) -> slice:
    return slice(rows.start // height, -(-rows.stop // height))


def encode_values(x: Array, type_: TensorType) -> Parts:
    """Components of a float64 array, floats in float64 but rounded to what is stored.

    What is to be stored short may be bf16: then no copy in float64 is made.
    """
    wanted = components(type_)
    match type_.encoding:
        case Dense():
            parts = {"data": x}
        case Quantized() as enc:
            short = x.dtype == bf16.numpy and enc == SHORT
            parts = shorten(x) if short else quantize(x, enc)
        case Sparse() as enc:
            kept, index = keep(x, enc.pattern, enc.axis)
            parts = {**_kept_parts(kept, enc, type_), **index}
        case LowRank(rank):
            parts = _factors(x, rank)
        case Tiled() as enc:
            inner = encode_values(x, type_.with_encoding(enc.values))
            parts = {name: tile(part, wanted[name]) for name, part in inner.items()}
        case Sum(encodings):
            parts: Parts = {}
            for index, encoding in enumerate(encodings):
                of = type_.with_encoding(encoding)
                found = encode_values(x, of)
                x = x - decode_values(found, of)
                parts.update({f"part{index}_{name}": part for name, part in found.items()})
    return {name: _rounded(parts[name], part) for name, part in wanted.items()}


def decode_values(parts: Mapping[str, Array], type_: TensorType) -> Array:
    """The float64 array that components stand for."""
    match type_.encoding:
        case Dense():
            return parts["data"].astype(np.float64)
        case Quantized() as enc:
            return dequantize(dict(parts), enc)
        case Sparse() as enc:
            kept, index = _split_kept(parts, enc, type_)
            return spread(kept, index, enc.pattern, enc.axis, _sizes(type_))
        case LowRank():
            return parts["left"].astype(np.float64) @ parts["right"].astype(np.float64)
        case Tiled() as enc:
            inner = type_.with_encoding(enc.values)
            flat = {name: _untile(parts[name], t) for name, t in components(inner).items()}
            return decode_values(flat, inner)
        case Sum(encodings):
            total = np.zeros(_sizes(type_))
            for index, encoding in enumerate(encodings):
                of = type_.with_encoding(encoding)
                own = {name: parts[f"part{index}_{name}"] for name in components(of)}
                total = total + decode_values(own, of)
            return total


def tile(part: Array, tiled: TensorType) -> Array:
    """A matrix in tiles, its edge filled with zeros, in the number format that it has.

    Components of any other kind stay as they are.
    """
    if tiled.rank == part.ndim:
        return part
    panels, blocks, rows, columns = _sizes(tiled)
    edge = [(0, panels * rows - part.shape[0]), (0, blocks * columns - part.shape[1])]
    full = np.pad(part, edge)
    return full.reshape(panels, rows, blocks, columns).transpose(0, 2, 1, 3)


def is_short(encoding: Encoding) -> bool:
    """Whether matrices of bf16 are stored in 12 bits an element, in tiles or row after row."""
    return is_short(encoding.values) if isinstance(encoding, Tiled) else encoding == SHORT


def _sizes(type_: TensorType) -> tuple[int, ...]:
    return tuple(map(_size, type_.shape))


def _size(size: Dim) -> int:
    if isinstance(size, int):
        return size
    raise EncodingError(f"only arrays of known shape are encoded, got dimension {size}")


def _rounded(x: Array, part: TensorType) -> Array:
    """A float component as the float64 numbers that its format holds."""
    if not part.dtype.is_float or part.dtype.bits == 64:
        return x
    return rounded(x, part.dtype).astype(np.float64)


def _kept_type(kept: tuple[int, ...], enc: Sparse, type_: TensorType) -> TensorType:
    return TensorType(kept, type_.dtype, encoding=enc.values)


def _kept_parts(kept: Array, enc: Sparse, type_: TensorType) -> Parts:
    found = encode_values(kept, _kept_type(kept.shape, enc, type_))
    return {("values" if name == "data" else name): part for name, part in found.items()}


def _split_kept(
    parts: Mapping[str, Array], enc: Sparse, type_: TensorType
) -> tuple[Array, Mapping[str, Array]]:
    index = {name: part for name, part in parts.items() if name in ("index", "start")}
    shape = _sizes(components(type_.with_encoding(Sparse(enc.pattern, enc.axis)))["values"])
    inner = {
        ("data" if name == "values" and enc.values == DENSE else name): part
        for name, part in parts.items()
        if name not in index
    }
    return decode_values(inner, _kept_type(shape, enc, type_)), index


def _factors(x: Array, rank: int) -> Parts:
    """The best factors of that rank in the Frobenius norm (Eckart and Young 1936).

    The singular values are shared evenly; signs are such that the largest entry of every column of
    `left` is positive, so that equal matrices have equal factors on all machines.
    """
    if not np.isfinite(x).all():
        raise EncodingError("a low-rank encoding needs finite values")
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    root = np.sqrt(s[..., :rank])
    left, right = u[..., :rank] * root[..., None, :], vt[..., :rank, :] * root[..., None]
    top = np.take_along_axis(left, np.argmax(np.abs(left), axis=-2, keepdims=True), -2)
    sign = np.where(top < 0, -1.0, 1.0)
    return {"left": left * sign, "right": right * np.swapaxes(sign, -1, -2)}


def _untile(part: Array, flat: TensorType) -> Array:
    if flat.rank == part.ndim:
        return part
    panels, blocks, rows, columns = part.shape
    full = part.transpose(0, 2, 1, 3).reshape(panels * rows, blocks * columns)
    height, width = _sizes(flat)
    return full[:height, :width]
