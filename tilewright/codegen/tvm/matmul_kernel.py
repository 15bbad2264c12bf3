"""Matrix product with packed weights: epilogue(rows [M, K] @ panels [K, N]), for any M at run time.

The loops are those of Goto and van de Geijn ("Anatomy of High-Performance Matrix Multiplication",
2008), with the weights packed at compile time:

    for each block of mc rows                     stays in L2
        copy the rows to scratch, if they need computing or converting
        for each panel of nr columns              this thread's share
            for each kc of the reduced axis       this part of the panel stays in L1
                convert it to f32, if many tiles are to read it
                for each tile of mr rows
                    sum mr x nr in registers
            epilogue of the tiles' rows

Sums rest in scratch between the parts and before the epilogue, which therefore is emitted once, in
a loop over rows, and finds all registers free. Threads share the (panel, tile) pairs of a block of
rows in one contiguous run each, so their work differs by one tile at most, whatever M is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tvm import tirx

from tilewright.codegen.tvm import amx, vector
from tilewright.codegen.tvm.emit import (
    Expr,
    Index,
    KernelBuilder,
    Pointer,
    i64,
)
from tilewright.codegen.tvm.matmul_schedule import MatmulSchedule, PackedLayout, check
from tilewright.codegen.tvm.microkernel import Operands, rest_of_rows, tile_sums, widen
from tilewright.codegen.tvm.vector import Stored

Rows: TypeAlias = Callable[[Expr, Expr, int, Expr | None], Expr]
"""The left operand: (row, k, lanes, mask) -> f32 lanes of that row from k on."""

Epilogue: TypeAlias = Callable[[Expr, Expr, Sequence[Expr], Expr | None], None]
"""What becomes of the sums: (row, column, values, mask) stores them, changed as it likes.

`values` has one f32 vector (or scalar, in tails) for each interleaved matrix, all for the same
columns from `column` on; `mask` says which of these columns exist (None: all).
"""


@dataclass(frozen=True, slots=True)
class RowMajor:
    """A left operand that lies in memory, row after row, `stride` elements apart."""

    pointer: Pointer
    stride: Index

    def __call__(self, row: Expr, k: Expr, lanes: int, mask: Expr | None) -> Expr:
        return vector.load(self.pointer, row * self.stride + k, lanes, mask)


def store_rows(pointer: Pointer, stride: Index) -> Epilogue:
    """The plain epilogue: store the sums row after row, `stride` elements apart."""

    def epilogue(row: Expr, column: Expr, values: Sequence[Expr], mask: Expr | None) -> None:
        (value,) = values
        vector.store(pointer, row * stride + column, value, mask)

    return epilogue


def packed_matmul(
    kernel: KernelBuilder,
    m: Expr,
    rows: Rows,
    weights: Stored,
    layout: PackedLayout,
    schedule: MatmulSchedule,
    epilogue: Epilogue,
) -> None:
    """Emit the product of `rows` [m, k] and packed `weights`, shared among the team.

    Raises:
        InvalidSchedule: schedule, layout and instruction set do not fit together.
    """
    check(schedule, layout, kernel.isa)
    _Product(kernel, m, rows, weights, layout, schedule, epilogue).emit()


class _Product:
    """One matmul while it is being emitted."""

    def __init__(
        self,
        kernel: KernelBuilder,
        m: Expr,
        rows: Rows,
        weights: Stored,
        layout: PackedLayout,
        schedule: MatmulSchedule,
        epilogue: Epilogue,
    ) -> None:
        self.kernel = kernel
        self.m = m
        self.rows = rows
        self.weights = weights
        self.layout = layout
        self.schedule = schedule
        self.epilogue = epilogue
        self.parts = -(-layout.k_padded // schedule.kc)
        self.sums = kernel.scratch("f32", schedule.mc * layout.nr, "sums")
        in_dtype = "f32" if schedule.instruction == "fma" else "bf16"
        # In place, rows must have whole pairs and be stored as the instruction reads them.
        self.in_place = (
            isinstance(rows, RowMajor)
            and rows.pointer.dtype == in_dtype
            and layout.k == layout.k_padded
            and not schedule.pack_rows
            and schedule.instruction != "amx"
        )
        part = min(schedule.kc, layout.k_padded) * layout.nr
        self.wide = kernel.scratch("f32", part, "wide") if schedule.widen else None
        # An odd number of lines between rows, so that they do not meet in one set of the cache.
        self.stride = -(-layout.k_padded // 32) * 32 + 32
        if not self.in_place:
            self.packed = kernel.scratch(in_dtype, schedule.mc * self.stride, "rows")

    def emit(self) -> None:
        kernel, mc, mr = self.kernel, self.schedule.mc, self.schedule.mr
        if self.schedule.instruction == "amx":
            amx.configure(kernel)
        with kernel.loop(0, self.m, mc, "block") as first:
            count = kernel.let(tirx.Min(i64(mc), self.m - first), "count")
            if not self.in_place:
                self._pack(first, count)
            tiles = kernel.let(tirx.truncdiv(count + (mr - 1), i64(mr)), "tiles")
            begin, end = kernel.share(tiles * self.layout.panels)
            with kernel.when(begin < end):
                panel_begin = kernel.let(tirx.truncdiv(begin, tiles), "panel_begin")
                panel_end = kernel.let(tirx.truncdiv(end + tiles - 1, tiles), "panel_end")
                with kernel.loop(panel_begin, panel_end, 1, "panel") as panel:
                    start = panel * tiles
                    low = kernel.let(tirx.Max(begin, start) - start, "low")
                    high = kernel.let(tirx.Min(end - start, tiles), "high")
                    self._panel(first, count, panel, low, high)
        if self.schedule.instruction == "amx":
            amx.release(kernel)

    def _pack(self, first: Expr, count: Expr) -> None:
        """Copy the block's rows to scratch, as f32 or bf16, zero beyond k."""
        kernel, layout = self.kernel, self.layout
        with kernel.loop(0, count, 1, "row") as row:

            def copy(k: Expr, lanes: int, mask: Expr | None) -> None:
                value = self.rows(first + row, k, lanes, mask)
                # Whole vectors, also at the end: lanes beyond k are zero, and scratch has room.
                vector.store(self.packed, row * self.stride + k, value)

            vector.vector_loop(kernel, 0, layout.k, copy)
            lanes = kernel.isa.lanes_f32 if vector.has_masks(kernel) else 1
            for k in range(-(-layout.k // lanes) * lanes, layout.k_padded, lanes):
                vector.store(self.packed, row * self.stride + k, vector.splat(0.0, lanes))

    def _panel(self, first: Expr, count: Expr, panel: Expr, low: Expr, high: Expr) -> None:
        kernel, layout, schedule = self.kernel, self.layout, self.schedule
        base = self.weights.at(kernel.let(panel * layout.panel_elements, "base"))
        if self.parts == 1:
            self._tiles(first, count, base, low, high, 0, layout.k_padded)
        else:
            self._clear(low, high)
            with kernel.loop(0, layout.k_padded, schedule.kc, "part") as k0:
                k1 = kernel.let(tirx.Min(k0 + schedule.kc, i64(layout.k_padded)), "k1")
                self._tiles(first, count, base, low, high, k0, k1)
        last = kernel.let(tirx.Min(high * schedule.mr, count), "last")
        with kernel.loop(low * schedule.mr, last, 1, "row") as row:
            self._finish_row(first, row, panel)

    def _clear(self, low: Expr, high: Expr) -> None:
        lanes, nr, mr = self.kernel.isa.lanes_f32, self.layout.nr, self.schedule.mr
        with self.kernel.loop(low * (mr * nr), high * (mr * nr), lanes) as index:
            self.sums.store(index, vector.splat(0.0, lanes))

    def _tiles(
        self, first: Expr, count: Expr, base: Stored, low: Expr, high: Expr, k0: Index, k1: Index
    ) -> None:
        """Add the part [k0, k1) of the panel to the sums of tiles [low, high)."""
        kernel, mr = self.kernel, self.schedule.mr
        whole = kernel.let(tirx.Min(high, tirx.truncdiv(count, i64(mr))), "whole")

        def tiles(wide: Pointer | None, *, last: bool) -> None:
            with kernel.loop(low, whole, 1, "tile") as tile:
                self._tile(first, tile, base, k0, k1, mr, None, wide)
            if last:
                self._last_tile(first, count, base, whole, high, k0, k1, wide)

        # Where converting is dear, the last rows read what was converted as well.
        dear = self.layout.dtype == "e4m7"
        if self.wide is None:
            tiles(None, last=dear)
        else:
            with kernel.when((high if dear else whole) - low >= self.schedule.widen):
                widen(kernel, base, self.wide, self.layout, k0, k1)
                tiles(self.wide.at(kernel.let(k0 * -self.layout.nr, "origin")), last=dear)
            with kernel.otherwise():
                tiles(None, last=dear)
        if not dear:
            self._last_tile(first, count, base, whole, high, k0, k1, None)

    def _last_tile(
        self,
        first: Expr,
        count: Expr,
        base: Stored,
        whole: Expr,
        high: Expr,
        k0: Index,
        k1: Index,
        wide: Pointer | None,
    ) -> None:
        """The rows behind all whole tiles, if they are among those below `high`."""
        kernel, mr = self.kernel, self.schedule.mr
        with kernel.when(whole < high):
            rest = kernel.let(count - whole * mr, "rest")
            if self.schedule.instruction == "amx":
                # Tiles have 16 rows whatever they hold: rows beyond `count` are summed in vain.
                with kernel.when(rest <= mr // 2):
                    self._tile(first, whole, base, k0, k1, mr // 2, None)
                with kernel.otherwise():
                    self._tile(first, whole, base, k0, k1, mr, None)
            else:

                def tile_of(rows: int) -> None:
                    self._tile(first, whole, base, k0, k1, rows, rest, wide)

                rest_of_rows(kernel, rest, mr - 1, tile_of)

    def _tile(
        self,
        first: Expr,
        tile: Expr,
        base: Stored,
        k0: Index,
        k1: Index,
        rows: int,
        rest: Expr | None,
        wide: Pointer | None = None,
    ) -> None:
        """`rows` rows of one tile; with `rest`, rows from there on repeat the last.

        `wide` is the panel as f32, of which the part [k0, k1) exists.
        """
        kernel, schedule = self.kernel, self.schedule
        sums = self.sums.at(kernel.let(tile * (schedule.mr * self.layout.nr), "at"))
        start = kernel.let(tile * schedule.mr, "start")

        def row(number: int) -> Expr:
            if rest is None or number == 0:
                return start + number
            return start + tirx.Min(i64(number), rest - 1)

        if schedule.instruction == "amx":
            assert isinstance(base, Pointer)
            left = self.packed.at(kernel.let(start * self.stride))
            amx.tile_sums(kernel, left, self.stride, base, sums, k0, k1, rows, self.parts > 1)
            return
        if self.in_place:
            assert isinstance(self.rows, RowMajor)
            source, stride = self.rows.pointer.at(first * self.rows.stride), self.rows.stride
        else:
            source, stride = self.packed, self.stride
        starts = [source.at(kernel.let(row(r) * stride, "left")) for r in range(rows)]
        streams = rest is not None
        ahead = None if streams or not schedule.prefetch else base.at(self._ahead(tile, k1))
        panel, resume = base if wide is None else wide, self.parts > 1
        operands = Operands(starts, panel, sums, self.layout, resume, ahead, streams)
        tile_sums(kernel, operands, schedule, k0, k1)

    def _ahead(self, tile: Expr, k1: Index) -> Expr:
        """Where in the panel's next part (or the next panel) this tile's share of lines starts.

        Tiles take their lines one after another; with many tiles the last ones reach further than
        the next part, which will be wanted too.
        """
        schedule, layout = self.schedule, self.layout
        pairs = 2 if layout.in_pairs else 1
        lines = schedule.kc // (schedule.unroll * pairs) * schedule.prefetch
        line = self.weights.line
        return self.kernel.let(k1 * layout.nr + tile * (lines * line), "ahead")

    def _finish_row(self, first: Expr, row: Expr, panel: Expr) -> None:
        """The epilogue of one row of a panel."""
        layout = self.layout
        columns = layout.nr // layout.interleave
        last = layout.n - (layout.panels - 1) * columns
        if last == columns:
            self._finish_columns(first, row, panel, columns)
            return
        with self.kernel.when(panel < layout.panels - 1):
            self._finish_columns(first, row, panel, columns)
        with self.kernel.otherwise():
            self._finish_columns(first, row, panel, last)

    def _finish_columns(self, first: Expr, row: Expr, panel: Expr, columns: int) -> None:
        kernel, layout = self.kernel, self.layout
        at = kernel.let(row * layout.nr, "at")
        column = kernel.let(panel * (layout.nr // layout.interleave), "column")

        def finish(offset: Expr, lanes: int, mask: Expr | None) -> None:
            # `offset` counts columns of one matrix; vectors of the matrices lie in turn.
            group = tirx.truncdiv(offset, i64(layout.lanes)) * (layout.lanes * layout.interleave)
            place = at + group + tirx.truncmod(offset, i64(layout.lanes))
            values = [
                self.sums.load(place + number * layout.lanes, lanes)
                for number in range(layout.interleave)
            ]
            self.epilogue(first + row, column + offset, values, mask)

        lanes = layout.lanes
        for offset in range(0, columns // lanes * lanes, lanes):
            finish(i64(offset), lanes, None)
        if columns % lanes:
            vector.vector_loop(kernel, columns // lanes * lanes, columns, finish)
