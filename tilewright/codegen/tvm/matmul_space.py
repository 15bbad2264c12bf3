"""The spaces of schedules of matmuls. Needs no TVM.

Where weights lie in tiles the layout is fixed (it belongs to the program, see `tile_weights`), and
with it the width of a tile. Where both operands are packed as they come, it is open. A table that
lies row after row is read in its order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from tilewright.codegen.space import Dimension, OneOf, Point, PowerOfTwo, Space, Value, integer
from tilewright.codegen.tvm.matmul_schedule import (
    TILE,
    Instruction,
    MatmulSchedule,
    PackedLayout,
    TableSchedule,
    batched_room,
    check,
    check_table,
    most_tiles,
    row_stride,
)
from tilewright.codegen.tvm.tile_model import product_cost
from tilewright.dsl.errors import InvalidSchedule
from tilewright.target.cpu import CpuIsa

FAMILY = "tvm.matmul"
TABLE = "tvm.matmul.table"
BATCHED = "tvm.matmul.batched"

_MOST_SCRATCH = 3 << 18
"""Bytes of a thread's stack that a kernel may take."""


def matmul_space(layout: PackedLayout, default: MatmulSchedule, isa: CpuIsa) -> Space:
    """All schedules over this layout, around the one that is taken untuned."""
    nv = layout.nr // layout.lanes

    def constraint(point: Point) -> str | None:
        schedule = schedule_at(point, nv)
        sums = schedule.mr * nv + nv + 1
        if schedule.instruction != "amx" and sums > isa.vector_registers:
            return f"{sums} vectors do not fit {isa.vector_registers} registers"
        return _reason(lambda: check(schedule, layout, isa))

    rows = {1, 2, 4, 6, 8, 10, 12, 14, 16, 2 * TILE, default.mr}
    parts = {128, 256, 512, 1024, layout.k_padded, default.kc}
    tiles = {1, 2, 4, 8, 16, 32, default.mc // default.mr}
    dimensions: tuple[Dimension, ...] = (
        OneOf("instruction", tuple(sorted(_instructions(layout, isa))), default.instruction),
        OneOf("mr", tuple(sorted(rows)), default.mr),
        OneOf(
            "kc",
            tuple(sorted(p for p in parts if p <= max(layout.k_padded, default.kc))),
            default.kc,
        ),
        OneOf("tiles", tuple(sorted(tiles)), default.mc // default.mr),
        PowerOfTwo("unroll", 1, 8, default.unroll),
        OneOf("prefetch", (0, 1, 2), default.prefetch),
        OneOf("pack_rows", (False, True), default.pack_rows),
        OneOf("stream", (0, 8, 16, 32), default.stream),
        OneOf("widen", tuple(sorted({0, most_tiles(layout.dtype)})), default.widen),
    )

    def cost(point: Point) -> float:
        s = schedule_at(point, nv)
        return product_cost(s.mr, s.nv, s.kc, s.mc, s.unroll, layout.lanes, packed=s.pack_rows)

    return Space(
        FAMILY, dimensions, constraint, cost if _instructions(layout, isa) == {"fma"} else None
    )


def schedule_at(point: Point, nv: int) -> MatmulSchedule:
    """The schedule of a point; `tiles` of mr rows are what stays in L2."""
    mr = integer(point["mr"])
    return MatmulSchedule(
        mr,
        nv,
        integer(point["kc"]),
        mr * integer(point["tiles"]),
        integer(point["unroll"]),
        cast("Instruction", point["instruction"]),
        bool(point["pack_rows"]),
        integer(point["prefetch"]),
        integer(point["stream"]),
        integer(point["widen"]),
    )


def table_space(columns: int, dtype: str, default: TableSchedule, isa: CpuIsa) -> Space:
    """All schedules over a table with so many columns, around the one that is taken untuned."""

    def constraint(point: Point) -> str | None:
        schedule = table_at(point)
        parts = 1 if dtype == "f32" else 2
        sums = schedule.mr * schedule.entries + parts + 1
        if sums > isa.vector_registers:
            return f"{sums} vectors do not fit {isa.vector_registers} registers"
        return _too_large(schedule.mr * row_stride(columns)) or _reason(
            lambda: check_table(schedule, dtype, isa)
        )

    rows, entries = {1, 2, 3, 4, 6, 8, default.mr}, {1, 2, 4, 8, default.entries}
    dimensions = (
        OneOf("mr", tuple(sorted(rows)), default.mr),
        OneOf("entries", tuple(sorted(e for e in entries if e <= isa.lanes_f32)), default.entries),
        OneOf("ahead", (0, 1, 2, 4), default.ahead),
    )
    return Space(TABLE, dimensions, constraint)


def table_at(point: Point) -> TableSchedule:
    """The schedule of a point."""
    return TableSchedule(integer(point["mr"]), integer(point["entries"]), integer(point["ahead"]))


def batched_space(default: MatmulSchedule, isa: CpuIsa) -> Space:
    """All schedules of a product whose operands are both packed as they come."""

    def constraint(point: Point) -> str | None:
        schedule = batched_at(point)
        sums = schedule.mr * schedule.nv + schedule.nv + 1
        if sums > isa.vector_registers:
            return f"{sums} vectors do not fit {isa.vector_registers} registers"
        nr = schedule.nv * isa.lanes_f32
        scratch = batched_room(schedule) + schedule.mc * nr + schedule.kc * nr
        layout = PackedLayout(nr, schedule.kc, nr, "f32", isa.lanes_f32)
        return _too_large(scratch) or _reason(lambda: check(schedule, layout, isa))

    rows, tiles = {1, 2, 4, 6, 8, 10, 12, 14, default.mr}, {1, 2, 4, 8, 16, 24, 32}
    dimensions = (
        OneOf("mr", tuple(sorted(rows)), default.mr),
        OneOf("nv", tuple(sorted({1, 2, 3, 4, default.nv})), default.nv),
        PowerOfTwo("kc", 64, 1024, default.kc),
        OneOf("tiles", tuple(sorted({*tiles, default.mc // default.mr})), default.mc // default.mr),
        PowerOfTwo("unroll", 1, 8, default.unroll),
    )

    def cost(point: Point) -> float:
        s = batched_at(point)
        return product_cost(s.mr, s.nv, s.kc, s.mc, s.unroll, isa.lanes_f32, packed=True)

    return Space(BATCHED, dimensions, constraint, cost)


def batched_at(point: Point) -> MatmulSchedule:
    """The schedule of a point; `tiles` of mr rows meet a panel while it is packed."""
    mr, nv, kc, tiles, unroll = (integer(point[n]) for n in ("mr", "nv", "kc", "tiles", "unroll"))
    return MatmulSchedule(mr, nv, kc, mr * tiles, unroll, prefetch=0)


def _too_large(floats: int) -> str | None:
    needed = 4 * floats
    return f"{needed} bytes of scratch are too many" if needed > _MOST_SCRATCH else None


def _reason(checked: Callable[[], None]) -> str | None:
    """What a check refuses, or None."""
    try:
        checked()
    except InvalidSchedule as mistake:
        return str(mistake)
    return None


def _instructions(layout: PackedLayout, isa: CpuIsa) -> set[Value]:
    found: set[Value] = {"fma"}
    if layout.dtype == "bf16" and isa.bf16_dot and layout.lanes == TILE:
        found.add("dot")
    if layout.dtype == "bf16" and isa.amx_bf16 and layout.lanes == TILE:
        found.add("amx")
    return found
