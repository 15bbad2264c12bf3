"""Matrix product with a table that is stored row after row: rows [M, K] @ table [N, K]^T.

For a table that is also gathered from (tied embeddings): one copy in memory, in its plain order,
serves both. Sums run along k, and each one is added up across lanes at its end. Meant for a few
rows against a large table, where reading the table is all that counts: each of its bytes is read
once for every eight rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx

from tilewright.codegen.tvm import vector
from tilewright.codegen.tvm.emit import Expr, Index, KernelBuilder, Register, i64
from tilewright.codegen.tvm.matmul_kernel import Epilogue, Rows
from tilewright.codegen.tvm.matmul_schedule import TableSchedule, check_table, row_stride
from tilewright.codegen.tvm.microkernel import rest_of_rows
from tilewright.codegen.tvm.vector import Stored


def table_matmul(
    kernel: KernelBuilder,
    m: Expr,
    n: Index,
    k: int,
    rows: Rows,
    table: Stored,
    schedule: TableSchedule,
    epilogue: Epilogue,
) -> None:
    """Emit epilogue(rows [m, k] @ table [n, k]^T), the table's rows shared among the team.

    Raises:
        InvalidSchedule: the table is neither f32, bf16 nor e4m7, or `entries` does not divide the
            lanes.
    """
    check_table(schedule, table.dtype, kernel.isa)
    _TableProduct(kernel, n, k, rows, table, schedule, epilogue).emit(m)


class _TableProduct:
    """One such product while it is being emitted."""

    def __init__(
        self,
        kernel: KernelBuilder,
        n: Index,
        k: int,
        rows: Rows,
        table: Stored,
        schedule: TableSchedule,
        epilogue: Epilogue,
    ) -> None:
        self.kernel = kernel
        self.n = i64(n)
        self.k = k
        self.rows = rows
        self.table = table
        self.schedule = schedule
        self.epilogue = epilogue
        self.lanes = kernel.isa.lanes_f32
        # Short entries come in pairs: one vector of even places, one of odd ones.
        self.step = self.lanes * (2 if table.dtype in vector.PAIRED else 1)
        self.whole = k // self.step * self.step
        self.stride = row_stride(k)
        self.left = kernel.scratch("f32", schedule.mr * self.stride, "left")
        self.sums = kernel.scratch("f32", schedule.mr * self.lanes, "sums")

    def emit(self, m: Expr) -> None:
        kernel, mr = self.kernel, self.schedule.mr
        groups = tirx.truncdiv(self.n + (self.lanes - 1), i64(self.lanes))
        begin, end = kernel.share(groups)
        with kernel.loop(0, m, mr, "block") as first:
            count = kernel.let(tirx.Min(i64(mr), m - first), "count")
            with kernel.loop(0, count, 1, "row") as row:
                self._copy_row(first, row)

            def body(rows: int) -> None:
                with kernel.loop(begin, end, 1, "group") as group:
                    self._group(first, count, kernel.let(group * self.lanes, "column"), rows)

            rest_of_rows(kernel, count, mr, body)

    def _copy_row(self, first: Expr, row: Expr) -> None:
        """Convert a row to f32, in the order in which the table's lanes come."""
        kernel, lanes = self.kernel, self.lanes
        if self.step == lanes:
            with kernel.loop(0, self.whole, lanes, "k") as k:
                self.left.store(row * self.stride + k, self.rows(first + row, k, lanes, None))
        else:
            with kernel.loop(0, self.whole, self.step, "k") as k, kernel.loop(0, lanes) as lane:
                at = kernel.let(row * self.stride + k + lane, "at")
                for odd in range(2):
                    value = self.rows(first + row, k + lane * 2 + odd, 1, None)
                    self.left.store(at + odd * lanes, value)
        with kernel.loop(self.whole, self.k, 1, "k") as k:
            self.left.store(row * self.stride + k, self.rows(first + row, k, 1, None))

    def _group(self, first: Expr, count: Expr, column: Expr, rows: int) -> None:
        """`lanes` neighbouring entries against `rows` rows."""
        kernel, lanes, entries = self.kernel, self.lanes, self.schedule.entries
        with kernel.loop(0, lanes, entries, "entry") as entry:
            self._dot(column, entry, rows)
        rest = kernel.let(self.n - column, "rest")
        with kernel.loop(0, count, 1, "row") as row:
            with kernel.when(rest >= lanes):
                value = self.sums.load(row * lanes, lanes)
                self.epilogue(first + row, column, [value], None)
            with kernel.otherwise():
                self._partial(first, row, column, rest)

    def _partial(self, first: Expr, row: Expr, column: Expr, rest: Expr) -> None:
        def finish(offset: Expr, lanes: int, mask: Expr | None) -> None:
            value = self.sums.load(row * self.lanes + offset, lanes)
            self.epilogue(first + row, column + offset, [value], mask)

        vector.vector_loop(self.kernel, 0, rest, finish)

    def _dot(self, column: Expr, entry: Expr, rows: int) -> None:
        """The sums of `entries` table rows from column + entry on; beyond n the last repeats."""
        kernel, lanes, entries = self.kernel, self.lanes, self.schedule.entries
        places = [
            self.table.at(kernel.let(tirx.Min(column + entry + e, self.n - 1) * self.k, "place"))
            for e in range(entries)
        ]
        zero = vector.splat(0.0, lanes)
        sums = [[kernel.register(lanes, zero) for _ in range(entries)] for _ in range(rows)]
        with kernel.loop(0, self.whole, self.step, "k") as k:
            for e, place in enumerate(places):
                if self.schedule.ahead:
                    place.prefetch(k + self.schedule.ahead * entries * self.k)
                parts = self._parts(place, k)
                for r in range(rows):
                    for number, part in enumerate(parts):
                        left = self.left.peek(k + (r * self.stride + number * lanes), lanes)
                        sums[r][e].set(sums[r][e].peek() + left * part)
        for r in range(rows):
            for e, place in enumerate(places):
                total = kernel.register(1, vector.reduce_add(kernel, sums[r][e].peek()))
                self._add_rest(total, place, r)
                self.sums.store(entry + (r * lanes + e), total.peek())

    def _parts(self, place: Stored, k: Expr) -> Sequence[Expr]:
        """`step` elements of an entry, in the order in which `left` has them."""
        if isinstance(place, vector.SplitPointer) or place.dtype == "bf16":
            return vector.load_pairs(place, vector.halved(k), self.lanes)
        return (vector.load(place, k, self.lanes),)

    def _add_rest(self, total: Register, place: Stored, row: int) -> None:
        """What is left of an entry behind its whole steps, in plain order."""
        step = 2 if isinstance(place, vector.SplitPointer) else 1
        with self.kernel.loop(self.whole, self.k, step, "k") as k:
            if isinstance(place, vector.SplitPointer):
                parts = vector.load_pairs(place, vector.halved(k), 1)
            else:
                parts = (vector.load(place, k),)
            for number, part in enumerate(parts):
                left = self.left.peek(k + (row * self.stride + number))
                total.set(total.peek() + left * part)
