"""Values of a region's body at an index, computed on demand.

A kernel asks for the outputs; each operation asks for its operands at the places it needs. Leaves
and data movement thus cost index arithmetic alone. What the kernel has computed another way (a
matmul's sums, a row kept in scratch) is given as a source. Floats are f32 whatever their format
(a fused kernel keeps excess precision), integers and bools have their own types.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from tvm import tirx

from tilewright.codegen.tvm import vector
from tilewright.codegen.tvm.emit import STORAGE, Expr, KernelBuilder, Pointer, vector_type
from tilewright.codegen.tvm.index import Index, Ix, NeedsScalar, plus, strides, times
from tilewright.dsl.dtypes import DType
from tilewright.dsl.graph import Graph, Node, Value, producers
from tilewright.dsl.ident import Ident
from tilewright.dsl.types import Shape


class Source(Protocol):
    """Something that gives a value's elements."""

    def at(self, puller: Puller, index: Index) -> Expr:
        """The element (or the puller's lanes of elements) at an index."""
        ...


Rule: TypeAlias = "Callable[[Puller, Node, int, Index], Expr]"


@dataclass(frozen=True, slots=True)
class Dense:
    """A row-major array in memory."""

    pointer: Pointer
    shape: Shape
    dtype: DType
    strides: Sequence[Expr]

    def at(self, puller: Puller, index: Index) -> Expr:
        known = puller.row_start(self.shape, index)
        if known is not None:
            return puller.load(
                self.pointer, self.dtype, plus(known, index[-1].base), index[-1].step
            )
        offset: Expr = 0
        step = 0
        for ix, stride in zip(index, self.strides, strict=True):
            offset = plus(offset, times(ix.base, stride))
            if ix.step:
                if not isinstance(stride, int):
                    raise NeedsScalar
                step += ix.step * stride
        if step not in (0, 1):
            raise NeedsScalar
        return puller.load(self.pointer, self.dtype, offset, step)


@dataclass(frozen=True, slots=True)
class Row:
    """A row that this kernel keeps in scratch; only the last axis counts."""

    pointer: Pointer
    dtype: DType

    def at(self, puller: Puller, index: Index) -> Expr:
        if index[-1].step not in (0, 1):
            raise NeedsScalar
        return puller.load(self.pointer, self.dtype, index[-1].base, index[-1].step)


@dataclass(frozen=True, slots=True)
class Given:
    """A value the kernel holds already, at the only index it is asked for."""

    value: Expr

    def at(self, puller: Puller, index: Index) -> Expr:
        return self.value


@dataclass(frozen=True, slots=True)
class Cached:
    """The arrays of a cache: `k` and `v`, each [batch, capacity, heads, head_dim]."""

    arrays: Mapping[str, Dense]

    def at(self, puller: Puller, index: Index) -> Expr:
        raise AssertionError("a cache is read through a view")


class Puller:
    """Emits a body's values. `lanes` and `mask` are those of the loop that asks."""

    def __init__(
        self,
        kernel: KernelBuilder,
        body: Graph,
        sources: Mapping[Ident, Source],
        rules: Mapping[str, Rule],
    ) -> None:
        self.kernel = kernel
        self.sources: dict[Ident, Source] = dict(sources)
        self.lanes = 1
        self.mask: Expr | None = None
        self.vectors = True
        """False where the kernel is emitted again without vectors, after NeedsScalar."""
        self.sums = 1
        """Vectors that a reduction along a row takes up independently of one another."""
        self._rules = rules
        self._producer = producers(body)
        self._memo: list[dict[tuple[object, ...], tuple[Expr, object]]] = [{}]
        self._row: tuple[Shape, tuple[int, ...], Expr] | None = None
        self._asks = False
        self.watch: Callable[[Value, Index, Expr], None] | None = None
        """Told of every value that is computed; loops keep rows in scratch through it."""

    def producer(self, value: Value) -> Node | None:
        """The node that defines a value of the body."""
        return self._producer.get(value.name)

    @contextmanager
    def scope(self, lanes: int = 1, mask: Expr | None = None) -> Generator[None]:
        """A block of code: what is computed inside is forgotten at its end."""
        saved = self.lanes, self.mask
        self.lanes, self.mask = lanes, mask
        self._memo.append({})
        try:
            yield
        finally:
            self._memo.pop()
            self.lanes, self.mask = saved

    @contextmanager
    def asking(self) -> Generator[None]:
        """A scope in which floats in memory are not loaded: their cache lines are asked for."""
        self._asks = True
        try:
            with self.scope():
                yield
        finally:
            self._asks = False

    def at_row(self, shape: Shape, lead: Index, start: Expr) -> None:
        """Says where the current row begins in every array of this shape."""
        self._row = (shape, tuple(id(ix.base) for ix in lead), start)

    def row_start(self, shape: Shape, index: Index) -> Expr | None:
        """The place where the current row begins, if the index stands in it."""
        if self._row is None or self._row[0] != shape or index[-1].step not in (0, 1):
            return None
        here = all(ix.step == 0 for ix in index[:-1])
        same = tuple(id(ix.base) for ix in index[:-1]) == self._row[1]
        return self._row[2] if here and same else None

    def along(self, at: Expr, lanes: int, low: int | None = None, high: int | None = None) -> Ix:
        """The axis that a column loop runs along, at `at`."""
        unit = self.kernel.isa.lanes_f32 if lanes > 1 else 1
        return Ix(at, 1 if lanes > 1 else 0, low, high, unit)

    def columns(self, begin: Expr, end: Expr, body: vector.Body, unroll: int = 1) -> None:
        """A loop over columns: by vectors, `unroll` of them in a turn, or one by one where the
        kernel goes without.
        """
        if self.vectors:
            vector.vector_loop(self.kernel, begin, end, body, unroll=unroll)
            return
        with self.kernel.loop(begin, end, 1, "c") as at:
            body(at, 1, None)

    def value(self, value: Value, index: Index) -> Expr:
        """The value at an index: one element where no axis of the index runs with the vector.

        Raises NeedsScalar where there is no vector form.
        """
        key = self._key(value, index)
        for memo in reversed(self._memo):
            if key in memo:
                return memo[key][0]
        source = self.sources.get(value.name)
        if source is not None:
            found = source.at(self, index)
        else:
            node = self._producer[value.name]
            place = next(i for i, r in enumerate(node.results) if r.name == value.name)
            found = self.kernel.let(self._rules[node.op](self, node, place, index))
            if self.watch is not None:
                self.watch(value, index, found)
        # The index is kept beside the value: an id is only unique while its object lives.
        self._memo[-1][key] = (found, index)
        return found

    def remember(self, value: Value, index: Index, found: Expr) -> None:
        """Makes a value known at an index for the rest of this scope."""
        self._memo[-1][self._key(value, index)] = (found, index)

    def _key(self, value: Value, index: Index) -> tuple[object, ...]:
        """An index along which no vector runs gives one element, whatever the loop's lanes."""
        lanes = self.lanes if any(ix.step for ix in index) else 1
        return (value.name, lanes, *((id(ix.base), ix.step) for ix in index))

    def load(self, pointer: Pointer, dtype: DType, offset: Expr, step: int) -> Expr:
        """Elements from memory in the type that arithmetic has."""
        lanes = self.lanes if step else 1
        mask = self.mask if step else None
        if dtype.is_float and self._asks:
            pointer.prefetch(offset)
            return vector.splat(0.0, lanes)
        if dtype.is_float:
            return vector.load(pointer, offset, lanes, mask)
        found = pointer.load(offset, lanes, mask)
        return (
            tirx.NE(found, tirx.const(0, vector_type("uint8", lanes)))
            if (dtype.kind == "bool")
            else found
        )

    def store(self, pointer: Pointer, dtype: DType, offset: Expr, value: Expr) -> None:
        """Elements to memory: the puller's lanes of them, under its mask."""
        if vector.lanes_of(value) < self.lanes:
            value = vector.splat(value, self.lanes)
        if dtype.is_float:
            vector.store(pointer, offset, value, self.mask)
            return
        kind = vector_type(STORAGE[dtype.name], self.lanes)
        pointer.store(offset, tirx.Cast(kind, value), self.mask)


def dense(kernel: KernelBuilder, pointer: Pointer, shape: Shape, dtype: DType) -> Dense:
    """A row-major array whose strides are computed here, once."""
    return Dense(pointer, shape, dtype, strides(kernel, shape))
