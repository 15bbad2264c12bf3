"""The TVM backend for CPUs: which regions it takes, and how each family is lowered."""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.codegen.space import Point, Space, shape_class
from tilewright.codegen.tvm.attention_family import lower_attention, refused_attention
from tilewright.codegen.tvm.attention_schedule import (
    AttentionSchedule,
    default_attention_schedule,
)
from tilewright.codegen.tvm.loop_family import LoopSchedule, lower_loop
from tilewright.codegen.tvm.matmul_family import (
    anchor_of,
    lower_batched,
    lower_packed,
    packed_layout_of,
    panel_dtype,
    tiled_weight,
)
from tilewright.codegen.tvm.matmul_schedule import (
    FEW_ROWS,
    MatmulSchedule,
    PackedLayout,
    default_schedule,
)
from tilewright.codegen.tvm.matmul_space import matmul_space, schedule_at
from tilewright.codegen.tvm.pull_decode import decodes
from tilewright.codegen.tvm.region import RULES, LoweredRegion
from tilewright.codegen.tvm.row_family import ROW_OPS, lower_rows, row_operation
from tilewright.codegen.tvm.state_family import lower_append
from tilewright.dsl.dims import Dim, bounds, product
from tilewright.dsl.dtypes import f64
from tilewright.dsl.encoding import Tiled
from tilewright.dsl.graph import Graph, Node, extract
from tilewright.dsl.ident import Ident
from tilewright.dsl.types import CacheType, TensorType, Type
from tilewright.passes.base import Refusal
from tilewright.target.cpu import CpuIsa

ANCHORS = frozenset({"matmul", "attention"}) | ROW_OPS
FLOATS = frozenset({"f32", "bf16", "f16"})


@dataclass(frozen=True, slots=True)
class TvmBackend:
    """Lowers regions for one instruction set."""

    isa: CpuIsa
    name: str = "tvm"

    def accepts(self, region: Node) -> Refusal | None:
        """None where a kernel exists for the region."""
        body = body_of(region)
        for type_ in _types(body):
            reason = _refused_type(type_)
            if reason is not None:
                return Refusal(reason)
        if region.op == "append":
            return _refused_append(region)
        for node in body.nodes:
            if node.op not in RULES and node.op not in ANCHORS:
                return Refusal(f"there is no kernel for {node.op}")
        if any(node.op == "attention" for node in body.nodes):
            reason = refused_attention(body)
            return None if reason is None else Refusal(reason)
        return None

    def weight_tiles(self, weight: TensorType) -> Tiled | None:
        """Tiles of the default schedule's width; None for what is not streamed in tiles."""
        n, k = weight.shape
        dtype = panel_dtype(weight, weight.encoding)
        if dtype is None:
            return None
        if not isinstance(n, int) or not isinstance(k, int):
            return None
        schedule = default_schedule(n, k, dtype, self.isa)
        return Tiled(schedule.nv * self.isa.lanes_f32, 2 if dtype == "bf16" else 1)

    def lower(self, name: str, region: Node, schedule: object | None = None) -> LoweredRegion:
        """The kernel of an accepted region, by a schedule of its family or the default."""
        body = body_of(region)
        if region.op == "append":
            return lower_append(name, region, body, self.isa)
        if region.op == "attention" or region.attrs.str("family") == "attention":
            whole = isinstance(schedule, AttentionSchedule)
            blocks = schedule if whole else default_attention_schedule(self.isa)
            return lower_attention(name, region, body, self.isa, blocks)
        if is_packed(region):
            chosen = schedule if isinstance(schedule, MatmulSchedule) else self.table(region)[-1][1]
            return lower_packed(name, region, body, self.isa, chosen)
        if region.attrs.str("family") == "matmul" and _is_float(body):
            return lower_batched(name, region, body, self.isa)
        if row_operation(body) is not None:
            return lower_rows(name, region, body, self.isa)
        loop = schedule if isinstance(schedule, LoopSchedule) else LoopSchedule()
        return lower_loop(name, region, body, self.isa, loop)

    def table(self, region: Node) -> tuple[tuple[int | None, MatmulSchedule], ...]:
        """The schedule table of a matmul with tiled weights: up to so many rows, this schedule.

        The last entry has no limit. What can be decided from the rows' bounds is decided here.
        """
        layout = _layout(region, self.isa)
        many, few = (
            default_schedule(layout.n, layout.k, layout.dtype, self.isa, few=rows)
            for rows in (False, True)
        )
        low, high = bounds(row_count(region))
        if few == many or low > FEW_ROWS:
            return ((None, many),)
        return ((None, few),) if high <= FEW_ROWS else ((FEW_ROWS, few), (None, many))

    def spaces(self, region: Node) -> dict[str, Space]:
        """What is open to a tuner: a space for each entry of the region's schedule table."""
        if not is_packed(region):
            return {}
        layout = _layout(region, self.isa)
        entries = self.table(region)
        return {shape_class(n): matmul_space(layout, s, self.isa) for n, s in entries}

    def at(self, region: Node, point: Point) -> MatmulSchedule:
        """The schedule that a legal point of one of the region's spaces stands for."""
        layout = _layout(region, self.isa)
        return schedule_at(point, layout.nr // layout.lanes)


def _layout(region: Node, isa: CpuIsa) -> PackedLayout:
    """How the tiled weights of a matmul region lie."""
    weight = tiled_weight(body_of(region))
    assert weight is not None
    return packed_layout_of(weight.operand.tensor, weight.tiles, isa)


def row_count(region: Node) -> Dim:
    """Rows of a matmul region, all leading axes together."""
    return product(anchor_of(body_of(region), "matmul").result.tensor.shape[:-1])


def is_packed(region: Node) -> bool:
    """True for a matmul whose weights lie in tiles."""
    return (
        region.op == "fused"
        and region.attrs.str("family") == "matmul"
        and (tiled_weight(region.attrs.graph("body")) is not None)
    )


def body_of(region: Node) -> Graph:
    """The body of a region; a bare node is a body of one."""
    if region.op == "fused":
        return region.attrs.graph("body")
    return extract(Ident("body"), [region], region.results)


def _is_float(body: Graph) -> bool:
    return anchor_of(body, "matmul").operands[0].tensor.dtype.is_float


def _types(body: Graph) -> list[Type]:
    found = [entry.value.type for entry in body.inputs]
    found.extend(r.type for node in body.nodes for r in node.results)
    return found


def _refused_type(type_: Type) -> str | None:
    if isinstance(type_, CacheType):
        return None if type_.part.is_dense else f"caches stored as {type_.encoding} have no kernel"
    if type_.dtype == f64 or (type_.dtype.is_float and type_.dtype.name not in FLOATS):
        return f"there is no {type_.dtype} arithmetic"
    return None if decodes(type_.encoding) else f"values stored as {type_.encoding} have no decoder"


def _refused_append(region: Node) -> Refusal | None:
    cache = region.operands[0].cache
    if not cache.part.is_dense:
        return Refusal(f"caches stored as {cache.encoding} have no kernel")
    return None
