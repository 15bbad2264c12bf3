"""Operations that go along one axis in order: cumulative sums, the largest k, scattered additions.

Each unit of work is one line along the axis; lines are independent, so threads share them, and what
happens within a line happens in the order of the definition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx

from tilewright.codegen.tvm import vector
from tilewright.codegen.tvm.emit import Expr, Pointer, Register, i32, i64
from tilewright.codegen.tvm.index import Index, Ix, dim_expr, split, unflatten
from tilewright.codegen.tvm.pull_math import element_type
from tilewright.codegen.tvm.region import LoweredRegion, RegionKernel
from tilewright.dsl.dims import product
from tilewright.dsl.dtypes import DType
from tilewright.dsl.graph import Graph, Node, Value
from tilewright.dsl.ops.reduce import identity_of
from tilewright.dsl.ops.shape import normal_axis
from tilewright.target.cpu import CpuIsa

ROW_OPS = frozenset({"cumsum", "topk", "scatter_add"})


def row_operation(body: Graph) -> Node | None:
    """The node that makes a region one of this family, if there is one."""
    return next((node for node in body.nodes if node.op in ROW_OPS), None)


def lower_rows(name: str, node: Node, body: Graph, isa: CpuIsa) -> LoweredRegion:
    """The kernel of a region around one of `ROW_OPS`."""
    region = RegionKernel(name, node, body, isa)
    anchor = row_operation(body)
    assert anchor is not None
    lines = _Lines(region, anchor)
    emit: dict[str, Callable[[_Lines], None]] = {
        "cumsum": _cumsum,
        "topk": _topk,
        "scatter_add": _scatter_add,
    }
    emit[anchor.op](lines)
    return region.finish()


class _Lines:
    """The lines of the anchor's first operand along its axis, shared among the team."""

    def __init__(self, region: RegionKernel, anchor: Node) -> None:
        self.region = region
        self.anchor = anchor
        self.kernel = region.kernel
        self.puller = region.puller
        self.x = anchor.operands[0]
        shape = self.x.tensor.shape
        self.axis = normal_axis(anchor.op, anchor.attrs.int("axis"), len(shape))
        self.outer, self.inner = shape[: self.axis], shape[self.axis + 1 :]
        self.extent = self.kernel.let(i64(dim_expr(self.kernel, shape[self.axis])), "extent")
        self.dtype = self.x.tensor.dtype

    def each(self, body: Callable[[Index, Index, Expr, Expr], None]) -> None:
        """Calls `body(lead, tail, outer, inner)` in the loop over this thread's lines."""
        kernel = self.kernel
        width = kernel.let(i64(dim_expr(kernel, product(self.inner))), "width")
        count = kernel.let(i64(dim_expr(kernel, product(self.outer))) * width, "lines")
        begin, end = kernel.share(count)
        with kernel.loop(begin, end, 1, "line") as line, self.puller.scope():
            outer, inner = split(kernel, line, width)
            lead = tuple(map(Ix, unflatten(kernel, outer, self.outer)))
            tail = tuple(map(Ix, unflatten(kernel, inner, self.inner)))
            body(lead, tail, outer, inner)

    def element(self, value: Value, lead: Index, at: Expr, tail: Index) -> Expr:
        """An element of a line."""
        return self.puller.value(value, (*lead, Ix(at), *tail))

    def place(self, outer: Expr, at: Expr, inner: Expr, extent: Expr) -> Expr:
        """Where an element of a line lies in a row-major array of this extent along the axis."""
        width = i64(dim_expr(self.kernel, product(self.inner)))
        return self.kernel.let((outer * extent + at) * width + inner, "place")


def _cumsum(lines: _Lines) -> None:
    target = lines.region.result(0)
    kernel, puller = lines.kernel, lines.puller
    kind = element_type(lines.dtype)

    def line(lead: Index, tail: Index, outer: Expr, inner: Expr) -> None:
        total = kernel.register(1, tirx.const(0, kind), kind)
        with kernel.loop(0, lines.extent, 1, "at") as at, puller.scope():
            total.set(total.get() + lines.element(lines.x, lead, at, tail))
            place = lines.place(outer, at, inner, lines.extent)
            puller.store(target.pointer, target.dtype, place, total.get())

    lines.each(line)


@dataclass(frozen=True, slots=True)
class _Best:
    """The k largest so far, in order; an index of -1 marks a free place."""

    values: Pointer
    places: Pointer
    dtype: DType

    def beaten(self, found: Expr, rank: Expr) -> Expr:
        """Whether `found`, which comes later than all here, stands before place `rank`."""
        held, free = self.values.load(rank), self.places.load(rank) < i32(0)
        larger = found > held
        if self.dtype.is_float:
            not_a_number = tirx.And(vector.is_nan(found), tirx.Not(vector.is_nan(held)))
            larger = tirx.Or(larger, not_a_number)
        return tirx.Or(free, larger)


def _topk(lines: _Lines) -> None:
    kernel, puller, k = lines.kernel, lines.puller, lines.anchor.attrs.int("k")
    kind = "f32" if lines.dtype.is_float else lines.dtype.name
    best = _Best(kernel.scratch(kind, k, "values"), kernel.scratch("i32", k, "places"), lines.dtype)
    results = {r.name: place for place, r in enumerate(lines.anchor.results)}

    def line(lead: Index, tail: Index, outer: Expr, inner: Expr) -> None:
        with kernel.loop(0, k, 1, "rank") as rank:
            lowest = identity_of("max", lines.dtype)
            best.values.store(rank, tirx.const(lowest, element_type(lines.dtype)))
            best.places.store(rank, i32(-1))
        with kernel.loop(0, lines.extent, 1, "at") as at, puller.scope():
            found = kernel.let(lines.element(lines.x, lead, at, tail), "found")
            with kernel.when(best.beaten(found, i64(k - 1))):
                _insert(lines, best, found, at, k)
        for number, output in enumerate(lines.region.body.outputs):
            source = (best.values, best.places)[results[output.value.name]]
            target = lines.region.result(number)
            with kernel.loop(0, k, 1, "rank") as rank, puller.scope():
                place = lines.place(outer, rank, inner, i64(k))
                puller.store(target.pointer, target.dtype, place, source.load(rank))

    lines.each(line)


def _insert(lines: _Lines, best: _Best, found: Expr, at: Expr, k: int) -> None:
    """Moves what `found` beats one place back, from the end, and puts it there."""
    kernel = lines.kernel
    done = kernel.register(1, i32(0), "int32")
    with kernel.loop(0, k, 1, "back") as back, kernel.when(tirx.EQ(done.get(), i32(0))):
        rank = kernel.let(i64(k - 1) - back, "rank")
        before = kernel.let(tirx.Max(rank - 1, i64(0)), "before")
        moves = tirx.And(rank > i64(0), best.beaten(found, before))
        with kernel.when(moves):
            best.values.store(rank, best.values.load(before))
            best.places.store(rank, best.places.load(before))
        with kernel.otherwise():
            best.values.store(rank, found)
            best.places.store(rank, tirx.Cast("int32", at))
            done.set(i32(1))


def _scatter_add(lines: _Lines) -> None:
    """Long floats and integers add in place; short floats keep each sum in f32 to its end."""
    short = lines.dtype.is_float and lines.dtype.bits < 32
    lines.each(_summed(lines) if short else _added(lines))


def _updates(lines: _Lines, body: Callable[[Sequence[Expr], Expr], None]) -> None:
    """Calls `body(index into the updates, target place)` for every update in order."""
    kernel, puller = lines.kernel, lines.puller
    index = lines.anchor.operands[1]
    count = i64(dim_expr(kernel, product(index.tensor.shape)))
    with kernel.loop(0, count, 1, "update") as update, puller.scope():
        at = unflatten(kernel, update, index.tensor.shape)
        picked = i64(puller.value(index, tuple(map(Ix, at))))
        safe = tirx.Min(tirx.Max(picked, i64(0)), lines.extent - 1)
        body(at, kernel.let(safe, "target"))


def _added(lines: _Lines) -> Callable[[Index, Index, Expr, Expr], None]:
    target, updates = lines.region.result(0), lines.anchor.operands[2]
    kernel, puller = lines.kernel, lines.puller

    def line(lead: Index, tail: Index, outer: Expr, inner: Expr) -> None:
        with kernel.loop(0, lines.extent, 1, "at") as at, puller.scope():
            place = lines.place(outer, at, inner, lines.extent)
            found = lines.element(lines.x, lead, at, tail)
            puller.store(target.pointer, target.dtype, place, found)

        def add(at: Sequence[Expr], row: Expr) -> None:
            place = lines.place(outer, row, inner, lines.extent)
            more = puller.value(updates, (*lead, *map(Ix, at), *tail))
            old = puller.load(target.pointer, target.dtype, place, 0)
            puller.store(target.pointer, target.dtype, place, old + more)

        _updates(lines, add)

    return line


def _summed(lines: _Lines) -> Callable[[Index, Index, Expr, Expr], None]:
    target, updates = lines.region.result(0), lines.anchor.operands[2]
    kernel, puller = lines.kernel, lines.puller

    def line(lead: Index, tail: Index, outer: Expr, inner: Expr) -> None:
        with kernel.loop(0, lines.extent, 1, "at") as at, puller.scope():
            total: Register = kernel.register(1, lines.element(lines.x, lead, at, tail))

            def add(where: Sequence[Expr], row: Expr) -> None:
                with kernel.when(tirx.EQ(row, i64(at))), puller.scope():
                    more = puller.value(updates, (*lead, *map(Ix, where), *tail))
                    total.set(total.get() + more)

            _updates(lines, add)
            place = lines.place(outer, at, inner, lines.extent)
            puller.store(target.pointer, target.dtype, place, total.get())

    return line
