"""Encoded operands, decoded where they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from tvm import tirx

from tilewright.codegen.tvm import vector
from tilewright.codegen.tvm.emit import Expr, i64
from tilewright.codegen.tvm.index import ZERO, Index, Ix, NeedsScalar
from tilewright.codegen.tvm.pull import Dense, Puller, Rule
from tilewright.codegen.tvm.pull_math import align, convert
from tilewright.dsl.dtypes import f32
from tilewright.dsl.encoding import (
    NM,
    Encoding,
    FloatFormat,
    IntFormat,
    Quantized,
    Sparse,
    Tiled,
)
from tilewright.dsl.encoding import Dense as DenseEncoding
from tilewright.dsl.graph import Node
from tilewright.dsl.types import TensorType

Component = Callable[[str, Index], Expr]
"""Reads a component at an index of the matrix it belongs to, tiles seen through."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """The components of an encoded operand."""

    type: TensorType
    arrays: Mapping[str, Dense]

    def at(self, puller: Puller, index: Index) -> Expr:
        """The decoded element."""
        return _decoded(puller, self.type.encoding, self._component(puller), index)

    def _component(self, puller: Puller) -> Component:
        encoding = self.type.encoding
        if not isinstance(encoding, Tiled):
            return lambda name, index: self.arrays[name].at(puller, index)

        def tiled(name: str, index: Index) -> Expr:
            array = self.arrays[name]
            if len(array.shape) == len(index):
                return array.at(puller, index)
            tiles = replace(encoding, columns=encoding.columns // 2) if name == "low" else encoding
            return array.at(puller, tile_index(puller, tiles, index))

        return tiled


def tile_index(puller: Puller, tiles: Tiled, index: Index) -> Index:
    """[row // rows, column // columns, row % rows, column % columns]; rows and columns scalar."""
    row, column = index
    let = puller.kernel.let
    if row.step:
        raise AssertionError("vectors run along rows of a tiled matrix")

    def split(ix: Ix, size: int) -> tuple[Ix, Ix]:
        if size == 1:
            return ix, ZERO
        if ix.step:
            raise NeedsScalar
        at = i64(ix.base)
        return (
            Ix(let(tirx.truncdiv(at, i64(size)), "tile")),
            Ix(let(tirx.truncmod(at, i64(size)), "at")),
        )

    (panel, inner), (block, rest) = split(row, tiles.rows), split(column, tiles.columns)
    return panel, block, inner, rest


def decodes(encoding: Encoding) -> bool:
    """Whether kernels here can read values stored so."""
    match encoding:
        case DenseEncoding():
            return True
        case Tiled():
            return decodes(encoding.values)
        case Quantized(format=IntFormat(), group=None, packing="plain"):
            return True
        case Quantized(format=FloatFormat(4, 7), group=None, packing="split"):
            return True
        case Sparse(pattern=NM(n, m), values=DenseEncoding()):
            return n * (m - 1).bit_length() <= 8
        case _:
            return False


def _decoded(puller: Puller, encoding: Encoding, read: Component, index: Index) -> Expr:
    match encoding:
        case Tiled():
            return _decoded(puller, encoding.values, read, index)
        case Quantized(packing="split"):
            return _lengthened(puller, encoding, read, index)
        case Quantized():
            return _dequantized(puller, encoding, read, index)
        case Sparse():
            return _expanded(puller, encoding, read, index)
        case _:
            return read("data", index)


def _dequantized(puller: Puller, encoding: Quantized, read: Component, index: Index) -> Expr:
    """(codes - zero) * scale, with one scale for the whole axis."""
    scale_at = tuple(ZERO if axis == encoding.axis else ix for axis, ix in enumerate(index))
    codes = read("codes", index)
    wide = tirx.Cast(
        str(codes.ty.dtype).replace("uint8", "float32").replace("int8", "float32"), codes
    )
    if not encoding.symmetric:
        wide, zero = align([wide, read("zero", scale_at)])
        wide = wide - zero
    wide, scale = align([wide, read("scale", scale_at)])
    return puller.kernel.let(wide * scale, "decoded")


def _lengthened(puller: Puller, encoding: Quantized, read: Component, index: Index) -> Expr:
    """One element of E4M7; `vector.load_pairs` has whole vectors of them."""
    if any(ix.step for ix in index):
        raise NeedsScalar
    let = puller.kernel.let
    at = i64(index[encoding.axis].base)

    def along(ix: Ix) -> Index:
        return tuple(ix if axis == encoding.axis else other for axis, other in enumerate(index))

    pair, odd = tirx.truncdiv(at, i64(2)), tirx.Cast("int32", tirx.truncmod(at, i64(2)))
    high = tirx.Cast("int32", tirx.reinterpret("int8", read("codes", index)))
    nibbles = tirx.Cast("int32", read("low", along(Ix(let(pair, "pair")))))
    nibble = tirx.shift_right(nibbles, odd * tirx.const(4, "int32"))
    value = vector.from_e4m7(let(high, "high"), nibble)
    return let(value * read("scale", along(ZERO)), "decoded")


def _expanded(puller: Puller, encoding: Sparse, read: Component, index: Index) -> Expr:
    """N:M values: the kept value whose recorded place is this one, else zero."""
    assert isinstance(encoding.pattern, NM)
    n, m = encoding.pattern.n, encoding.pattern.m
    ix = index[encoding.axis]
    if ix.step:
        raise NeedsScalar
    let = puller.kernel.let
    group = let(tirx.truncdiv(i64(ix.base), i64(m)), "group")
    place = tirx.Cast("int32", tirx.truncmod(i64(ix.base), i64(m)))
    bits = (m - 1).bit_length()

    def along(at: Expr) -> Index:
        return tuple(
            replace(ZERO, base=at) if a == encoding.axis else i for a, i in enumerate(index)
        )

    packed = let(tirx.Cast("int32", read("index", along(group))), "packed")
    found: Expr = tirx.const(0.0, "float32")
    for number in range(n):
        shifted = tirx.shift_right(packed, tirx.const(bits * number, "int32"))
        where = tirx.bitwise_and(shifted, tirx.const((1 << bits) - 1, "int32"))
        kept = convert(read("values", along(group * n + number)), f32, f32)
        found = let(tirx.Select(tirx.EQ(where, place), kept, found), "kept")
    return found


def _decode(puller: Puller, node: Node, place: int, index: Index) -> Expr:
    return puller.value(node.operands[0], index)


DECODE_RULES: dict[str, Rule] = {"decode": _decode}
