"""Rows in groups, each by a matrix of its own: a batched product with as many rows as are counted.

Groups follow one another. Each is cut into blocks of rows and panels of columns, which threads
share as in a batched product, so that a group of a few rows still keeps them all busy; where a
group begins is summed up as it is reached. Rows behind the last group are zero before the epilogue.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from tvm import tirx

from tilewright.codegen.tvm import vector
from tilewright.codegen.tvm.emit import Expr, KernelBuilder, i64
from tilewright.codegen.tvm.index import split
from tilewright.codegen.tvm.matmul_batched import BatchedProduct, BatchEpilogue, Operand
from tilewright.codegen.tvm.matmul_schedule import MatmulSchedule

Count: TypeAlias = Callable[[Expr], Expr]
"""group -> its number of rows, an int64, as it is given."""


def grouped_matmul(
    kernel: KernelBuilder,
    extents: tuple[Expr, Expr, Expr, Expr],
    left: Operand,
    right: Operand,
    count: Count,
    schedule: MatmulSchedule,
    epilogue: BatchEpilogue,
    *,
    transposed: bool = False,
) -> None:
    """Emit the rows of left [m, k], group after group, each by its right [groups, k, n].

    extents: groups, m, n, k. A count below 0 is 0, and rows that are counted beyond m are not
    there. `right` may be [groups, n, k], `transposed`. Raises InvalidSchedule.
    """
    product = _Grouped(kernel, extents, left, right, schedule, epilogue, transposed)
    product.count = count
    product.emit()


class _Grouped(BatchedProduct):
    """One such product while it is being emitted; `batch` is the number of groups."""

    count: Count

    def emit(self) -> None:
        kernel, mc = self.kernel, self.plan_rows()
        panels = self.panels()
        start = kernel.register(1, i64(0), "int64")
        with kernel.loop(0, self.batch, 1, "group") as group:
            begins = start.get()
            rows = tirx.Min(tirx.Max(self.count(group), i64(0)), self.m - begins)
            rows = kernel.held(rows)
            self._group(group, begins, rows, mc, panels)
            start.set(begins + rows)
        zero_rest(self, start.get())

    def _group(self, group: Expr, begins: Expr, rows: Expr, mc: Expr, panels: Expr) -> None:
        kernel = self.kernel
        begin, end = kernel.share(self.blocks(rows, mc) * panels)
        with kernel.loop(begin, end, 1, "task") as task:
            block, panel = split(kernel, task, panels)
            first = kernel.let(block * mc, "within")
            count = kernel.let(tirx.Min(mc, rows - first), "count")
            fresh = tirx.Or(tirx.EQ(panel, i64(0)), tirx.EQ(task, begin))
            self.block(group, kernel.let(begins + first, "first"), count, panel, fresh)


def zero_rest(product: BatchedProduct, counted: Expr) -> None:
    """The rows that belong to no group."""
    kernel = product.kernel
    begin, end = kernel.share(product.m - counted)
    with kernel.loop(begin, end, 1, "spare") as spare:
        row = kernel.let(counted + spare, "row")

        def zero(column: Expr, lanes: int, mask: Expr | None) -> None:
            product.epilogue(i64(0), row, column, vector.splat(0.0, lanes), mask)

        vector.vector_loop(kernel, 0, product.n, zero)
