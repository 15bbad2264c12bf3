"""How a placed tensor is cut: which piece of it lies at which coordinates of the mesh."""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd, lcm

from tilewright.dsl.dims import Dim, known_divides, quotient
from tilewright.dsl.encoding import (
    NM,
    Columns,
    Dense,
    Encoding,
    LowRank,
    Quantized,
    Sparse,
    Sum,
    Tiled,
)
from tilewright.dsl.errors import PlacementError, ShapeError
from tilewright.dsl.placement import Mesh, Partial
from tilewright.dsl.types import TensorType

Piece = tuple[int, int]
"""Start and stop of an interval."""


def chunks(size: int, count: int) -> list[Piece]:
    """The intervals of `torch.chunk`: of equal size rounded up, the last ones shorter or empty."""
    each = -(-size // count)
    return [(min(i * each, size), min((i + 1) * each, size)) for i in range(count)]


def pieces(type_: TensorType, mesh: Mesh, at: Mapping[str, int]) -> tuple[Piece, ...]:
    """The interval of every dimension that the rank at these coordinates holds.

    Several axes cut one dimension one after the other, major first. Raises ShapeError for a
    sharded dimension that is symbolic.
    """
    found: list[Piece] = []
    for dim, size in enumerate(type_.shape):
        if not isinstance(size, int):
            raise ShapeError(f"dimension {dim} of {type_} has no known size")
        start, stop = 0, size
        for axis in type_.placement.sharding(dim):
            low, high = chunks(stop - start, mesh.size(axis))[at[axis]]
            start, stop = start + low, start + high
        found.append((start, stop))
    return tuple(found)


def local_type(type_: TensorType, mesh: Mesh, at: Mapping[str, int]) -> TensorType:
    """The type with the shape of one rank's piece; it keeps the placement off."""
    shape = tuple(stop - start for start, stop in pieces(type_, mesh, at))
    return TensorType(shape, type_.dtype, encoding=type_.encoding)


def even_share(type_: TensorType, dim: int, mesh: Mesh) -> Dim | None:
    """A dimension's size on every rank; None where the ranks that shard it do not divide it."""
    ranks = 1
    for axis in type_.placement.sharding(dim):
        ranks *= mesh.size(axis)
    return quotient(type_.shape[dim], ranks)


def shard_unit(encoding: Encoding, dim: int, rank: int) -> int | None:
    """Shards along `dim` must be multiples of this; None where the dimension stays whole."""
    match encoding:
        case Dense():
            return 1
        case Quantized(axis=axis, group=group, packing=packing):
            if dim != axis:
                return 1
            return None if group is None else lcm(group, 1 if packing == "plain" else 2)
        case Sparse(pattern=NM(n, m), axis=axis, values=values):
            inner = shard_unit(values, dim, rank)
            return inner if dim != axis or inner is None else m * (inner // gcd(inner, n))
        case Sparse(pattern=Columns(), axis=axis, values=values):
            return None if dim == axis else shard_unit(values, dim, rank)
        case Sparse():
            return None
        case LowRank():
            return 1 if dim < rank - 2 else None
        case Tiled(rows=rows, values=values):
            inner = shard_unit(values, dim, rank) if dim == 0 else None
            return None if inner is None else lcm(rows, inner)
        case Sum(parts):
            units = [shard_unit(part, dim, rank) for part in parts]
            whole = [unit for unit in units if unit is not None]
            return lcm(*whole) if len(whole) == len(units) else None


def check_borders(op: str, type_: TensorType, mesh: Mesh) -> None:
    """Raises PlacementError unless all shards of an encoded tensor end on group borders.

    A Partial encoded tensor is refused as well: codes do not add up.
    """
    if any(isinstance(place, Partial) for _, place in type_.placement.entries):
        raise PlacementError(
            f"{op}: {type_} is stored as codes, which do not add up",
            fix="all_reduce or reduce_scatter it before it is encoded",
        )
    for dim, size in enumerate(type_.shape):
        axes = type_.placement.sharding(dim)
        if not axes:
            continue
        unit = shard_unit(type_.encoding, dim, type_.rank)
        if unit is not None and _ends_on_borders(size, unit, [mesh.size(axis) for axis in axes]):
            continue
        needs = "the whole dimension" if unit is None else f"shards in multiples of {unit}"
        raise PlacementError(
            f"{op}: dimension {dim} of {type_} is sharded, but its encoding needs {needs}",
            fix="shard another dimension, or choose another group size",
        )


def _ends_on_borders(size: Dim, unit: int, counts: list[int]) -> bool:
    if unit == 1:
        return True
    if not isinstance(size, int):
        total = unit
        for count in counts:
            total *= count
        return known_divides(total, size)
    borders = [(0, size)]
    for count in counts:
        borders = [
            (start + low, start + high)
            for start, stop in borders
            for low, high in chunks(stop - start, count)
        ]
    return all(start % unit == 0 and stop % unit == 0 for start, stop in borders)
