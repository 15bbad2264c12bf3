"""Philox random bits on pulled values."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx

from tilewright.codegen.tvm import vector
from tilewright.codegen.tvm.emit import Expr, KernelBuilder, i64, lanes_of, vector_type
from tilewright.codegen.tvm.index import Index, Ix, dim_expr
from tilewright.codegen.tvm.pull import Puller, Rule
from tilewright.codegen.tvm.pull_movement import places
from tilewright.dsl.graph import Node
from tilewright.dsl.ops.random import BLOCK, MULTIPLIERS, ROUNDS, WEYL

_RUN = BLOCK // 4


def _random_bits(puller: Puller, node: Node, place: int, index: Index) -> Expr:
    (key,) = node.operands
    words = [puller.value(key, (Ix(i),)) for i in range(2)]
    position = _position(puller, node, index)
    return philox(puller.kernel, words, position, node.attrs.int("stream"))


def _position(puller: Puller, node: Node, index: Index) -> Expr:
    """The global row-major position of the element at `index`, int64."""
    shape = node.attrs.dims("shape")
    whole = shape if node.attrs["global_shape"] is None else node.attrs.dims("global_shape")
    offset = (0,) * len(shape) if node.attrs["offset"] is None else node.attrs.dims("offset")
    lanes = puller.lanes if any(ix.step for ix in index) else 1
    found: Expr = tirx.const(0, vector_type("int64", lanes))
    for ix, extent, start in zip(index, whole, offset, strict=True):
        size, at = (_spread(x, lanes) for x in (dim_expr(puller.kernel, extent), _at(puller, ix)))
        found = found * size + at + _spread(dim_expr(puller.kernel, start), lanes)
    return puller.kernel.let(found, "position")


def _at(puller: Puller, ix: Ix) -> Expr:
    return places(puller, ix)


def _spread(value: Expr, lanes: int) -> Expr:
    value = i64(value) if isinstance(value, int) or lanes_of(value) == 1 else value
    return vector.splat(value, lanes) if lanes > 1 and lanes_of(value) == 1 else value


def philox(kernel: KernelBuilder, key: Sequence[Expr], position: Expr, stream: int) -> Expr:
    """The word of each int64 position: Philox-4x32-10 (Salmon et al., 2011); see `bits_at`."""
    lanes = lanes_of(position)
    u32, u64, i64s = (vector_type(kind, lanes) for kind in ("uint32", "uint64", "int64"))

    def constant(value: int, kind: str) -> Expr:
        return tirx.const(value, kind)

    block = tirx.shift_right(position, constant(BLOCK.bit_length() - 1, i64s))
    inner = tirx.bitwise_and(position, constant(_RUN - 1, i64s))
    counter = kernel.let(block * constant(_RUN, i64s) + inner, "counter")
    words = [
        kernel.let(tirx.Cast(u32, counter)),
        kernel.let(tirx.Cast(u32, tirx.shift_right(counter, constant(32, i64s)))),
        constant(stream, u32),
        constant(0, u32),
    ]
    keys = [vector.splat(k, lanes) if lanes > 1 else k for k in key]
    for turn in range(ROUNDS):
        words = _round(kernel, words, keys, turn, u32, u64)
    run = tirx.shift_right(position, constant(_RUN.bit_length() - 1, i64s))
    lane = kernel.let(tirx.bitwise_and(run, constant(3, i64s)), "lane")
    found = words[3]
    for number in (2, 1, 0):
        found = tirx.Select(tirx.EQ(lane, constant(number, i64s)), words[number], found)
    return kernel.let(found, "bits")


def _round(
    kernel: KernelBuilder,
    words: Sequence[Expr],
    keys: Sequence[Expr],
    turn: int,
    u32: str,
    u64: str,
) -> list[Expr]:
    products = [
        kernel.let(tirx.Cast(u64, words[2 * i]) * tirx.const(MULTIPLIERS[i], u64), "product")
        for i in range(2)
    ]
    tops = [tirx.Cast(u32, tirx.shift_right(p, tirx.const(32, u64))) for p in products]
    # Masked first: TVM refuses to fold a constant that the narrower type does not hold.
    low = tirx.const(0xFFFFFFFF, u64)
    bottoms = [kernel.let(tirx.Cast(u32, tirx.bitwise_and(p, low))) for p in products]
    bumped = [keys[i] + tirx.const(turn * WEYL[i] % (1 << 32), u32) for i in range(2)]

    def mixed(top: Expr, word: Expr, key: Expr) -> Expr:
        return kernel.let(tirx.bitwise_xor(tirx.bitwise_xor(top, word), key))

    return [
        mixed(tops[1], words[1], bumped[0]),
        bottoms[1],
        mixed(tops[0], words[3], bumped[1]),
        bottoms[0],
    ]


RANDOM_RULES: dict[str, Rule] = {"random_bits": _random_bits}
