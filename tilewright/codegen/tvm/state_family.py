"""State operations: writing keys and values into a cache where it lies."""

from __future__ import annotations

from tilewright.codegen.tvm.emit import Expr, i64
from tilewright.codegen.tvm.index import Ix, dim_expr, unflatten
from tilewright.codegen.tvm.pull import Cached
from tilewright.codegen.tvm.region import LoweredRegion, RegionKernel
from tilewright.dsl.dims import product
from tilewright.dsl.graph import Graph, Node
from tilewright.target.cpu import CpuIsa


def lower_append(name: str, node: Node, body: Graph, isa: CpuIsa) -> LoweredRegion:
    """Copies k and v [batch, seq, heads, head_dim] to positions `at` and on of a dense cache."""
    region = RegionKernel(name, node, body, isa)
    (append,) = body.nodes
    cache, *new = append.operands
    kernel, puller = region.kernel, region.puller
    target = region.operand(cache)
    assert isinstance(target, Cached)
    shape = new[0].tensor.shape
    at = kernel.let(i64(dim_expr(kernel, append.attrs.dim("at"))), "position")
    capacity = i64(dim_expr(kernel, cache.cache.capacity))
    rows = kernel.let(i64(dim_expr(kernel, product(shape[:3]))), "rows")
    begin, end = kernel.share(rows)
    with kernel.loop(begin, end, 1, "row") as row, puller.scope():
        batch, token, head = unflatten(kernel, row, shape[:3])
        place = ((batch * capacity + at + token) * cache.cache.heads + head) * cache.cache.head_dim
        start = kernel.let(i64(place), "start")

        def copy(column: Expr, lanes: int, mask: Expr | None) -> None:
            with puller.scope(lanes, mask):
                index = (Ix(batch), Ix(token), Ix(head), puller.along(column, lanes))
                for side, value in zip(("k", "v"), new, strict=True):
                    array = target.arrays[side]
                    found = puller.value(value, index)
                    puller.store(array.pointer, array.dtype, start + column, found)

        puller.columns(0, cache.cache.head_dim, copy)
    return region.finish()
