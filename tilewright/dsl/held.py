"""Values spread over the ranks of a mesh: cut into what each rank holds, and put together again.

A spread value is a list with one entry a rank, None where a rank holds nothing. An encoded tensor
is spread component by component, a cache lies whole on every rank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilewright.dsl.encoding import components
from tilewright.dsl.errors import PlacementClaimError, PlacementError
from tilewright.dsl.placement import (
    At,
    AxisPlacement,
    Local,
    Mesh,
    Partial,
    Placement,
    Replicate,
    Shard,
)
from tilewright.dsl.shards import chunks, local_type
from tilewright.dsl.types import CacheType, TensorType, Type

Array = NDArray[Any]
Held = list[Any]
Coordinates = tuple[tuple[str, int], ...]
Table = dict[Coordinates, Any]
"""Arrays by coordinates on some axes of the mesh, in the order of the mesh."""

REDUCTIONS: dict[str, Callable[[Array, Array], Array]] = {
    "sum": np.add,
    "max": np.maximum,
    "min": np.minimum,
}


def shard(value: Any, type_: Type, mesh: Mesh) -> Held:
    """What each rank holds of a value that is placed as its type says.

    A Partial value is taken apart into terms that are all different, so that a wrong rule shows;
    Local data is the array itself, rolled by the coordinate, so that ranks differ.
    """
    leaves = leaf_types(type_)
    spread = [
        _shard_array(array, leaf, mesh)
        for array, leaf in zip(flatten(value, type_), leaves, strict=True)
    ]
    return [build([held[rank] for held in spread], type_) for rank in range(mesh.ranks)]


def unshard(held: Held, type_: Type, mesh: Mesh) -> Any:
    """The one value that ranks hold together.

    Raises PlacementClaimError where what they hold contradicts the type, PlacementError for Local
    data, which is no one value.
    """
    found = assemble(held, type_, mesh)
    if len(found) != 1:
        raise PlacementError(f"{type_} is private to the ranks: it has no global value")
    return next(iter(found.values()))


def assemble(held: Held, type_: Type, mesh: Mesh) -> Table:
    """The global value for all coordinates on those axes where it is Local (else one entry)."""
    flat = [flatten(value, type_) for value in held]
    tables = [
        _assemble_array([leaves[index] for leaves in flat], leaf, mesh)
        for index, leaf in enumerate(leaf_types(type_))
    ]
    return {at: build([table[at] for table in tables], type_) for at in tables[0]}


def leaf_types(type_: Type) -> list[TensorType]:
    """The types of the arrays that a value is made of."""
    if isinstance(type_, CacheType):
        return 2 * leaf_types(type_.part)
    return [type_] if type_.is_dense else list(components(type_).values())


def flatten(value: Any, type_: Type) -> list[Any]:
    """The arrays that a value is made of; as many None for None."""
    if value is None:
        return [None] * len(leaf_types(type_))
    if isinstance(type_, CacheType):
        return [leaf for part in value for leaf in flatten(part, type_.part)]
    return [value] if type_.is_dense else [value[name] for name in components(type_)]


def build(leaves: Sequence[Any], type_: Type) -> Any:
    """The value made of these arrays: the inverse of `flatten`."""
    if all(leaf is None for leaf in leaves):
        return None
    if isinstance(type_, CacheType):
        half = len(leaves) // 2
        return build(leaves[:half], type_.part), build(leaves[half:], type_.part)
    return leaves[0] if type_.is_dense else dict(zip(components(type_), leaves, strict=True))


def _entries(placement: Placement, mesh: Mesh) -> list[tuple[str, AxisPlacement]]:
    """All axes with their placements: those that cut first, major before minor."""
    rest = [(name, placement.on(name)) for name, _ in mesh.axes if name not in placement.axes]
    return [*placement.entries, *rest]


def _key(mesh: Mesh, at: Mapping[str, int]) -> Coordinates:
    return tuple((name, at[name]) for name, _ in mesh.axes if name in at)


def _shard_array(array: Array, type_: TensorType, mesh: Mesh) -> list[Any]:
    table: Table = {(): array}
    for axis, place in sorted(_entries(type_.placement, mesh), key=_cuts_last):
        count = mesh.size(axis)
        table = {
            _key(mesh, {**dict(at), axis: index}): piece
            for at, x in table.items()
            for index, piece in enumerate(_pieces(x, place, count))
        }
    return [table[_key(mesh, mesh.coordinates(rank))] for rank in range(mesh.ranks)]


def _cuts_last(entry: tuple[str, AxisPlacement]) -> bool:
    """Local data is rolled, and a Partial taken apart, while it is whole."""
    return isinstance(entry[1], Shard)


def _pieces(x: Array | None, place: AxisPlacement, count: int) -> list[Any]:
    if x is None:
        return [None] * count
    match place:
        case Replicate():
            return [x] * count
        case Shard(dim):
            return [np.take(x, range(*piece), axis=dim) for piece in chunks(x.shape[dim], count)]
        case At(index):
            return [x if i == index else None for i in range(count)]
        case Local():
            return [np.roll(x, i) for i in range(count)]
        case Partial("sum"):
            return _terms(x, count)
        case Partial(op):
            owner = np.arange(int(x.size)).reshape(x.shape) % count
            return [np.where(owner == i, x, _beaten(x, op, i + 1)) for i in range(count)]


def _terms(x: Array, count: int) -> list[Array]:
    """Terms of the sum `x`, no two alike and none zero where x is zero."""
    if x.dtype.kind == "f":
        first = [x * (i + 1) / count + (i + 0.5) for i in range(count - 1)]
    else:
        first = [np.full_like(x, i + 1) for i in range(count - 1)]
    rest = x
    for term in first:
        rest = rest - term
    return [*first, rest]


def _beaten(x: Array, op: str, by: int) -> Array:
    """Values that lose against `x` (or equal it, where nothing is smaller or larger)."""
    down = op == "max"
    if x.dtype.kind == "f":
        return x - by if down else x + by
    if x.dtype.kind == "b":
        return np.full_like(x, not down)
    limits = np.iinfo(x.dtype)
    return np.where(x > limits.min, x - 1, x) if down else np.where(x < limits.max, x + 1, x)


def _assemble_array(held: Held, type_: TensorType, mesh: Mesh) -> Table:
    table: Table = {}
    for rank, x in enumerate(held):
        at = mesh.coordinates(rank)
        _check_piece(x, type_, mesh, at, rank)
        table[_key(mesh, at)] = x
    for axis, place in reversed(_entries(type_.placement, mesh)):
        if not isinstance(place, Local):
            table = _collapsed(table, axis, place, type_)
    return table


def _check_piece(x: Any, type_: TensorType, mesh: Mesh, at: Mapping[str, int], rank: int) -> None:
    wanted = local_type(type_, mesh, at).shape
    if x is not None and x.shape != wanted:
        raise PlacementClaimError(
            f"rank {rank} holds an array of shape {list(x.shape)} of {type_}, which makes it "
            f"{list(wanted)} there"
        )


def _collapsed(table: Table, axis: str, place: AxisPlacement, type_: TensorType) -> Table:
    groups: dict[Coordinates, list[Any]] = {}
    for at, x in table.items():
        rest = tuple((name, index) for name, index in at if name != axis)
        groups.setdefault(rest, []).append(x)
    return {at: _joined(xs, axis, place, type_, at) for at, xs in groups.items()}


def _joined(
    xs: list[Any], axis: str, place: AxisPlacement, type_: TensorType, at: Coordinates
) -> Any:
    """The value that the coordinates of one axis hold together."""
    if isinstance(place, At):
        others = [i for i, x in enumerate(xs) if x is not None and i != place.index]
        if others:
            raise PlacementClaimError(_contradiction(axis, others[0], "holds it too", type_, at))
        return xs[place.index]
    absent = [i for i, x in enumerate(xs) if x is None]
    if len(absent) == len(xs):
        return None
    if absent:
        raise PlacementClaimError(_contradiction(axis, absent[0], "holds nothing", type_, at))
    match place:
        case Shard(dim):
            return np.concatenate(xs, axis=dim)
        case Partial(op):
            total = xs[0]
            for x in xs[1:]:
                total = REDUCTIONS[op](total, x)
            return total
        case _:
            for index, x in enumerate(xs):
                if not close(x, xs[0]):
                    raise PlacementClaimError(
                        _contradiction(axis, index, "differs from coordinate 0", type_, at)
                    )
            return xs[0]


def _contradiction(axis: str, index: int, what: str, type_: TensorType, at: Coordinates) -> str:
    where = "".join(f", {name} = {i}" for name, i in at)
    return f"coordinate {index} of mesh axis {axis}{where} {what}, contrary to {type_}"


def close(x: Array, y: Array, scale: float = 0.0) -> bool:
    """Equal up to the roundings of float64, relative to the largest magnitude at hand."""
    if x.shape != y.shape:
        return False
    if x.dtype.kind != "f":
        return bool(np.array_equal(x, y))
    tolerance = 1e-9 * max(1.0, scale, largest(x), largest(y))
    return bool(np.allclose(x, y, rtol=1e-9, atol=tolerance, equal_nan=True))


def largest(x: Any) -> float:
    """The largest finite magnitude of a float array; 0 for any other."""
    if x is None or x.dtype.kind != "f" or not x.size:
        return 0.0
    return float(np.max(np.abs(np.where(np.isfinite(x), x, 0.0))))
