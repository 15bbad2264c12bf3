"""Loops: elementwise work, movement of data, and reductions along rows.

The space is rows by columns, columns being the last axis. A row's reductions are computed first, in
the body's order, then the results are stored column by column.
"""

from __future__ import annotations

from tilewright.codegen.triton.emit import Block, binary, literal, name
from tilewright.codegen.triton.kernel import RegionKernel, TritonKernel
from tilewright.codegen.triton.pull import ZERO, Axis, Index, Unlowered
from tilewright.codegen.triton.schedule import LoopSchedule, loop_tile
from tilewright.dsl.dims import bounds, ceil_div, product
from tilewright.dsl.graph import Graph, Value
from tilewright.passes.kinds import is_row_reduction, loop_space


def lower_loop(entry: str, body: Graph, schedule: LoopSchedule) -> TritonKernel:
    """The kernel of a loop region. Raises Unlowered."""
    return _Loop(body, schedule).emit(entry)


class _Loop:
    def __init__(self, body: Graph, schedule: LoopSchedule) -> None:
        self.region = RegionKernel(body)
        self.puller = self.region.puller
        self.body = body
        self.schedule = schedule
        self.space = loop_space(body) or (1,)
        self.lead, self.width = self.space[:-1], self.space[-1]
        self.rows = product(self.lead)
        self.reductions = any(map(is_row_reduction, body.nodes))

    def emit(self, entry: str) -> TritonKernel:
        puller, writer = self.puller, self.puller.writer
        tile = loop_tile(self.rows, self.width, self.schedule, whole=self.reductions)
        self.columns = self.region.size("BLOCK_COLUMNS", tile[1])
        height = self.region.size("BLOCK_ROWS", tile[0])
        puller.piece = height, self.columns
        blocks = 1 if self.reductions else ceil_div(self.width, tile[1])
        band, start = puller.program(), literal(0)
        if blocks != 1:
            count = puller.dim(blocks)
            first = writer.let("block", binary("%", band, count))
            start = writer.let("start", binary("*", first, name("BLOCK_COLUMNS")))
            band = writer.let("band", binary("//", band, count))
        top = binary("*", band, name("BLOCK_ROWS"))
        row = puller.axis("row", top, height, self.rows, rows=True)
        with puller.scope(row, None):
            places = puller.lead(self.lead, row.places)
            if self.reductions and bounds(self.width)[1] > tile[1]:
                self._by_pieces(row, places)
            else:
                self._at_once(row, start, places)
        grid = (ceil_div(self.rows, tile[0]) * blocks,)
        return self.region.finish(entry, grid, self.schedule.warps, 2)

    def _at_once(self, row: Axis, start: Block, places: Index) -> None:
        """All columns of the tile in one block."""
        axis = self.puller.axis("column", start, self.columns, self.width, rows=False)
        with self.puller.scope(row, axis):
            if self.reductions:
                self.puller.columns = self.width, axis
                self._row_values(row, places)
            self._store(places, axis)

    def _by_pieces(self, row: Axis, places: Index) -> None:
        """Rows longer than a block: once through each for every reduction, and once to store."""
        self._row_values(row, places)
        if any(self._is_full(o.value) for o in self.body.outputs):
            with self.puller.pieces(self.width) as axis:
                self._store(places, axis)

    def _is_full(self, value: Value) -> bool:
        return value.tensor.shape == self.space or (not value.tensor.shape and self.space == (1,))

    def _row_index(self, value: Value, places: Index) -> Index:
        return (*places, ZERO) if value.tensor.rank == len(self.space) else places

    def _row_values(self, row: Axis, places: Index) -> None:
        """Everything that is one number a row, in order, before the columns that use it."""
        for node in self.body.nodes:
            for result in node.results:
                if result.tensor.shape in ((*self.lead, 1), self.lead) and node.op != "reshape":
                    self.puller.value(result, self._row_index(result, places))
        for place, output in enumerate(self.body.outputs):
            if not self._is_full(output.value):
                found = self.puller.value(output.value, self._row_index(output.value, places))
                self.puller.store(self.region.results[place], row.places, found)

    def _store(self, places: Index, axis: Axis) -> None:
        index = (*places, axis.places)
        offset = self.puller.flatten(index, self.space)
        for place, output in enumerate(self.body.outputs):
            value = output.value
            if self._is_full(value):
                found = self.puller.value(value, index[: value.tensor.rank])
                self.puller.store(self.region.results[place], offset, found)
            elif not self.reductions:
                raise Unlowered(f"%{value.name} is of another shape than the loop")
