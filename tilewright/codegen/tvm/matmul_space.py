"""The space of schedules of a matmul whose weights lie in tiles.

The layout is fixed (it belongs to the program, see `tile_weights`), and with it the width of a
tile. Needs no TVM.
"""

from __future__ import annotations

from typing import cast

from tilewright.codegen.space import Dimension, OneOf, Point, PowerOfTwo, Space, Value, integer
from tilewright.codegen.tvm.matmul_schedule import (
    TILE,
    Instruction,
    MatmulSchedule,
    PackedLayout,
    check,
)
from tilewright.dsl.errors import InvalidSchedule
from tilewright.target.cpu import CpuIsa

FAMILY = "tvm.matmul"


def matmul_space(layout: PackedLayout, default: MatmulSchedule, isa: CpuIsa) -> Space:
    """All schedules over this layout, around the one that is taken untuned."""
    nv = layout.nr // layout.lanes

    def constraint(point: Point) -> str | None:
        schedule = schedule_at(point, nv)
        sums = schedule.mr * nv + nv + 1
        if schedule.instruction != "amx" and sums > isa.vector_registers:
            return f"{sums} vectors do not fit {isa.vector_registers} registers"
        try:
            check(schedule, layout, isa)
        except InvalidSchedule as mistake:
            return str(mistake)
        return None

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
    )
    return Space(FAMILY, dimensions, constraint)


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
    )


def _instructions(layout: PackedLayout, isa: CpuIsa) -> set[Value]:
    found: set[Value] = {"fma"}
    if layout.dtype == "bf16" and isa.bf16_dot and layout.lanes == TILE:
        found.add("dot")
    if layout.dtype == "bf16" and isa.amx_bf16 and layout.lanes == TILE:
        found.add("amx")
    return found
