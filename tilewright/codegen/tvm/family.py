"""Which family of kernels a region belongs to, and what it leaves open to a tuner."""

from __future__ import annotations

from typing import Literal, TypeAlias

from tilewright.codegen.space import Point, Space
from tilewright.codegen.tvm.attention_schedule import AttentionSchedule, default_attention_schedule
from tilewright.codegen.tvm.attention_space import attention_at, attention_sizes, attention_space
from tilewright.codegen.tvm.loop_family import has_vectors
from tilewright.codegen.tvm.loop_schedule import LoopSchedule, default_loop_schedule
from tilewright.codegen.tvm.loop_space import loop_at, loop_space
from tilewright.codegen.tvm.matmul_family import (
    anchor_of,
    packed_layout_of,
    row_table,
    table_dtype,
    tiled_weight,
)
from tilewright.codegen.tvm.matmul_schedule import (
    FEW_ROWS,
    MatmulSchedule,
    PackedLayout,
    TableSchedule,
    batched_schedule,
    default_schedule,
    default_table_schedule,
)
from tilewright.codegen.tvm.matmul_space import (
    batched_at,
    batched_space,
    matmul_space,
    schedule_at,
    table_at,
    table_space,
)
from tilewright.codegen.tvm.row_family import row_operation
from tilewright.dsl.dims import Dim, bounds, product
from tilewright.dsl.graph import Graph, Node, extract
from tilewright.dsl.ident import Ident
from tilewright.target.cpu import CpuIsa

Family = Literal["append", "attention", "tiled", "table", "batched", "grouped", "lines", "loop"]
"""Matmuls are `tiled` by their weights, have a `table` that lies row after row, or are `batched`:
all others of floats. `grouped` ones have a matrix for each group of rows.
"""

Schedule: TypeAlias = AttentionSchedule | LoopSchedule | MatmulSchedule | TableSchedule
Entries: TypeAlias = tuple[tuple[int | None, Schedule], ...]
"""A schedule table: up to so many rows, this schedule; the last entry has no limit."""


def family_of(region: Node) -> Family:
    """The family of an accepted region."""
    body = body_of(region)
    anchor = region.attrs.str("family") if region.op == "fused" else region.op
    match anchor:
        case "append" | "attention" | "grouped":
            return anchor
        case "matmul" if tiled_weight(body) is not None:
            return "tiled"
        case "matmul" if row_table(body) is not None:
            return "table"
        case "matmul" if anchor_of(body, "matmul").operands[0].tensor.dtype.is_float:
            return "batched"
        case _:
            return "loop" if row_operation(body) is None else "lines"


def schedule_table(region: Node, isa: CpuIsa) -> Entries:
    """The schedules that are taken untuned; none where a family has nothing to choose."""
    match family_of(region):
        case "attention":
            return ((None, _attention_schedule(region, isa)),)
        case "tiled":
            return _tiled_table(region, isa)
        case "table":
            few = default_table_schedule(isa.lanes_f32)
            return _by_rows(region, few, batched_schedule(isa.lanes_f32, isa.vector_registers))
        case "batched" | "grouped":
            return ((None, batched_schedule(isa.lanes_f32, isa.vector_registers)),)
        case "loop":
            return ((None, default_loop_schedule(body_of(region), isa)),)
        case _:
            return ()


def space_around(region: Node, default: Schedule, isa: CpuIsa) -> Space:
    """All schedules of an entry of the region's table."""
    match default:
        case AttentionSchedule():
            sizes = attention_sizes(anchor_of(body_of(region), "attention"))
            return attention_space(sizes, default, isa)
        case LoopSchedule():
            body = body_of(region)
            vectors = has_vectors(region, body, isa, default)
            return loop_space(body, default, isa, vectors=vectors)
        case TableSchedule():
            table = row_table(body_of(region))
            assert table is not None
            columns = table.tensor.shape[1]
            assert isinstance(columns, int)
            return table_space(columns, table_dtype(table) or "f32", default, isa)
        case MatmulSchedule() if family_of(region) == "tiled":
            return matmul_space(_layout(region, isa), default, isa)
        case MatmulSchedule():
            return batched_space(default, isa)


def schedule_of(region: Node, point: Point, isa: CpuIsa) -> Schedule:
    """The schedule that a legal point of one of the region's spaces stands for."""
    match family_of(region):
        case "attention":
            return attention_at(point, _attention_schedule(region, isa), isa)
        case "tiled":
            layout = _layout(region, isa)
            return schedule_at(point, layout.nr // layout.lanes)
        case "loop":
            return loop_at(point, default_loop_schedule(body_of(region), isa))
        case _:
            return table_at(point) if "entries" in point else batched_at(point)


def _attention_schedule(region: Node, isa: CpuIsa) -> AttentionSchedule:
    sizes = attention_sizes(anchor_of(body_of(region), "attention"))
    return default_attention_schedule(sizes.head_dim, sizes.value_dim, isa)


def _tiled_table(region: Node, isa: CpuIsa) -> Entries:
    """One schedule for a few rows and one for many; their bounds may decide between these."""
    layout = _layout(region, isa)
    many, few = (
        default_schedule(layout.n, layout.k, layout.dtype, isa, few=rows) for rows in (False, True)
    )
    return ((None, many),) if few == many else _by_rows(region, few, many)


def _by_rows(region: Node, few: Schedule, many: Schedule) -> Entries:
    """`few` up to FEW_ROWS rows and `many` beyond, where the bounds of the rows leave both."""
    low, high = bounds(row_count(region))
    if low > FEW_ROWS:
        return ((None, many),)
    return ((None, few),) if high <= FEW_ROWS else ((FEW_ROWS, few), (None, many))


def _layout(region: Node, isa: CpuIsa) -> PackedLayout:
    """How the tiled weights of a matmul region lie."""
    weight = tiled_weight(body_of(region))
    assert weight is not None
    return packed_layout_of(weight.operand.tensor, weight.tiles, isa)


def row_count(region: Node) -> Dim:
    """Rows of a matmul region, all leading axes together."""
    return product(anchor_of(body_of(region), "matmul").result.tensor.shape[:-1])


def body_of(region: Node) -> Graph:
    """The body of a region; a bare node is a body of one."""
    if region.op == "fused":
        return region.attrs.graph("body")
    return extract(Ident("body"), [region], region.results)
