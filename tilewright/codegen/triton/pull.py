"""Values of a region's body at an index, emitted on demand.

A kernel asks for its outputs; each operation asks for its operands at the places it needs, so that
leaves and data movement cost index arithmetic alone. Floats are f32 whatever their format (a fused
kernel keeps excess precision), integers and bools have their own types.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from tilewright.codegen.places import unflatten
from tilewright.codegen.triton.emit import Block, Writer, binary, call, lanes, literal, name, to
from tilewright.codegen.triton.emit import shape as block_shape
from tilewright.dsl.dims import (
    DIM_ARITHMETIC,
    Dim,
    DimOp,
    Operation,
    Symbol,
    bounds,
    fold,
    known_divides,
    of_symbol,
)
from tilewright.dsl.dtypes import DType
from tilewright.dsl.graph import Graph, Node, Value, producers
from tilewright.dsl.ident import Ident
from tilewright.dsl.types import Shape, TensorType

Index = tuple[Block, ...]
Rule: TypeAlias = "Callable[[Puller, Node, Index], Block]"
ZERO = literal(0)
Sized = tuple[Block, Dim]
"""A dimension in a kernel, and what it is."""
Size = tuple[str, int]
"""A block size: the constant's name and its value."""
ARITHMETIC = {
    "f32": "tl.float32",
    "bf16": "tl.float32",
    "f16": "tl.float32",
    "i64": "tl.int64",
    "i32": "tl.int32",
    "i8": "tl.int8",
    "u32": "tl.uint32",
    "u8": "tl.uint8",
    "bool": "tl.int1",
}
STORAGE = {**ARITHMETIC, "bf16": "tl.bfloat16", "f16": "tl.float16", "bool": "tl.uint8"}
POINTER = {
    "f32": "*fp32",
    "bf16": "*bf16",
    "f16": "*fp16",
    "i64": "*i64",
    "i32": "*i32",
    "i8": "*i8",
    "u32": "*u32",
    "u8": "*u8",
    "bool": "*u8",
}
_INT32 = 2**31


class Unlowered(Exception):  # an answer to the backend, not a mistake
    """There is no kernel for this; the text says why."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of the tile: where its lanes stand, and which of them are inside (None: all)."""

    places: Block
    mask: Block | None


@dataclass(frozen=True, slots=True)
class Dense:
    """A row-major array in memory."""

    pointer: Block
    shape: Shape
    dtype: DType


@dataclass(frozen=True, slots=True)
class Given:
    """A value that the kernel holds at one index."""

    index: Index
    block: Block


class Puller:
    """Emits the values of one body."""

    def __init__(self, body: Graph, rules: Mapping[str, Rule]) -> None:
        self.writer = Writer()
        self.sources: dict[Ident, Dense | Given] = {}
        values = [*body.input_values, *(r for node in body.nodes for r in node.results)]
        self.wide = any(_reach(v.tensor) >= _INT32 for v in values)
        """Whether places need 64 bits."""
        self.symbols: list[Symbol] = []
        self.columns: tuple[Dim, Axis] | None = None
        """The columns that hold a whole row of that width, where a kernel keeps one."""
        self.piece: tuple[Size, Size] = ("BLOCK_ROWS", 1), ("BLOCK_COLUMNS", 1)
        """The tile's two axes."""
        self._rules = rules
        self._producer = producers(body)
        self._memo: list[dict[tuple[str, ...], Block]] = [{}]
        self._masks: list[tuple[Block | None, Block | None]] = [(None, None)]
        self._lead: tuple[Shape, tuple[str, ...], Block] | None = None

    # --- places ---

    def dim(self, size: Dim) -> Block:
        """A dimension as a number, or as an expression over the kernel's symbols."""

        def constant(n: int) -> Sized:
            return literal(n), n

        def symbol(s: Symbol) -> Sized:
            if s not in self.symbols:
                self.symbols.append(s)
            word = f"s{self.symbols.index(s)}"
            return name(word), of_symbol(s)

        return self.writer.let("size", fold(size, constant, symbol, _SIZED)[0])

    def program(self) -> Block:
        """The number of this program."""
        found = call("tl.program_id", 0)
        return self.writer.let("program", to(found, "tl.int64") if self.wide else found)

    def axis(self, hint: str, start: Block, block: Size, size: Dim, *, rows: bool) -> Axis:
        """The places start, start + 1 ... of one tile axis, of which those below `size` count."""
        along = lanes(block[0], rows=rows)
        places = binary("+", start, to(along, "tl.int64") if self.wide else along)
        at = self.writer.variable(hint, places)
        if known_divides(block[1], size):
            return Axis(at, None)
        inside = binary("<", at, self.dim(size))
        return Axis(at, self.writer.let(f"{hint}_inside", inside))

    def unflatten(self, flat: Block, shape: Shape) -> Index:
        """The index whose row-major place in `shape` is `flat`."""

        def split(flat: Block, size: Dim) -> tuple[Block, Block]:
            whole = self.dim(size)
            rest = self.writer.let("at", binary("%", flat, whole))
            return self.writer.let("rest", binary("//", flat, whole)), rest

        return unflatten(flat, shape, ZERO, split)

    def flatten(self, index: Index, shape: Shape) -> Block:
        """The row-major place of an index in `shape`."""
        lead = self._lead
        if lead is not None and shape and shape[:-1] == lead[0] and _texts(index[:-1]) == lead[1]:
            return binary("+", binary("*", lead[2], self.dim(shape[-1])), index[-1])
        flat: Block = ZERO
        for at, size in zip(index, shape, strict=True):
            flat = binary("+", binary("*", flat, self.dim(size)), at)
        return flat

    def lead(self, shape: Shape, flat: Block) -> Index:
        """The index of row number `flat` of arrays whose leading dimensions are `shape`."""
        places = self.unflatten(flat, shape)
        self._lead = shape, _texts(places), flat
        return places

    def tile(self) -> Block:
        """The shape of the tile."""
        return block_shape(self.piece[0][0], self.piece[1][0])

    # --- values ---

    @contextmanager
    def scope(self, rows: Axis | None, columns: Axis | None) -> Generator[None]:
        """Code over one tile: what is computed inside is forgotten at its end."""
        self._memo.append({})
        self._masks.append(
            (None if rows is None else rows.mask, None if columns is None else columns.mask)
        )
        yield
        self._memo.pop()
        self._masks.pop()

    @contextmanager
    def pieces(self, width: Dim) -> Generator[Axis]:
        """A loop over a row's columns, block by block."""
        size = self.piece[1]
        with self.writer.loop("start", self.dim(width), size[0]) as start:
            axis = self.axis("column", start, size, width, rows=False)
            with self.scope(Axis(ZERO, self._masks[-1][0]), axis):
                yield axis

    def value(self, value: Value, index: Index) -> Block:
        """The value at an index. Raises Unlowered."""
        key = (value.name, *_texts(index))
        for memo in reversed(self._memo):
            if key in memo:
                return memo[key]
        source = self.sources.get(value.name)
        if isinstance(source, Given):
            if _texts(source.index) != _texts(index):
                raise Unlowered(f"%{value.name} is read at another place than it is computed")
            return source.block
        if source is not None:
            found = self._load(source, index)
        else:
            node = self._producer[value.name]
            rule = self._rules.get(node.op)
            if rule is None:
                raise Unlowered(f"there is no kernel for {node.op}")
            found = self.writer.let(node.op, rule(self, node, index))
        self._memo[-1][key] = found
        return found

    def mask(self, place: Block) -> Block | None:
        """Which lanes of a place are inside the tile."""
        rows, columns = self._masks[-1]
        parts = [m for m, on in ((rows, place.rows), (columns, place.columns)) if on and m]
        return None if not parts else parts[0] if len(parts) == 1 else binary("&", *parts)

    def _load(self, source: Dense, index: Index) -> Block:
        offset = self.flatten(index, source.shape)
        mask = self.mask(offset)
        at = binary("+", source.pointer, offset)
        options = {} if mask is None else {"mask": mask, "other": literal(0)}
        read = self.writer.let(f"{source.pointer.text}_block", call("tl.load", at, **options))
        read = Block(read.node, offset.rows, offset.columns)
        if source.dtype.kind == "bool":
            return self.writer.let("flag", binary("!=", read, 0))
        if ARITHMETIC[source.dtype.name] == STORAGE[source.dtype.name]:
            return Block(read.node, read.rows, read.columns, read.node)
        widened = to(read, "tl.float32")
        return Block(widened.node, read.rows, read.columns, read.node)

    def store(self, target: Dense, offset: Block, value: Block) -> None:
        """Elements to memory, under the masks of the tile."""
        narrow = STORAGE[target.dtype.name]
        if narrow != ARITHMETIC[target.dtype.name]:
            value = to(value, narrow)
        mask = self.mask(offset)
        options = {} if mask is None else {"mask": mask}
        self.writer.do(call("tl.store", binary("+", target.pointer, offset), value, **options))


def _texts(index: Sequence[Block]) -> tuple[str, ...]:
    return tuple(place.text for place in index)


def _reach(type_: TensorType) -> int:
    return max(bounds(type_.numel)[1], *(bounds(d)[1] for d in type_.shape), 0)


def _sized(op: DimOp) -> Operation[Sized]:
    """An operator on blocks that hold dimensions."""
    emit = partial(call, f"tl.{op}imum") if op in ("min", "max") else partial(binary, op)

    def operation(x: Sized, y: Sized) -> Sized:
        (a, left), (b, right) = x, y
        if op in ("//", "%") and bounds(left)[0] < 0:  # Triton's division truncates
            raise Unlowered(f"dimension {left} may be negative where it is divided")
        return emit(a, b), DIM_ARITHMETIC[op](left, right)

    return operation


_SIZED: Mapping[DimOp, Operation[Sized]] = {op: _sized(op) for op in DIM_ARITHMETIC}
