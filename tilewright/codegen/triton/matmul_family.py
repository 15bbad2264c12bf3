"""Products of matrices, plain and batched, with elementwise work before and after.

A program computes one tile of sums in f32. The leading dimensions of a left operand that meets one
matrix are rows like any other.
"""

from __future__ import annotations

from tilewright.codegen.places import broadcast_index
from tilewright.codegen.triton.emit import Block, binary, call, literal, name, option, shape, to
from tilewright.codegen.triton.kernel import RegionKernel, TritonKernel
from tilewright.codegen.triton.pull import STORAGE, ZERO, Axis, Given, Index, Unlowered
from tilewright.codegen.triton.schedule import MatmulSchedule, default_matmul
from tilewright.dsl.dims import ceil_div, product
from tilewright.dsl.graph import Graph, Node, Value
from tilewright.dsl.ops.matmul import product_dims
from tilewright.dsl.types import Shape
from tilewright.target.spec import Target


def lower_matmul(
    entry: str, body: Graph, target: Target, schedule: MatmulSchedule | None = None
) -> TritonKernel:
    """The kernel of a matmul region. Raises Unlowered."""
    return _Matmul(body, target, schedule).emit(entry)


def _anchor(body: Graph) -> Node:
    found = [node for node in body.nodes if node.op == "matmul"]
    if len(found) != 1:
        raise Unlowered(f"a kernel computes one product, not {len(found)}")
    (node,) = found
    if not node.operands[0].tensor.dtype.is_float:
        raise Unlowered("products of integers have no kernel")
    return node


class _Matmul:
    def __init__(self, body: Graph, target: Target, schedule: MatmulSchedule | None) -> None:
        self.region = RegionKernel(body)
        self.puller = self.region.puller
        self.body = body
        self.node = _anchor(body)
        self.a, self.b = self.node.operands
        self.out = self.node.result.tensor.shape
        for output in body.outputs:
            if output.value.tensor.shape != self.out:
                raise Unlowered(f"%{output.value.name} is of another shape than the product")
        attrs = self.node.attrs
        m, self.inner, self.n = product_dims(self.a.tensor, self.b.tensor, attrs)
        flat = self.b.tensor.rank == 2 and not attrs.bool("transpose_a")
        self.batch: Shape = () if flat else self.out[:-2]
        self.lead: Shape = self.out[:-1] if flat else (m,)
        self.m = product(self.lead)
        dtype = self.a.tensor.dtype
        self.schedule = schedule or default_matmul(self.m, self.n, dtype, target)

    def emit(self, entry: str) -> TritonKernel:
        puller, plan = self.puller, self.schedule
        height = self.region.size("BLOCK_M", plan.rows)
        width = self.region.size("BLOCK_N", plan.columns)
        depth = self.region.size("BLOCK_K", plan.inner)
        tile_m, tile_n, batch = self._tile()
        top = binary("*", tile_m, name("BLOCK_M"))
        left = binary("*", tile_n, name("BLOCK_N"))
        row = puller.axis("row", top, height, self.m, rows=True)
        column = puller.axis("column", left, width, self.n, rows=False)
        if self.batch:
            places = (*puller.unflatten(batch, self.batch), row.places)
        else:
            places = puller.lead(self.lead, row.places)
        total = self._sums(row, column, places, depth)
        index = (*places, column.places)
        puller.sources[self.node.result.name] = Given(index, total)
        with puller.scope(row, column):
            offset = puller.writer.let("offset", puller.flatten(index, self.out))
            for place, output in enumerate(self.body.outputs):
                puller.store(self.region.results[place], offset, puller.value(output.value, index))
        tiles = ceil_div(self.m, plan.rows) * ceil_div(self.n, plan.columns)
        grid = (tiles * product(self.batch),)
        return self.region.finish(entry, grid, plan.warps, plan.stages)

    def _tile(self) -> tuple[Block, Block, Block]:
        """The tile of this program; neighbours stand in one band of rows, so that caches help."""
        puller, plan = self.puller, self.schedule
        let = puller.writer.let
        program, batch = puller.program(), literal(0)
        down = puller.dim(ceil_div(self.m, plan.rows))
        across = puller.dim(ceil_div(self.n, plan.columns))
        if self.batch:
            tiles = let("tiles", binary("*", down, across))
            batch = let("batch", binary("//", program, tiles))
            program = let("tile", binary("%", program, tiles))
        if ceil_div(self.m, plan.rows) == 1:
            return literal(0), program, batch
        band_tiles = let("band_tiles", binary("*", across, plan.band))
        first = let("first", binary("*", binary("//", program, band_tiles), plan.band))
        height = let("height", call("tl.minimum", binary("-", down, first), plan.band))
        inside = let("inside", binary("%", program, band_tiles))
        tile_m = let("tile_m", binary("+", first, binary("%", inside, height)))
        return tile_m, let("tile_n", binary("//", inside, height)), batch

    def _sums(self, row: Axis, column: Axis, places: Index, depth: tuple[str, int]) -> Block:
        puller, writer = self.puller, self.puller.writer
        zeros = call("tl.zeros", shape("BLOCK_M", "BLOCK_N"), "tl.float32")
        total = writer.variable("total", zeros)
        attrs, lead = self.node.attrs, places[:-1]
        with writer.loop("start", puller.dim(self.inner), "BLOCK_K") as start:
            inner = puller.axis("inner", start, depth, self.inner, rows=False)
            with puller.scope(row, inner):
                at = (
                    (inner.places, places[-1])
                    if attrs.bool("transpose_a")
                    else (places[-1], inner.places)
                )
                left = self._operand(self.a, (*lead, *at), inner.mask, ("BLOCK_M", "BLOCK_K"))
            inner = puller.axis("inner_row", start, depth, self.inner, rows=True)
            with puller.scope(inner, column):
                at = (
                    (column.places, inner.places)
                    if attrs.bool("transpose_b")
                    else (inner.places, column.places)
                )
                right = self._operand(self.b, (*lead, *at), inner.mask, ("BLOCK_K", "BLOCK_N"))
            product = call("tl.dot", left, right, total, input_precision=option("ieee"))
            writer.assign(total, product)
        return Block(total.node, rows=True, columns=True)

    def _operand(
        self, value: Value, index: Index, inside: Block | None, size: tuple[str, str]
    ) -> Block:
        """A tile of an operand in its own format, zero beyond the inner dimension's end."""
        writer, dtype = self.puller.writer, value.tensor.dtype
        wide = (*self.out[:-2], *value.tensor.shape[-2:])
        found = self.puller.value(value, broadcast_index(index, value.tensor.shape, wide, ZERO))
        if not (found.rows and found.columns):
            found = call("tl.broadcast_to", found, shape(*size))
        elif found.stored is not None:
            return writer.let("operand", Block(found.stored, rows=True, columns=True))
        if inside is not None:
            found = call("tl.where", inside, found, 0.0)
        return writer.let("operand", to(found, STORAGE[dtype.name]))
