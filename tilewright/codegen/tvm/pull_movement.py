"""Leaves and data movement on pulled values: index arithmetic, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tvm import tirx

from tilewright.codegen.places import broadcast_index, permuted_index
from tilewright.codegen.tvm import vector
from tilewright.codegen.tvm.emit import Expr, i64, lanes_of, vector_type
from tilewright.codegen.tvm.index import (
    ZERO,
    Index,
    Ix,
    NeedsScalar,
    dim_expr,
    flatten,
    unflatten,
)
from tilewright.codegen.tvm.pull import Cached, Puller, Rule
from tilewright.codegen.tvm.pull_math import element_type, literal
from tilewright.dsl.dims import Dim, product
from tilewright.dsl.errors import CompilerBug
from tilewright.dsl.graph import Node, Value
from tilewright.dsl.types import Shape

PieceOf = Callable[[int], Expr]


def _full(puller: Puller, node: Node, place: int, index: Index) -> Expr:
    return literal(puller.kernel, node.attrs["value"], node.attrs.dtype("dtype"))


def _constant(puller: Puller, node: Node, place: int, index: Index) -> Expr:
    """A scalar; longer literals are stored as parameters are."""
    if node.result.tensor.rank:
        raise CompilerBug(f"the literal %{node.result.name} has not been stored")
    dtype = node.attrs.dtype("dtype")
    (value,) = np.frombuffer(node.attrs.data("data").raw, dtype.numpy.newbyteorder("<"))
    return literal(puller.kernel, float(value) if dtype.is_float else int(value), dtype)


def _iota(puller: Puller, node: Node, place: int, index: Index) -> Expr:
    result = node.result.tensor
    ix = index[node.attrs.int("axis") % result.rank]
    start = dim_expr(puller.kernel, node.attrs.dim("start"))
    return tirx.Cast(_kind(puller, node.result, ix), places(puller, ix.moved(start)))


def _kind(puller: Puller, value: Value, ix: Ix) -> str:
    return vector_type(element_type(value.tensor.dtype), puller.lanes if ix.step else 1)


def places(puller: Puller, ix: Ix) -> Expr:
    """Where the lanes stand along an axis, as int64."""
    base = i64(ix.base)
    if not ix.step or puller.lanes == 1:
        return base
    return vector.ramp(base, tirx.IntImm("int64", ix.step), puller.lanes)


def _slice(puller: Puller, node: Node, place: int, index: Index) -> Expr:
    starts = node.attrs.dims("start")
    moved = tuple(
        ix.moved(dim_expr(puller.kernel, start)) for ix, start in zip(index, starts, strict=True)
    )
    return puller.value(node.operands[0], moved)


def _row(puller: Puller, node: Node, place: int, index: Index) -> Expr:
    at = Ix(dim_expr(puller.kernel, node.attrs.dim("at")))
    return puller.value(node.operands[0], (at, *index))


def _part(puller: Puller, node: Node, place: int, index: Index) -> Expr:
    (x,), shape = node.operands, node.result.tensor.shape
    (at,) = reshaped(puller, index, shape, (product(shape),))
    return puller.value(x, (at.moved(dim_expr(puller.kernel, node.attrs.dim("start"))),))


def _permute_dims(puller: Puller, node: Node, place: int, index: Index) -> Expr:
    (x,) = node.operands
    return puller.value(x, permuted_index(index, node.attrs.ints("axes")))


def _broadcast_to(puller: Puller, node: Node, place: int, index: Index) -> Expr:
    (x,) = node.operands
    shape, out = x.tensor.shape, node.result.tensor.shape
    return puller.value(x, broadcast_index(index, shape, out, ZERO))


def _view(puller: Puller, node: Node, place: int, index: Index) -> Expr:
    """Keys (result 0) or values (result 1) where they lie in the cache."""
    cache = puller.sources[node.operands[0].name]
    assert isinstance(cache, Cached)
    return cache.arrays[("k", "v")[place]].at(puller, index)


def _reshape(puller: Puller, node: Node, place: int, index: Index) -> Expr:
    (x,) = node.operands
    return puller.value(x, reshaped(puller, index, node.result.tensor.shape, x.tensor.shape))


def reshaped(puller: Puller, index: Index, new: Shape, old: Shape) -> Index:
    """The index of an operand of shape `old` for an index of its reshape to `new`."""
    head = 0
    while head < min(len(new), len(old)) and new[head] == old[head]:
        head += 1
    tail = 0
    while tail < min(len(new), len(old)) - head and new[-1 - tail] == old[-1 - tail]:
        tail += 1
    middle = _regrouped(
        puller,
        index[head : len(new) - tail],
        new[head : len(new) - tail],
        old[head : len(old) - tail],
    )
    return (*index[:head], *middle, *index[len(new) - tail :])


def _regrouped(puller: Puller, index: Index, new: Shape, old: Shape) -> Index:
    if any(ix.step for ix in index[:-1]):
        raise NeedsScalar
    scalars = [ix.base for ix in index]
    if not index or not index[-1].step:
        flat = flatten(puller.kernel, scalars, new)
        return tuple(Ix(at) for at in unflatten(puller.kernel, flat, old))
    last = index[-1]
    if last.step != 1 or not old or not _keeps_lanes(puller, last, new[-1], old[-1]):
        raise NeedsScalar
    flat = flatten(puller.kernel, scalars, new)
    found = unflatten(puller.kernel, flat, old)
    return (*(Ix(at) for at in found[:-1]), Ix(found[-1], 1, unit=last.unit))


def _keeps_lanes(puller: Puller, last: Ix, new: Dim, old: Dim) -> bool:
    """Whether all lanes stay in one row of the operand's last axis."""
    if isinstance(new, int) and isinstance(old, int):
        if old % new == 0:
            return True
        return old % puller.lanes == 0 and last.unit % puller.lanes == 0 and new % old == 0
    return False


def _concat(puller: Puller, node: Node, place: int, index: Index) -> Expr:
    axis = node.attrs.int("axis") % len(index)
    ix = index[axis]
    starts = _starts(puller, [o.tensor.shape[axis] for o in node.operands])
    known = _known_piece(node, axis, ix)
    if known is not None:
        moved = ix.moved(-starts[known] if isinstance(starts[known], int) else 0 - starts[known])
        return puller.value(node.operands[known], (*index[:axis], moved, *index[axis + 1 :]))
    if ix.step and puller.lanes > 1:
        raise NeedsScalar

    def piece(number: int) -> Expr:
        moved = Ix(puller.kernel.let(i64(ix.base) - i64(starts[number]), "at"))
        return puller.value(node.operands[number], (*index[:axis], moved, *index[axis + 1 :]))

    return _chosen(puller, node.result, index, ix, starts, piece)


def _starts(puller: Puller, sizes: Sequence[Dim]) -> list[Expr]:
    starts: list[Expr] = []
    at: Dim = 0
    for size in sizes:
        starts.append(dim_expr(puller.kernel, at))
        at = at + size
    return starts


def _known_piece(node: Node, axis: int, ix: Ix) -> int | None:
    """The piece that holds all lanes, where the bounds of the index decide it."""
    if ix.low is None or ix.high is None:
        return None
    at = 0
    for number, operand in enumerate(node.operands):
        size = operand.tensor.shape[axis]
        if not isinstance(size, int):
            return None
        if at <= ix.low and ix.high <= at + size:
            return number
        at += size
    return None


def _chosen(
    puller: Puller, result: Value, index: Index, ix: Ix, starts: Sequence[Expr], piece: PieceOf
) -> Expr:
    """The piece in which a scalar place stands, by branches: the others are never read."""
    kernel = puller.kernel
    lanes = puller.lanes if any(i.step for i in index) else 1
    kind = element_type(result.tensor.dtype)
    held = kernel.register(lanes, element="uint8" if kind == "bool" else kind)

    def put(number: int) -> None:
        with puller.scope(puller.lanes, puller.mask):
            found = piece(number)
            if lanes_of(found) < lanes:
                found = vector.splat(found, lanes)
            held.set(tirx.Cast(vector_type("uint8", lanes), found) if kind == "bool" else found)

    def choose(number: int) -> None:
        if number == len(starts) - 1:
            put(number)
            return
        with kernel.when(i64(ix.base) < i64(starts[number + 1])):
            put(number)
        with kernel.otherwise():
            choose(number + 1)

    choose(0)
    found = held.get()
    return tirx.NE(found, tirx.const(0, found.ty)) if kind == "bool" else found


def _pad(puller: Puller, node: Node, place: int, index: Index) -> Expr:
    (x,) = node.operands
    lows, highs = node.attrs.dims("low"), node.attrs.dims("high")
    fill = literal(puller.kernel, node.attrs["value"], x.tensor.dtype)
    inside: Expr | None = None
    moved: list[Ix] = []
    for ix, low, high, size in zip(index, lows, highs, x.tensor.shape, strict=True):
        shifted = ix.moved(-low if isinstance(low, int) else 0 - dim_expr(puller.kernel, low))
        moved.append(shifted)
        if low == 0 and high == 0:
            continue
        if ix.step and puller.lanes > 1:
            raise NeedsScalar
        extent = i64(dim_expr(puller.kernel, size))
        within = tirx.And(i64(shifted.base) >= i64(0), i64(shifted.base) < extent)
        inside = within if inside is None else tirx.And(inside, within)
    if inside is None:
        return puller.value(x, tuple(moved))
    flag = Ix(puller.kernel.let(tirx.Select(inside, i64(0), i64(1)), "outside"))

    def piece(number: int) -> Expr:
        return puller.value(x, tuple(moved)) if number == 0 else fill

    return _chosen(puller, node.result, index, flag, [0, 1], piece)


def _gather(puller: Puller, node: Node, place: int, index: Index) -> Expr:
    """Indices out of range are clamped."""
    x, picks = node.operands
    axis = node.attrs.int("axis") % x.tensor.rank
    rank = picks.tensor.rank
    at = index[axis : axis + rank]
    if any(ix.step for ix in at) and puller.lanes > 1:
        raise NeedsScalar
    picked = puller.value(picks, at)
    last = i64(dim_expr(puller.kernel, x.tensor.shape[axis])) - 1
    safe = tirx.Min(tirx.Max(i64(picked), i64(0)), last)
    where = Ix(puller.kernel.let(safe, "row"))
    return puller.value(x, (*index[:axis], where, *index[axis + rank :]))


MOVEMENT_RULES: dict[str, Rule] = {
    "constant": _constant,
    "full": _full,
    "iota": _iota,
    "slice": _slice,
    "row": _row,
    "part": _part,
    "permute_dims": _permute_dims,
    "broadcast_to": _broadcast_to,
    "view": _view,
    "reshape": _reshape,
    "concat": _concat,
    "pad": _pad,
    "gather": _gather,
}
