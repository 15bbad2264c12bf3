"""Batched matrix product of two activations: both operands come at run time, all extents too.

Parts of both operands are packed into scratch as they are needed, kc of the reduced axis at a time,
and multiplied by the same inner loop as constant weights. Threads share the (batch, block of rows,
panel) triples in contiguous runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from tvm import tirx

from tilewright.codegen.tvm import vector
from tilewright.codegen.tvm.emit import Expr, Index, KernelBuilder, i64
from tilewright.codegen.tvm.index import split
from tilewright.codegen.tvm.matmul_schedule import (
    MatmulSchedule,
    PackedLayout,
    batched_room,
    check,
    row_stride,
)
from tilewright.codegen.tvm.microkernel import Operands, rest_of_rows, tile_sums

Operand: TypeAlias = Callable[[Expr, Expr, Expr, int, Expr | None], Expr]
"""(batch, row, column, lanes, mask) -> f32 lanes of that row from `column` on."""

BatchEpilogue: TypeAlias = Callable[[Expr, Expr, Expr, Expr, Expr | None], None]
"""(batch, row, column, value, mask) stores the sums, changed as it likes."""


def batched_matmul(
    kernel: KernelBuilder,
    batch: Index,
    m: Index,
    n: Index,
    k: Index,
    left: Operand,
    right: Operand,
    schedule: MatmulSchedule,
    epilogue: BatchEpilogue,
    *,
    transposed: bool = False,
) -> None:
    """Emit left [batch, m, k] @ right, for any extents.

    `right` is [batch, k, n], or with `transposed` [batch, n, k]: each is read along its rows.

    Raises:
        InvalidSchedule: the schedule has sizes below 1, or parts that are no whole tiles.
    """
    extents = (i64(batch), i64(m), i64(n), i64(k))
    BatchedProduct(kernel, extents, left, right, schedule, epilogue, transposed).emit()


_FEWEST = 4
"""Tiles of rows for which packing panels pays."""


class BatchedProduct:
    """One such product while it is being emitted."""

    def __init__(
        self,
        kernel: KernelBuilder,
        extents: tuple[Expr, Expr, Expr, Expr],
        left: Operand,
        right: Operand,
        schedule: MatmulSchedule,
        epilogue: BatchEpilogue,
        transposed: bool,
    ) -> None:
        self.kernel = kernel
        self.batch, self.m, self.n, self.k = extents
        self.left = left
        self.right = right
        self.schedule = schedule
        self.epilogue = epilogue
        self.transposed = transposed
        self.lanes = kernel.isa.lanes_f32
        self.nr = schedule.nv * self.lanes
        # One panel of a length that is only known at run time: the inner loop reads no more of it.
        self.layout = PackedLayout(self.nr, schedule.kc, self.nr, "f32", self.lanes)
        check(schedule, self.layout, kernel.isa)
        self.room = batched_room(schedule)
        self.rows = kernel.scratch("f32", self.room, "rows")
        self.panel = kernel.scratch("f32", schedule.kc * self.nr, "panel")
        self.sums = kernel.scratch("f32", schedule.mc * self.nr, "sums")

    def emit(self) -> None:
        kernel, mc = self.kernel, self.plan_rows()
        panels, blocks = self.panels(), self.blocks(self.m, mc)
        begin, end = kernel.share(self.batch * blocks * panels)
        with kernel.loop(begin, end, 1, "task") as task:
            outer, panel = split(kernel, task, panels)
            number, block = split(kernel, outer, blocks)
            first = kernel.let(block * mc, "first")
            count = kernel.let(tirx.Min(mc, self.m - first), "count")
            fresh = tirx.Or(tirx.EQ(panel, i64(0)), tirx.EQ(task, begin))
            self.block(number, first, count, panel, fresh)

    def panels(self) -> Expr:
        """How many panels the columns take."""
        return self.kernel.let(tirx.truncdiv(self.n + (self.nr - 1), i64(self.nr)), "panels")

    def blocks(self, rows: Expr, most: Expr) -> Expr:
        """How many blocks of at most `most` rows there are."""
        return self.kernel.let(tirx.truncdiv(rows + (most - 1), most), "blocks")

    def block(self, number: Expr, first: Expr, count: Expr, panel: Expr, fresh: Expr) -> None:
        """The product of `count` rows from `first` on with one panel; `fresh` where the rows that
        are packed are others.
        """
        kernel, kc = self.kernel, self.schedule.kc
        column = kernel.let(panel * self.nr, "column")
        with kernel.loop(0, count * self.nr, self.lanes) as index:
            self.sums.store(index, vector.splat(0.0, self.lanes))
        with kernel.loop(0, self.k, kc, "part") as k0:
            length = kernel.let(tirx.Min(i64(kc), self.k - k0), "length")
            at = kernel.held(tirx.Select(self.stay, k0, i64(0)))
            with kernel.when(tirx.Or(fresh, tirx.Not(self.stay))):
                self._pack_rows(number, first, count, k0, length, at)
            self._pack_panel(number, column, k0, length)
            self._tiles(count, length, at)
        self._finish(number, first, count, column)

    def plan_rows(self) -> Expr:
        """How many rows a block has: as many as stay packed whole while all panels pass by. Where
        these would be few, `mc`, which are packed anew for each panel.
        """
        kernel, mr, mc = self.kernel, self.schedule.mr, self.schedule.mc
        line = kernel.held(tirx.truncdiv(self.k + 31, i64(32)) * 32 + 16)
        self.stay = line * (_FEWEST * mr) <= self.room
        self.stride = kernel.held(tirx.Select(self.stay, line, i64(row_stride(self.schedule.kc))))
        whole = tirx.truncdiv(i64(self.room), line * mr) * mr
        return kernel.held(tirx.Select(self.stay, tirx.Min(whole, i64(mc)), i64(mc)))

    def _pack_rows(
        self, number: Expr, first: Expr, count: Expr, k0: Expr, length: Expr, at: Expr
    ) -> None:
        """Copy left[first:, k0:] to the rows' elements from `at` on."""
        with self.kernel.loop(0, count, 1, "row") as row:

            def copy(k: Expr, lanes: int, mask: Expr | None) -> None:
                value = self.left(number, first + row, k0 + k, lanes, mask)
                self.rows.store(row * self.stride + at + k, value, mask)

            vector.vector_loop(self.kernel, 0, length, copy)

    def _pack_panel(self, number: Expr, column: Expr, k0: Expr, length: Expr) -> None:
        """Copy right[k0:, column:] to the panel [k, nr]; columns beyond n are zero."""
        kernel = self.kernel
        width = kernel.let(tirx.Min(i64(self.nr), self.n - column), "width")
        with kernel.when(width < self.nr), kernel.loop(0, length, 1, "k") as k:
            for v in range(self.schedule.nv):
                self.panel.store(k * self.nr + v * self.lanes, vector.splat(0.0, self.lanes))
        if self.transposed:
            with kernel.loop(0, width, 1, "c") as c, kernel.loop(0, length, 1, "k") as k:
                value = self.right(number, column + c, k0 + k, 1, None)
                self.panel.store(k * self.nr + c, value)
            return
        with kernel.loop(0, length, 1, "k") as k:

            def copy(c: Expr, lanes: int, mask: Expr | None) -> None:
                value = self.right(number, k0 + k, column + c, lanes, mask)
                self.panel.store(k * self.nr + c, value, mask)

            vector.vector_loop(kernel, 0, width, copy)

    def _tiles(self, count: Expr, length: Expr, at: Expr) -> None:
        kernel, mr = self.kernel, self.schedule.mr
        whole = kernel.let(tirx.truncdiv(count, i64(mr)), "whole")
        with kernel.loop(0, whole, 1, "tile") as tile:
            self._tile(tile, [tile * mr + r for r in range(mr)], length, at)
        rest = kernel.let(count - whole * mr, "rest")

        def tile_of(rows: int) -> None:
            start = whole * mr
            places = [start + (tirx.Min(i64(r), rest - 1) if r else 0) for r in range(rows)]
            self._tile(whole, places, length, at)

        with kernel.when(rest > 0):
            rest_of_rows(kernel, rest, mr - 1, tile_of)

    def _tile(self, tile: Expr, places: Sequence[Expr], length: Expr, at: Expr) -> None:
        kernel = self.kernel
        rows = [self.rows.at(kernel.let(place * self.stride + at, "left")) for place in places]
        sums = self.sums.at(kernel.let(tile * (self.schedule.mr * self.nr), "sums"))
        operands = Operands(rows, self.panel, sums, self.layout, True, None, False)
        tile_sums(kernel, operands, self.schedule, 0, length)

    def _finish(self, number: Expr, first: Expr, count: Expr, column: Expr) -> None:
        width = self.kernel.let(tirx.Min(i64(self.nr), self.n - column), "width")
        with self.kernel.loop(0, count, 1, "row") as row:

            def finish(c: Expr, lanes: int, mask: Expr | None) -> None:
                value = self.sums.load(row * self.nr + c, lanes)
                self.epilogue(number, first + row, column + c, value, mask)

            vector.vector_loop(self.kernel, 0, width, finish)
