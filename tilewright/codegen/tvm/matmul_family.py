"""Matmul regions: decoded weights, elementwise work before and after.

Constant weights in tiles, dense, short or int8, stream through `packed_matmul`. A table that lies
row after row meets a few rows as it lies (`table_matmul`). Everything else (two activations,
batches, other encodings) is decoded and packed into scratch part by part (`batched_matmul`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tilewright.codegen.places import broadcast_index
from tilewright.codegen.tvm import vector
from tilewright.codegen.tvm.emit import Expr, i64, lanes_of
from tilewright.codegen.tvm.index import ZERO, Index, Ix, NeedsScalar, dim_expr, unflatten
from tilewright.codegen.tvm.matmul_batched import batched_matmul
from tilewright.codegen.tvm.matmul_grouped import grouped_matmul
from tilewright.codegen.tvm.matmul_kernel import Epilogue, RowMajor, Rows, packed_matmul
from tilewright.codegen.tvm.matmul_schedule import (
    MatmulSchedule,
    PackedLayout,
    PanelDtype,
    TableSchedule,
)
from tilewright.codegen.tvm.matmul_table import table_matmul
from tilewright.codegen.tvm.pull import Dense, Given, Puller, Source
from tilewright.codegen.tvm.pull_decode import Encoded
from tilewright.codegen.tvm.pull_math import MATH_RULES
from tilewright.codegen.tvm.region import LoweredRegion, RegionKernel
from tilewright.codegen.tvm.vector import Stored
from tilewright.dsl.dims import product
from tilewright.dsl.encoding import SHORT, Encoding, IntFormat, Quantized, Tiled
from tilewright.dsl.encoding import Dense as DenseEncoding
from tilewright.dsl.graph import Graph, Node, Value, producers
from tilewright.dsl.types import Shape, TensorType
from tilewright.target.cpu import CpuIsa


@dataclass(frozen=True, slots=True)
class TiledWeight:
    """The region's operand that holds the weights, and their tiles."""

    operand: Value
    tiles: Tiled


def anchor_of(body: Graph, op: str) -> Node:
    """The node of the body that names its family."""
    return next(node for node in body.nodes if node.op == op)


def tiled_weight(body: Graph) -> TiledWeight | None:
    """The weights of a region that `packed_matmul` can run, else None."""
    anchor = anchor_of(body, "matmul")
    node = producers(body).get(anchor.operands[1].name)
    plain = anchor.attrs.bool("transpose_b") and not anchor.attrs.bool("transpose_a")
    if node is None or node.op != "decode" or not plain:
        return None
    operand = node.operands[0]
    encoding = operand.tensor.encoding
    if isinstance(encoding, Tiled) and panel_dtype(operand.tensor, encoding.values) is not None:
        return TiledWeight(operand, encoding)
    return None


MAX_TABLE_COLUMNS = 1 << 14
"""Rows of longer tables would not fit a thread's stack."""


def row_table(body: Graph) -> Value | None:
    """The region's operand that `table_matmul` can read where it lies, else None."""
    anchor = anchor_of(body, "matmul")
    table = anchor.operands[1]
    node = producers(body).get(table.name)
    if node is not None and node.op == "decode":
        (table,) = node.operands
    plain = anchor.attrs.bool("transpose_b") and not anchor.attrs.bool("transpose_a")
    given = any(entry.value.name == table.name for entry in body.inputs)
    if not plain or not given or table.tensor.rank != 2:
        return None
    columns = table.tensor.shape[1]
    fits = isinstance(columns, int) and columns <= MAX_TABLE_COLUMNS
    return table if fits and table_dtype(table) is not None else None


def table_dtype(table: Value) -> PanelDtype | None:
    """What a table holds row after row, where kernels read it so."""
    found = panel_dtype(table.tensor, table.tensor.encoding)
    return None if found == "i8" else found


def panel_dtype(weight: TensorType, encoding: Encoding) -> PanelDtype | None:
    """What panels of a [n, k] weight hold; None where kernels do not stream it so."""
    match encoding:
        case DenseEncoding() if weight.dtype.name == "f32":
            return "f32"
        case DenseEncoding() if weight.dtype.name == "bf16":
            return "bf16"
        case Quantized(IntFormat(8), 1, None, True, "plain"):
            return "i8"
        case Quantized() if encoding == SHORT:
            return "e4m7"
        case _:
            return None


def packed_layout_of(weight: TensorType, tiles: Tiled, isa: CpuIsa) -> PackedLayout:
    """The kernel's view of a tiled [n, k] weight."""
    n, k = weight.shape
    assert isinstance(n, int)
    assert isinstance(k, int)
    dtype = panel_dtype(weight, tiles.values)
    assert dtype is not None
    return PackedLayout(n, k, tiles.rows, dtype, isa.lanes_f32, tiles.columns)


def lower_packed(
    name: str, node: Node, body: Graph, isa: CpuIsa, schedule: MatmulSchedule
) -> LoweredRegion:
    """A region whose weights lie in tiles."""
    weight = tiled_weight(body)
    assert weight is not None
    region = RegionKernel(name, node, body, isa)
    anchor = anchor_of(body, "matmul")
    shape = anchor.result.tensor.shape
    encoded = region.operand(weight.operand)
    packed_matmul(
        region.kernel,
        region.kernel.let(i64(dim_expr(region.kernel, product(shape[:-1]))), "rows"),
        _rows(region, anchor.operands[0]),
        _stored(encoded),
        packed_layout_of(weight.operand.tensor, weight.tiles, isa),
        schedule,
        _scaled(encoded, _Epilogue(region, body, anchor)),
    )
    return region.finish()


def _stored(source: Source) -> Stored:
    """Where the weights of a product lie."""
    if isinstance(source, Dense):
        return source.pointer
    assert isinstance(source, Encoded)
    arrays = {name: array.pointer for name, array in source.arrays.items()}
    if "low" in arrays:
        return vector.SplitPointer(arrays["codes"], arrays["low"])
    return arrays["codes" if "codes" in arrays else "data"]


def _scaled(source: Source, epilogue: _Epilogue) -> Epilogue:
    """The epilogue of the products with codes: each column has a scale, where there are scales."""
    array = source.arrays.get("scale") if isinstance(source, Encoded) else None

    def finish(row: Expr, column: Expr, values: Sequence[Expr], mask: Expr | None) -> None:
        (value,) = values
        if array is not None:
            scales = vector.load(array.pointer, column, lanes_of(value), mask)
            value = array.pointer.kernel.let(value * scales, "scaled")
        epilogue.rows(row, column, value, mask)

    return finish


def lower_table(
    name: str, node: Node, body: Graph, isa: CpuIsa, schedule: TableSchedule
) -> LoweredRegion:
    """A region whose right operand is a table, row after row. Raises InvalidSchedule."""
    table = row_table(body)
    assert table is not None
    region = RegionKernel(name, node, body, isa)
    kernel, anchor = region.kernel, anchor_of(body, "matmul")
    shape, (entries, columns) = anchor.result.tensor.shape, table.tensor.shape
    source = region.operand(table)
    assert isinstance(columns, int)
    table_matmul(
        kernel,
        kernel.let(i64(dim_expr(kernel, product(shape[:-1]))), "rows"),
        kernel.let(i64(dim_expr(kernel, entries)), "entries"),
        columns,
        _rows(region, anchor.operands[0]),
        _stored(source),
        schedule,
        _scaled(source, _Epilogue(region, body, anchor)),
    )
    return region.finish()


def lower_batched(
    name: str, node: Node, body: Graph, isa: CpuIsa, schedule: MatmulSchedule
) -> LoweredRegion:
    """Any other product of floats. Raises InvalidSchedule."""
    region = RegionKernel(name, node, body, isa)
    anchor = anchor_of(body, "matmul")
    kernel, shape = region.kernel, anchor.result.tensor.shape
    a, b = anchor.operands
    flip_a, flip_b = anchor.attrs.bool("transpose_a"), anchor.attrs.bool("transpose_b")
    inner = a.tensor.shape[-2 if flip_a else -1]
    epilogue = _Epilogue(region, body, anchor)
    batched_matmul(
        kernel,
        kernel.let(i64(dim_expr(kernel, product(shape[:-2]))), "batch"),
        kernel.let(i64(dim_expr(kernel, shape[-2])), "m"),
        kernel.let(i64(dim_expr(kernel, shape[-1])), "n"),
        kernel.let(i64(dim_expr(kernel, inner)), "k"),
        _Matrices(region, a, shape, flip_a),
        _Matrices(region, b, shape, flipped=False),
        schedule,
        epilogue.batches,
        transposed=flip_b,
    )
    return region.finish()


def lower_grouped(
    name: str, node: Node, body: Graph, isa: CpuIsa, schedule: MatmulSchedule
) -> LoweredRegion:
    """Rows in groups, each by a matrix of its own. Raises InvalidSchedule."""
    region = RegionKernel(name, node, body, isa)
    anchor = anchor_of(body, "grouped_matmul")
    kernel, puller = region.kernel, region.puller
    x, w, counts = anchor.operands
    groups, (m, n) = w.tensor.shape[0], anchor.result.tensor.shape
    names = {"groups": groups, "m": m, "n": n, "k": x.tensor.shape[1]}
    found = [kernel.let(i64(dim_expr(kernel, size)), name) for name, size in names.items()]
    epilogue = _Epilogue(region, body, anchor)

    def count(group: Expr) -> Expr:
        with puller.scope():
            return kernel.let(i64(puller.value(counts, (Ix(group),))), "count")

    def finish(_: Expr, row: Expr, column: Expr, value: Expr, mask: Expr | None) -> None:
        epilogue.rows(row, column, value, mask)

    grouped_matmul(
        kernel,
        (found[0], found[1], found[2], found[3]),
        _Matrices(region, x, (m, n), flipped=False),
        _Matrices(region, w, (groups, m, n), flipped=False),
        count,
        schedule,
        finish,
        transposed=anchor.attrs.bool("transpose_w"),
    )
    return region.finish()


def _rows(region: RegionKernel, a: Value) -> Rows:
    """The left operand: in place where it is an array, else computed."""
    shape = a.tensor.shape
    source = region.puller.sources.get(a.name)
    if isinstance(source, Dense):
        return RowMajor(source.pointer, dim_expr(region.kernel, shape[-1]))

    def rows(row: Expr, k: Expr, lanes: int, mask: Expr | None) -> Expr:
        with region.puller.scope():
            lead = [Ix(at) for at in unflatten(region.kernel, row, shape[:-1])]
            return lanes_at(region.puller, a, lead, k, lanes, mask)

    return rows


def lanes_at(
    puller: Puller, value: Value, lead: Sequence[Ix], at: Expr, lanes: int, mask: Expr | None
) -> Expr:
    """`lanes` f32 neighbours along the last axis, one by one where there is no vector form.

    Lanes that the mask leaves out are zero.
    """
    kernel = puller.kernel
    try:
        with puller.scope(lanes, mask):
            found = puller.value(value, (*lead, puller.along(at, lanes)))
            return kernel.let(vector.splat(found, lanes), "lanes")
    except NeedsScalar:
        pass
    held = kernel.scratch("f32", lanes, "lanes")
    held.store(0, vector.splat(0.0, lanes))
    count: Expr = lanes if mask is None else vector.count_of(kernel, mask)
    with kernel.loop(0, count, 1, "lane") as lane, puller.scope():
        held.store(lane, puller.value(value, (*lead, Ix(kernel.let(at + lane, "at")))))
    return held.load(0, lanes)


@dataclass(frozen=True, slots=True)
class _Matrices:
    """An operand of a batched product, read along its rows (`flipped`: along its columns)."""

    region: RegionKernel
    value: Value
    out: Shape
    flipped: bool

    def __call__(self, batch: Expr, row: Expr, column: Expr, lanes: int, mask: Expr | None) -> Expr:
        puller = self.region.puller
        with puller.scope():
            lead = [Ix(at) for at in unflatten(puller.kernel, batch, self.out[:-2])]
            mine = broadcast_index(lead, self.value.tensor.shape[:-2], self.out[:-2], ZERO)
            if not self.flipped:
                return lanes_at(puller, self.value, (*mine, Ix(row)), column, lanes, mask)
            return self._down(puller, mine, row, column, lanes, mask)

    def _down(
        self, puller: Puller, lead: Index, row: Expr, column: Expr, lanes: int, mask: Expr | None
    ) -> Expr:
        kernel = puller.kernel
        held = kernel.scratch("f32", lanes, "lanes")
        held.store(0, vector.splat(0.0, lanes))
        count: Expr = lanes if mask is None else vector.count_of(kernel, mask)
        with kernel.loop(0, count, 1, "lane") as lane, puller.scope():
            at = Ix(kernel.let(column + lane, "at"))
            held.store(lane, puller.value(self.value, (*lead, at, Ix(row))))
        return held.load(0, lanes)


class _Epilogue:
    """Computes and stores the region's results from the product's sums."""

    def __init__(self, region: RegionKernel, body: Graph, anchor: Node) -> None:
        self.region = region
        self.body = body
        self.sums = anchor.result
        self.shape = anchor.result.tensor.shape
        self.flat = _rows_are_flat(body, anchor)

    def rows(self, row: Expr, column: Expr, value: Expr, mask: Expr | None) -> None:
        """One row of the flattened product."""
        lead = self.shape[:-1]
        # Where all arrays have the product's rows, the last leading axis can stand for all.
        places = [0] * (len(lead) - 1) + [row] if self.flat else None
        with self.region.puller.scope():
            found = unflatten(self.region.kernel, row, lead) if places is None else places
            self._store(found, row, column, value, mask)

    def batches(self, batch: Expr, row: Expr, column: Expr, value: Expr, mask: Expr | None) -> None:
        """One row of one product of the batch."""
        kernel = self.region.kernel
        with self.region.puller.scope():
            places = [*unflatten(kernel, batch, self.shape[:-2]), row]
            m = i64(dim_expr(kernel, self.shape[-2]))
            self._store(places, kernel.let(batch * m + row, "flat"), column, value, mask)

    def _store(
        self, places: Sequence[Expr], row: Expr, column: Expr, value: Expr, mask: Expr | None
    ) -> None:
        puller, kernel = self.region.puller, self.region.kernel
        lanes = lanes_of(value)
        with puller.scope(lanes, mask):
            puller.sources[self.sums.name] = Given(value)
            index = (*map(Ix, places), puller.along(column, lanes))
            width = dim_expr(kernel, self.shape[-1])
            offset = kernel.let(row * width + column, "offset")
            for place, output in enumerate(self.body.outputs):
                target = self.region.result(place)
                found = puller.value(output.value, index)
                puller.store(target.pointer, target.dtype, offset, found)


def _rows_are_flat(body: Graph, anchor: Node) -> bool:
    """True where every array that the epilogue reads has the product's rows, or no rows."""
    shape = anchor.result.tensor.shape
    before = _above(body, anchor)
    after = [
        n for n in body.nodes if n is not anchor and not any(r.name in before for r in n.results)
    ]
    inputs = {v.name for v in body.input_values}
    for node in after:
        for value in (*node.operands, *node.results):
            mine = value.tensor.shape
            wide = len(mine) > 1 and any(size != 1 for size in mine[:-1])
            if (value.name in inputs or node.op not in _POINTWISE) and wide and mine != shape:
                return False
        if node.op not in _POINTWISE and any(o.tensor.rank > 1 for o in node.results):
            return False
    return True


_POINTWISE = frozenset({*MATH_RULES, "full"})


def _above(body: Graph, anchor: Node) -> set[str]:
    made = producers(body)
    found: set[str] = set()
    stack = list(anchor.operands)
    while stack:
        value = stack.pop()
        node = made.get(value.name)
        if node is not None and value.name not in found:
            found.update(r.name for r in node.results)
            stack.extend(node.operands)
    return found
