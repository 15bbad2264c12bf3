"""Which elements a sparse encoding keeps, and where it says they stand.

What is kept is what is largest; of equals, the one of lowest index. NaN counts as largest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilewright.dsl.encoding import CSR, NM, Blocks, Columns, Pattern
from tilewright.dsl.errors import EncodingError

Array = NDArray[Any]
Parts = dict[str, Array]
Shape = tuple[int, ...]


def keep(x: Array, pattern: Pattern, axis: int) -> tuple[Array, Parts]:
    """The kept values, and the index components."""
    match pattern:
        case NM():
            return _keep_groups(x, pattern, axis)
        case Columns(count):
            rest = tuple(a for a in range(x.ndim) if a != axis)
            chosen = _largest(np.sum(_square(x), axis=rest), count)
            return np.take(x, chosen, axis), {"index": chosen.astype(np.int32)}
        case Blocks(rows, columns, capacity):
            blocks = _blocks(x, rows, columns)
            chosen = _largest(np.sum(_square(blocks), axis=(2, 3)).reshape(-1), capacity)
            row, column = np.divmod(chosen, blocks.shape[1])
            index = np.stack([row, column], axis=-1).astype(np.int32)
            return blocks[row, column], {"index": index}
        case CSR(capacity):
            return _keep_scattered(x, capacity)


def spread(
    values: Array, index: Mapping[str, Array], pattern: Pattern, axis: int, shape: Shape
) -> Array:
    """The dense array with the kept values in their places. Raises EncodingError outside."""
    where = index["index"].astype(np.int64)
    match pattern:
        case NM():
            return _spread_groups(values, where, pattern, axis)
        case Columns():
            _check(where, shape[axis])
            out = np.zeros(shape)
            np.moveaxis(out, axis, 0)[where] = np.moveaxis(values, axis, 0)
            return out
        case Blocks(rows, columns, _):
            out = np.zeros(shape)
            blocks = _blocks(out, rows, columns)
            _check(where[:, 0], blocks.shape[0])
            _check(where[:, 1], blocks.shape[1])
            blocks[where[:, 0], where[:, 1]] = values
            return out
        case CSR():
            return _spread_scattered(values, where, index["start"], shape)


def _square(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.where(np.isnan(x), np.inf, x) ** 2


def _largest(sizes: Array, count: int) -> Array:
    """Positions of the `count` largest along the last axis, ascending."""
    order = np.argsort(-sizes, axis=-1, kind="stable")
    return np.sort(order[..., :count], axis=-1)


def _check(index: Array, below: int) -> None:
    if index.size and not (index.min() >= 0 and index.max() < below):
        raise EncodingError(f"a sparse index is out of range: must lie in 0..{below - 1}")


def _blocks(x: Array, rows: int, columns: int) -> Array:
    """A view [block row, block column, row, column] of a contiguous matrix."""
    split = x.reshape(x.shape[0] // rows, rows, x.shape[1] // columns, columns)
    return split.transpose(0, 2, 1, 3)


def _keep_groups(x: Array, pattern: NM, axis: int) -> tuple[Array, Parts]:
    moved = np.moveaxis(x, axis, -1)
    groups = moved.reshape(*moved.shape[:-1], moved.shape[-1] // pattern.m, pattern.m)
    chosen = _largest(np.where(np.isnan(groups), np.inf, np.abs(groups)), pattern.n)
    kept = np.take_along_axis(groups, chosen, -1)
    index = _packed(chosen, pattern)
    return _merged(kept, axis), {"index": _merged(index, axis).astype(np.uint8)}


def _spread_groups(values: Array, index: Array, pattern: NM, axis: int) -> Array:
    moved = np.moveaxis(values, axis, -1)
    kept = moved.reshape(*moved.shape[:-1], moved.shape[-1] // pattern.n, pattern.n)
    chosen = _unpacked(np.moveaxis(index, axis, -1), pattern)
    _check(chosen, pattern.m)
    out = np.zeros((*kept.shape[:-1], pattern.m))
    np.put_along_axis(out, chosen, kept, -1)
    return _merged(out, axis)


def _merged(groups: Array, axis: int) -> Array:
    """Groups and members as one axis again, back in its place."""
    flat = groups.reshape(*groups.shape[:-2], groups.shape[-2] * groups.shape[-1])
    return np.moveaxis(flat, -1, axis)


def _width(pattern: NM) -> int | None:
    """Bits of one index where a group's indices share a byte (the first lowest), else None."""
    bits = (pattern.m - 1).bit_length()
    return bits if pattern.n * bits <= 8 else None


def _packed(chosen: Array, pattern: NM) -> Array:
    bits = _width(pattern)
    if bits is None:
        return chosen
    shifts = bits * np.arange(pattern.n)
    return np.sum(chosen << shifts, axis=-1, keepdims=True)


def _unpacked(index: Array, pattern: NM) -> Array:
    bits = _width(pattern)
    if bits is None:
        return index.reshape(*index.shape[:-1], index.shape[-1] // pattern.n, pattern.n)
    return (index[..., None] >> (bits * np.arange(pattern.n))) & (2**bits - 1)


def _keep_scattered(x: Array, capacity: int) -> tuple[Array, Parts]:
    """Non-zeros row by row; the unused room is filled with zeros in column 0."""
    sizes = np.where(np.isnan(x), np.inf, np.abs(x)).reshape(-1)
    chosen = _largest(sizes, capacity)
    chosen = chosen[sizes[chosen] > 0]
    row, column = np.divmod(chosen, max(x.shape[1], 1))
    values, index = np.zeros(capacity), np.zeros(capacity, np.int32)
    values[: len(chosen)], index[: len(chosen)] = x.reshape(-1)[chosen], column
    rows = np.arange(int(x.shape[0]) + 1)
    return values, {"index": index, "start": np.searchsorted(row, rows).astype(np.int32)}


def _spread_scattered(values: Array, index: Array, start: Array, shape: Shape) -> Array:
    counts = np.diff(start.astype(np.int64))
    filled = int(start[-1])
    if start[0] != 0 or filled > len(values) or (counts < 0).any():
        raise EncodingError("the row starts of a compressed sparse matrix do not ascend")
    _check(index[:filled], shape[1])
    out = np.zeros(shape)
    out[np.repeat(np.arange(shape[0]), counts), index[:filled]] = values[:filled]
    return out
