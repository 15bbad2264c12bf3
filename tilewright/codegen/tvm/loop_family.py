"""Loops: elementwise work, data movement, gathers and reductions over one index space.

The space is rows by columns, columns being the last axis. A row's reductions along the columns are
computed first, in the body's order, then the results are stored column by column. A value that is
dear and needed by several of these passes is kept in a row of scratch by the first.
"""

from __future__ import annotations

from itertools import pairwise

from tvm import tirx

from tilewright.codegen.tvm import vector
from tilewright.codegen.tvm.breaks import column_breaks
from tilewright.codegen.tvm.emit import Expr, Pointer, i64
from tilewright.codegen.tvm.index import (
    Index,
    Ix,
    NeedsScalar,
    dim_expr,
    flatten,
    plus,
    times,
    unflatten,
)
from tilewright.codegen.tvm.loop_schedule import LoopSchedule, check_loop, row_reductions
from tilewright.codegen.tvm.pull import Row
from tilewright.codegen.tvm.region import LoweredRegion, RegionKernel
from tilewright.codegen.tvm.row_cache import kept_rows
from tilewright.dsl.dims import Dim, bounds, product
from tilewright.dsl.graph import Graph, Node, Value
from tilewright.dsl.ident import Ident
from tilewright.dsl.types import Shape
from tilewright.passes.kinds import is_row_reduction, loop_space
from tilewright.target.cpu import CpuIsa


def lower_loop(
    name: str, node: Node, body: Graph, isa: CpuIsa, schedule: LoopSchedule
) -> LoweredRegion:
    """The kernel of a loop region: with vectors, or without where a value has no vector form.

    Raises InvalidSchedule.
    """
    check_loop(schedule)
    try:
        return _Loop(name, node, body, isa, schedule, vectors=True).emit()
    except NeedsScalar:
        return _Loop(name, node, body, isa, schedule, vectors=False).emit()


def has_vectors(node: Node, body: Graph, isa: CpuIsa, schedule: LoopSchedule) -> bool:
    """Whether the kernel of a loop region goes by vectors."""
    try:
        _Loop("loop", node, body, isa, schedule, vectors=True).emit()
    except NeedsScalar:
        return False
    return True


class _Loop:
    def __init__(
        self,
        name: str,
        node: Node,
        body: Graph,
        isa: CpuIsa,
        schedule: LoopSchedule,
        *,
        vectors: bool,
    ) -> None:
        self.region = RegionKernel(name, node, body, isa)
        self.kernel = self.region.kernel
        self.puller = self.region.puller
        self.puller.vectors = vectors
        self.puller.sums = schedule.sums
        self.body = body
        self.schedule = schedule
        self.space = loop_space(body) or (1,)
        self.rows: Shape = self.space[:-1]
        self.width: Dim = self.space[-1]
        self.reductions = row_reductions(body)
        self.kept: dict[Ident, Pointer] = {}

    def emit(self) -> LoweredRegion:
        self._keep_rows()
        rows = self.kernel.let(dim_expr(self.kernel, product(self.rows)), "rows")
        if self.reductions or not self._is_wide():
            begin, end = self.kernel.share(rows)
            with self.kernel.loop(begin, end, 1, "row") as row, self.puller.scope():
                self._row(row, 0, dim_expr(self.kernel, self.width))
        else:
            self._blocks(rows)
        return self.region.finish()

    def _is_wide(self) -> bool:
        return bounds(self.width)[1] > self.schedule.block

    def _blocks(self, rows: Expr) -> None:
        """Rows cut into blocks of columns, so that a few long rows keep all threads busy."""
        kernel, block = self.kernel, self.schedule.block
        width = kernel.let(i64(dim_expr(kernel, self.width)), "width")
        count = kernel.let(tirx.truncdiv(width + (block - 1), i64(block)), "blocks")
        begin, end = kernel.share(rows * count)
        with kernel.loop(begin, end, 1, "unit") as unit, self.puller.scope():
            row = kernel.let(tirx.truncdiv(unit, count), "row")
            first = kernel.let((unit - row * count) * block, "first")
            self._row(row, first, kernel.let(tirx.Min(first + block, width), "last"))

    def _row(self, row: Expr, first: Expr, last: Expr) -> None:
        places = [Ix(self.kernel.held(at)) for at in unflatten(self.kernel, row, self.rows)]
        width = dim_expr(self.kernel, self.width)
        self.start = self.kernel.held(times(row, width))
        self.puller.at_row(self.space, tuple(places), self.start)
        self._row_values(places)
        full = [o for o in enumerate(self.body.outputs) if self._is_full(o[1].value)]
        for place, output in enumerate(self.body.outputs):
            if not self._is_full(output.value):
                self._store_row_value(place, output.value, places)
        if full:
            self._columns(places, [(p, o.value) for p, o in full], first, last)

    def _is_full(self, value: Value) -> bool:
        return value.tensor.shape == self.space or (not value.tensor.shape and self.space == (1,))

    def _row_values(self, places: list[Ix]) -> None:
        """Everything that is one number a row, in order, before the columns that use it."""
        if not self.reductions:
            return
        for node in self.body.nodes:
            for result in node.results:
                shape = result.tensor.shape
                if shape in ((*self.rows, 1), self.rows) and node.op != "reshape":
                    self.puller.value(result, self._row_index(result, places))
            if node in self.reductions:
                self._reveal(node)

    def _row_index(self, value: Value, places: list[Ix]) -> Index:
        tail = (self._zero,) if value.tensor.rank == len(self.space) else ()
        return (*places, *tail)

    _zero = Ix(0, 0, 0, 1)

    def _store_row_value(self, place: int, value: Value, places: list[Ix]) -> None:
        index = self._row_index(value, places)
        found = self.puller.value(value, index)
        target = self.region.result(place)
        offset = flatten(self.kernel, [ix.base for ix in index], value.tensor.shape)
        self.puller.store(target.pointer, target.dtype, offset, found)

    def _columns(
        self, places: list[Ix], outputs: list[tuple[int, Value]], first: Expr, last: Expr
    ) -> None:
        borders = self._borders([value for _, value in outputs], first, last)
        for begin, end in pairwise(borders):
            self._segment(places, outputs, begin, end)

    def _borders(self, values: list[Value], first: Expr, last: Expr) -> list[Expr]:
        if not isinstance(self.width, int) or not isinstance(first, int):
            return [first, last]
        return [0, *column_breaks(self.body, values, self.width), self.width]

    def _segment(
        self, places: list[Ix], outputs: list[tuple[int, Value]], begin: Expr, end: Expr
    ) -> None:
        static = isinstance(begin, int) and isinstance(end, int)
        low, high = (begin, end) if static else (None, None)

        def body(at: Expr, lanes: int, mask: Expr | None) -> None:
            with self.puller.scope(lanes, mask):
                index = (*places, self.puller.along(at, lanes, low, high))
                for place, value in outputs:
                    found = self.puller.value(value, index[: value.tensor.rank])
                    offset = plus(self.start, at)
                    target = self.region.result(place)
                    self.puller.store(target.pointer, target.dtype, offset, found)

        self.puller.columns(begin, end, body, self.schedule.unroll)

    # --- rows in scratch ---

    def _keep_rows(self) -> None:
        """Scratch for values that several passes need; filled when the first computes them."""
        width = bounds(self.width)[1]
        for value in kept_rows(self.body, self.space, self.reductions, self.schedule.keep):
            if 4 * width > self.schedule.scratch:
                return
            dtype = "f32" if value.tensor.dtype.is_float else value.tensor.dtype.name
            self.kept[value.name] = self.kernel.scratch(dtype, width + 16, "row")
        if self.kept:
            self.puller.watch = self._watch

    def _watch(self, value: Value, index: Index, found: Expr) -> None:
        pointer = self.kept.get(value.name)
        if pointer is None or value.name in self.puller.sources or not index:
            return
        lanes, last = self.puller.lanes, index[-1]
        if last.step == (1 if lanes > 1 else 0):
            # Whole vectors also at a masked end (scratch has room for them), and of equal lanes.
            pointer.store(last.base, vector.splat(found, lanes))

    def _reveal(self, reduction: Node) -> None:
        """From here on, rows that this reduction has gone through are read from scratch."""
        made = {r.name: n for n in self.body.nodes for r in n.results}
        stack = [reduction.operands[0]]
        while stack:
            value = stack.pop()
            node = made.get(value.name)
            if node is None or is_row_reduction(node):
                continue
            if value.name in self.kept:
                dtype = value.tensor.dtype
                self.puller.sources[value.name] = Row(self.kept[value.name], dtype)
            stack.extend(node.operands)
