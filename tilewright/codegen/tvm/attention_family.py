"""Attention regions: movement and decoding before, elementwise work of the result's shape after."""

from __future__ import annotations

from collections.abc import Callable

from tilewright.codegen.tvm.attention_frame import Frame
from tilewright.codegen.tvm.attention_kernel import attention_kernel
from tilewright.codegen.tvm.attention_operands import (
    AttentionOperands,
    AttentionShape,
    Load,
    Row,
    Scoring,
)
from tilewright.codegen.tvm.attention_schedule import AttentionSchedule, check_attention
from tilewright.codegen.tvm.emit import CACHE_LINE, Expr, i64, lanes_of
from tilewright.codegen.tvm.index import Ix, dim_expr, flatten
from tilewright.codegen.tvm.matmul_family import anchor_of, lanes_at
from tilewright.codegen.tvm.pull import Given
from tilewright.codegen.tvm.region import LoweredRegion, RegionKernel
from tilewright.dsl.dims import Dim, bounds
from tilewright.dsl.graph import Graph, Node, Value
from tilewright.target.cpu import CpuIsa

MAX_HEAD_DIM = 512
"""Blocks of longer heads would not fit a thread's stack."""

_FLOATS = frozenset({"f32", "bf16", "f16"})
_Columns = Callable[[Callable[[Expr, Expr, Expr | None], None]], None]


def refused_attention(body: Graph) -> str | None:
    """Why there is no kernel for an attention body; None where there is one."""
    anchors = [node for node in body.nodes if node.op == "attention"]
    if len(anchors) != 1:
        return f"a kernel computes one attention, not {len(anchors)}"
    (anchor,) = anchors
    q, k, v = (operand.tensor for operand in anchor.operands[:3])
    if q.dtype.name not in _FLOATS:
        return f"there is no attention of {q.dtype}"
    for size in (q.shape[2], k.shape[2], q.shape[3], v.shape[3]):
        if not isinstance(size, int):
            return f"attention needs fixed numbers and sizes of heads, not {size}"
    if any(bounds(size)[1] > MAX_HEAD_DIM for size in (q.shape[3], v.shape[3])):
        return f"attention heads have up to {MAX_HEAD_DIM} elements"
    shapes = [result.tensor.shape for result in anchor.results]
    if any(output.value.tensor.shape not in shapes for output in body.outputs):
        return "a result has neither the shape of attention's output nor that of its log-sum-exp"
    return None


def lower_attention(
    name: str, node: Node, body: Graph, isa: CpuIsa, schedule: AttentionSchedule
) -> LoweredRegion:
    """The kernel of an accepted attention region.

    Raises:
        InvalidSchedule: the schedule's blocks are no whole tiles.
    """
    check_attention(schedule, isa)
    region = RegionKernel(name, node, body, isa)
    anchor = anchor_of(body, "attention")
    cap = anchor.attrs["softcap"]
    scoring = Scoring(
        anchor.attrs.mask("mask"),
        anchor.attrs.float("scale"),
        None if cap is None else anchor.attrs.float("softcap"),
    )
    q, k, v, *hidden = anchor.operands
    operands = AttentionOperands(
        _load(region, q),
        _load(region, k),
        _load(region, v),
        _ask(region, k, v),
        _seen(region, hidden[0]) if hidden else None,
        _Results(region, body, anchor),
    )
    shape = _shape_of(region, anchor)
    attention_kernel(Frame(region.kernel, shape, operands, scoring, schedule))
    return region.finish()


def _shape_of(region: RegionKernel, anchor: Node) -> AttentionShape:
    kernel = region.kernel
    q, k, v = (operand.tensor.shape for operand in anchor.operands[:3])
    heads, groups, head_dim, value_dim = map(_fixed, (q[2], k[2], q[3], v[3]))
    batch, seq, keys = (
        kernel.let(i64(dim_expr(kernel, size)), name)
        for size, name in ((q[0], "batch"), (q[1], "seq"), (k[1], "length"))
    )
    return AttentionShape(batch, seq, keys, heads, groups, head_dim, value_dim)


def _fixed(size: Dim) -> int:
    assert isinstance(size, int), "accepted regions have fixed heads"
    return size


def _load(region: RegionKernel, value: Value) -> Load:
    def load(
        batch: Expr, position: Expr, head: Expr, column: Expr, lanes: int, mask: Expr | None
    ) -> Expr:
        with region.puller.scope():
            lead = (Ix(batch), Ix(position), Ix(head))
            return lanes_at(region.puller, value, lead, column, lanes, mask)

    return load


def _ask(region: RegionKernel, *values: Value) -> Callable[[Expr, Expr, Expr], None]:
    def ask(batch: Expr, position: Expr, head: Expr) -> None:
        for value in values:
            line = CACHE_LINE // value.tensor.dtype.numpy.itemsize
            for column in range(0, _fixed(value.tensor.shape[3]), line):
                with region.puller.asking():
                    index = (Ix(batch), Ix(position), Ix(head), Ix(i64(column)))
                    region.puller.value(value, index)

    return ask


def _seen(region: RegionKernel, value: Value) -> Callable[[Expr, Expr], Expr]:
    def seen(batch: Expr, key: Expr) -> Expr:
        with region.puller.scope():
            return region.puller.value(value, (Ix(batch), Ix(key)))

    return seen


class _Results:
    """Computes and stores the region's results from rows of attention's output."""

    def __init__(self, region: RegionKernel, body: Graph, anchor: Node) -> None:
        self.region = region
        self.anchor = anchor
        self.outputs = list(enumerate(output.value for output in body.outputs))

    def __call__(self, row: Row, columns: _Columns) -> None:
        puller = self.region.puller
        out, lse = self.anchor.results
        puller.sources[lse.name] = Given(row.lse)
        places = (row.batch, row.query, row.head)
        lead = tuple(map(Ix, places))
        start = self._start(out, places)
        wide = [(place, v) for place, v in self.outputs if v.tensor.rank == out.tensor.rank]

        def store(column: Expr, value: Expr, mask: Expr | None) -> None:
            lanes = lanes_of(value)
            puller.sources[out.name] = Given(value)
            with puller.scope(lanes, mask):
                index = (*lead, puller.along(column, lanes))
                for place, result in wide:
                    target = self.region.result(place)
                    found = puller.value(result, index)
                    puller.store(target.pointer, target.dtype, start + column, found)

        if wide:
            columns(store)
        for place, result in self.outputs:
            if result.tensor.rank != out.tensor.rank:
                target = self.region.result(place)
                with puller.scope():
                    found = puller.value(result, lead)
                    puller.store(target.pointer, target.dtype, self._flat(lse, places), found)

    def _start(self, out: Value, places: tuple[Expr, Expr, Expr]) -> Expr:
        kernel = self.region.kernel
        return kernel.let(flatten(kernel, [*places, i64(0)], out.tensor.shape), "start")

    def _flat(self, lse: Value, places: tuple[Expr, Expr, Expr]) -> Expr:
        return flatten(self.region.kernel, places, lse.tensor.shape)
