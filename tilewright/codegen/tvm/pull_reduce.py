"""Reductions on pulled values: a loop where the value is asked for.

Along the last axis the loop is a vector's and its lanes are combined at the end; along another axis
each lane keeps a sum of its own. Kernels ask for row reductions outside their column loops, so
that each is computed once a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import cycle

from tvm import tirx

from tilewright.codegen.places import broadcast_index
from tilewright.codegen.tvm import vector
from tilewright.codegen.tvm.emit import Expr, KernelBuilder, Register, lanes_of, vector_type
from tilewright.codegen.tvm.index import ZERO, Index, Ix, dim_expr
from tilewright.codegen.tvm.pull import Puller, Rule
from tilewright.codegen.tvm.pull_math import convert, element_type
from tilewright.dsl.dtypes import DType
from tilewright.dsl.graph import Node
from tilewright.dsl.ops.reduce import identity_of
from tilewright.dsl.ops.shape import normal_axis

Combine = Callable[[KernelBuilder, DType, Expr, Expr], Expr]


@dataclass(frozen=True, slots=True)
class Reduction:
    """What a reduction starts from and how two parts meet."""

    start: Callable[[DType], float | int]
    combine: Combine


def _max(kernel: KernelBuilder, dtype: DType, a: Expr, b: Expr) -> Expr:
    return vector.max_nan(kernel, a, b) if dtype.is_float else tirx.Max(a, b)


def _min(kernel: KernelBuilder, dtype: DType, a: Expr, b: Expr) -> Expr:
    return vector.min_nan(kernel, a, b) if dtype.is_float else tirx.Min(a, b)


REDUCTIONS: dict[str, Reduction] = {
    "sum": Reduction(partial(identity_of, "sum"), lambda k, d, a, b: a + b),
    "max": Reduction(partial(identity_of, "max"), _max),
    "min": Reduction(partial(identity_of, "min"), _min),
}


def _reduce(puller: Puller, node: Node, place: int, index: Index) -> Expr:
    (x,) = node.operands
    axis = normal_axis(node.op, node.attrs.int("axis"), x.tensor.rank)
    kept = index
    if node.attrs.bool("keepdims"):
        kept = (*index[:axis], *index[axis + 1 :])
    outer, inner = kept[:axis], kept[axis:]
    if axis == x.tensor.rank - 1 and not any(ix.step for ix in outer):
        return _along_lanes(puller, node, outer)
    return _across(puller, node, outer, inner)


def _across(puller: Puller, node: Node, outer: Index, inner: Index) -> Expr:
    """One element at a time along the axis; each lane has its own result."""
    (x,) = node.operands
    kernel, dtype, reduction = puller.kernel, x.tensor.dtype, REDUCTIONS[node.op]
    lanes = puller.lanes if any(ix.step for ix in (*outer, *inner)) else 1
    kind = vector_type(element_type(dtype), lanes)
    held = kernel.register(lanes, tirx.const(reduction.start(dtype), kind), element_type(dtype))
    extent = dim_expr(kernel, x.tensor.shape[len(outer)])
    with kernel.loop(0, extent, 1, "r") as at, puller.scope(puller.lanes, puller.mask):
        found = puller.value(x, (*outer, Ix(at), *inner))
        held.set(reduction.combine(kernel, dtype, held.get(), _widened(found, lanes)))
    return held.get()


def _widened(value: Expr, lanes: int) -> Expr:
    return vector.splat(value, lanes) if lanes_of(value) < lanes else value


def _along_lanes(puller: Puller, node: Node, outer: Index) -> Expr:
    """Vectors along the last axis, several side by side; then these, then their lanes together."""
    (x,) = node.operands
    kernel, dtype, reduction = puller.kernel, x.tensor.dtype, REDUCTIONS[node.op]
    lanes = puller.kernel.isa.lanes_f32 if puller.vectors else 1
    kind = vector_type(element_type(dtype), lanes)
    start = tirx.const(reduction.start(dtype), kind)
    count = puller.sums if puller.vectors else 1
    held = [kernel.register(lanes, start, element_type(dtype)) for _ in range(count)]
    turns = cycle(held)
    extent = dim_expr(kernel, x.tensor.shape[-1])

    def body(at: Expr, wide: int, mask: Expr | None) -> None:
        with puller.scope(wide, mask):
            found = _widened(puller.value(x, (*outer, puller.along(at, wide))), wide)
            _take(kernel, reduction, dtype, next(turns), found, mask, wide)

    def combine(a: Expr, b: Expr) -> Expr:
        return reduction.combine(kernel, dtype, a, b)

    puller.columns(0, extent, body, count)
    # Through registers: TVM's simplifier takes minutes over a tree of a dozen nested maxima.
    total, *others = held
    for other in others:
        total.set(combine(total.get(), other.get()))
    if lanes == 1:
        return total.get()
    reduced = vector.reduce_lanes(kernel, total.get(), combine)
    return kernel.register(1, reduced, element_type(dtype)).get()


def _take(
    kernel: KernelBuilder,
    reduction: Reduction,
    dtype: DType,
    held: Register,
    found: Expr,
    mask: Expr | None,
    wide: int,
) -> None:
    if mask is not None:
        neutral = tirx.const(reduction.start(dtype), vector_type(element_type(dtype), wide))
        found = tirx.Select(mask, found, neutral)
    if wide == held.lanes:
        held.set(reduction.combine(kernel, dtype, held.get(), found))
        return
    # A scalar of the tail meets all lanes alike, with the neutral element in all but the first.
    neutral = tirx.const(reduction.start(dtype), vector_type(element_type(dtype), held.lanes))
    first = tirx.EQ(vector.iota(held.lanes), tirx.const(0, vector_type("int32", held.lanes)))
    spread = tirx.Select(first, vector.splat(found, held.lanes), neutral)
    held.set(reduction.combine(kernel, dtype, held.get(), spread))


def _matmul(puller: Puller, node: Node, place: int, index: Index) -> Expr:
    """A product element by element, for integers: their sums are exact in the result's width."""
    a, b = node.operands
    kernel, out = puller.kernel, node.result.tensor
    *batch, row, column = index
    lead, wide = tuple(batch), out.shape[:-2]
    flip_a, flip_b = node.attrs.bool("transpose_a"), node.attrs.bool("transpose_b")
    extent = dim_expr(kernel, a.tensor.shape[-2 if flip_a else -1])
    lanes = puller.lanes if any(ix.step for ix in index) else 1
    kind = vector_type(element_type(out.dtype), lanes)
    total = kernel.register(lanes, tirx.const(0, kind), element_type(out.dtype))
    with kernel.loop(0, extent, 1, "k") as k, puller.scope(puller.lanes, puller.mask):
        at = Ix(k)
        outer_a, outer_b = (broadcast_index(lead, v.tensor.shape[:-2], wide, ZERO) for v in (a, b))
        left = (*outer_a, *(at, row)[:: 1 if flip_a else -1])
        right = (*outer_b, *(column, at)[:: 1 if flip_b else -1])
        x, y = (
            _widened(convert(puller.value(v, i), v.tensor.dtype, out.dtype), lanes)
            for v, i in ((a, left), (b, right))
        )
        total.set(total.get() + x * y)
    return total.get()


def _argmax(puller: Puller, node: Node, place: int, index: Index) -> Expr:
    """Element by element along the axis: the first of equals, the first NaN if there is one."""
    (x,) = node.operands
    axis = normal_axis(node.op, node.attrs.int("axis"), x.tensor.rank)
    kept = (*index[:axis], *index[axis + 1 :]) if node.attrs.bool("keepdims") else index
    outer, inner = kept[:axis], kept[axis:]
    kernel, dtype = puller.kernel, x.tensor.dtype
    lanes = puller.lanes if any(ix.step for ix in kept) else 1
    kind = vector_type(element_type(dtype), lanes)
    best = kernel.register(lanes, tirx.const(identity_of("max", dtype), kind), element_type(dtype))
    where = kernel.register(lanes, tirx.const(0, vector_type("int32", lanes)), "int32")
    extent = dim_expr(kernel, x.tensor.shape[axis])
    with kernel.loop(0, extent, 1, "r") as at, puller.scope(puller.lanes, puller.mask):
        found = kernel.let(_widened(puller.value(x, (*outer, Ix(at), *inner)), lanes), "found")
        held = best.get()
        larger = found > held
        if dtype.is_float:
            fresh = tirx.And(vector.is_nan(found), tirx.Not(vector.is_nan(held)))
            larger = tirx.Or(tirx.And(larger, tirx.Not(vector.is_nan(held))), fresh)
        here = vector.splat(tirx.Cast("int32", at), lanes)
        where.set(tirx.Select(larger, here, where.get()))
        best.set(tirx.Select(larger, found, held))
    return where.get()


REDUCE_RULES: dict[str, Rule] = {
    **dict.fromkeys(REDUCTIONS, _reduce),
    "argmax": _argmax,
    "matmul": _matmul,
}
