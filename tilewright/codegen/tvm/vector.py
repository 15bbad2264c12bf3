"""Vectors of f32: conversion from and to storage, reductions, loops with tails.

All arithmetic of float kernels is in f32; `load` and `store` convert from and to the dtype that a
pointer has. Every function takes scalars (one lane) as well as vectors, so a loop's body serves its
tail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from tvm import tirx

from tilewright.codegen.tvm.emit import (
    STORAGE,
    Expr,
    Index,
    KernelBuilder,
    Pointer,
    broadcast,
    i64,
    lanes_of,
    ramp,
    type_of,
    vector_type,
)
from tilewright.codegen.tvm.intrin import bf16_narrow, bits, from_bits, has_bf16_instructions

Body: TypeAlias = Callable[[Expr, int, Expr | None], None]
"""The body of a vector loop: first index, lanes, and the mask of the lanes that exist or None."""


def splat(value: Expr, lanes: int) -> Expr:
    """A scalar in all lanes (a Python number is taken as f32)."""
    if isinstance(value, int | float):
        return tirx.const(float(value), vector_type("float32", lanes))
    return value if lanes_of(value) == lanes else broadcast(value, lanes)


def iota(lanes: int, element: str = "int32") -> Expr:
    """0, 1 ... lanes - 1."""
    return ramp(tirx.IntImm(element, 0), tirx.IntImm(element, 1), lanes)


def select(condition: Expr, chosen: Expr, other: Expr) -> Expr:
    """Lane by lane `chosen` where `condition` holds; both are evaluated."""
    return tirx.Select(condition, chosen, other)


def maximum(a: Expr, b: Expr) -> Expr:
    """The larger; `b` where either is NaN, so a NaN in `b` stays: one instruction on x86."""
    return tirx.Max(a, b)


def minimum(a: Expr, b: Expr) -> Expr:
    """The smaller; `b` where either is NaN."""
    return tirx.Min(a, b)


def is_nan(x: Expr) -> Expr:
    """Which lanes are NaN (TVM simplifies `x != x` to False)."""
    return tirx.isnan(x)


def has_masks(kernel: KernelBuilder) -> bool:
    """Whether the instruction set loads and stores under a mask (AVX-512)."""
    return kernel.isa.lanes_f32 == 16


def mask_below(count: Index, lanes: int) -> Expr:
    """The mask of the first `count` lanes (all, if it is larger than `lanes`)."""
    limit = tirx.Cast("int32", tirx.Min(i64(count), i64(lanes)))
    return tirx.LT(iota(lanes), broadcast(limit, lanes))


# --- storage --------------------------------------------------------------------------------------


def widen(value: Expr, dtype: str) -> Expr:
    """Stored bits of `dtype` as f32 (exact for bf16 and f16)."""
    lanes = lanes_of(value)
    if dtype == "f32":
        return value
    if dtype == "bf16":
        wide = tirx.Cast(vector_type("uint32", lanes), value)
        shifted = tirx.shift_left(wide, tirx.const(16, vector_type("uint32", lanes)))
        return tirx.reinterpret(vector_type("float32", lanes), shifted)
    if dtype == "bool":
        value = tirx.Cast(vector_type("int32", lanes), value)
    return tirx.Cast(vector_type("float32", lanes), value)


def narrow(kernel: KernelBuilder, value: Expr, dtype: str) -> Expr:
    """An f32 value rounded to the stored bits of `dtype` (nearest even; NaN stays NaN).

    Integers truncate towards zero, and must be in range.
    """
    lanes = lanes_of(value)
    if dtype == "f32":
        return value
    if dtype == "bf16":
        return _narrow_bf16(kernel, value)
    return tirx.Cast(vector_type(STORAGE[dtype], lanes), value)


def _narrow_bf16(kernel: KernelBuilder, value: Expr) -> Expr:
    lanes = lanes_of(value)
    if has_bf16_instructions(kernel.isa, lanes):
        return bf16_narrow(kernel, value)

    def constant(number: int) -> Expr:
        return tirx.const(number, vector_type("int32", lanes))

    value = kernel.let(value)
    pattern = kernel.let(bits(value), "bits")
    odd = tirx.bitwise_and(tirx.shift_right(pattern, constant(16)), constant(1))
    rounded = tirx.shift_right(pattern + odd + constant(0x7FFF), constant(16))
    # Rounding could carry a NaN's payload into infinity; its quiet bit keeps it a NaN.
    quiet = tirx.bitwise_or(tirx.shift_right(pattern, constant(16)), constant(0x40))
    kept = tirx.Select(is_nan(value), quiet, rounded)
    return tirx.Cast(vector_type("uint16", lanes), kept)


def load(pointer: Pointer, index: Index, lanes: int = 1, mask: Expr | None = None) -> Expr:
    """Load as f32, bound; lanes that the mask leaves out are 0."""
    return pointer.kernel.let(widen(pointer.peek(index, lanes, mask), pointer.dtype), "x")


def store(pointer: Pointer, index: Index, value: Expr, mask: Expr | None = None) -> None:
    """Store f32 lanes in the pointer's dtype."""
    pointer.store(index, narrow(pointer.kernel, value, pointer.dtype), mask)


@dataclass(frozen=True, slots=True)
class SplitPointer:
    """The address of numbers of 12 bits (E4M7): their high bytes, and their low nibbles by twos.

    Elements are counted as those of a Pointer are; `index` is even everywhere.
    """

    high: Pointer
    low: Pointer
    dtype: str = "e4m7"

    @property
    def kernel(self) -> KernelBuilder:
        return self.high.kernel

    @property
    def line(self) -> int:
        """Elements of the three cache lines that are asked for together."""
        return 2 * self.high.line

    def at(self, index: Index) -> SplitPointer:
        """The pointer moved by `index` elements."""
        return SplitPointer(self.high.at(index), self.low.at(halved(index)))

    def prefetch(self, index: Index) -> None:
        """Ask for the lines of the `line` elements from `index` on."""
        self.high.prefetch(index)
        self.high.prefetch(index + self.high.line)
        self.low.prefetch(halved(index))


Stored: TypeAlias = Pointer | SplitPointer
"""Where a kernel finds weights."""

PAIRED = frozenset({"bf16", "e4m7"})
"""What `load_pairs` loads."""


def halved(index: Index) -> Index:
    """Half of an even index."""
    return index // 2 if isinstance(index, int) else tirx.truncdiv(index, i64(2))


def load_pairs(pointer: Stored, pair: Index, lanes: int) -> tuple[Expr, Expr]:
    """2 x lanes neighbours from twice `pair` on, as f32: those at even and those at odd places.

    One load and two cheap operations where they are bf16; `load` needs a shuffle for every vector.
    """
    if isinstance(pointer, SplitPointer):
        return _load_split(pointer, pair, lanes)
    kernel = pointer.kernel
    loaded = pointer.peek(2 * pair, 2 * lanes)
    pairs = kernel.let(tirx.reinterpret(vector_type("int32", lanes), loaded), "pairs")
    return split_pairs(kernel, pairs)


def _load_split(pointer: SplitPointer, pair: Index, lanes: int) -> tuple[Expr, Expr]:
    """E4M7 as f32, without the scale of their row.

    A code's high byte [s eeee mmm], sign-extended and shifted by 4, is a bf16 whose exponent lacks
    its upper four bits and whose mantissa lacks the nibble [mmmm]; so zero and codes below the
    least normal one come out right as well, as denormals. The product with a power of two makes up
    for the bias. Two nibbles of one byte meet their bytes in the two halves of an int32 lane.
    """
    kernel = pointer.kernel
    short, wide = vector_type("int16", 2 * lanes), vector_type("int32", lanes)
    high = tirx.reinterpret(vector_type("int8", 2 * lanes), pointer.high.peek(2 * pair, 2 * lanes))
    high = tirx.shift_left(tirx.Cast(short, high), tirx.const(4, short))
    high = tirx.bitwise_and(high, tirx.const(_SIGN_AND_CODE, short))
    low = kernel.let(tirx.Cast(wide, pointer.low.peek(pair, lanes)), "low")
    low = tirx.bitwise_or(low, tirx.shift_left(low, tirx.const(12, wide)))
    low = tirx.bitwise_and(low, tirx.const(0x000F000F, wide))
    pairs = kernel.let(tirx.bitwise_or(tirx.reinterpret(wide, high), low), "pairs")
    even, odd = split_pairs(kernel, pairs)
    bias = splat(_UNBIASED, lanes)
    return kernel.let(even * bias, "even"), kernel.let(odd * bias, "odd")


def from_e4m7(high: Expr, low: Expr) -> Expr:
    """One element, from its high byte as a signed int32 and an int32 that ends in its nibble."""

    def constant(number: int) -> Expr:
        return tirx.const(number, "int32")

    code = tirx.bitwise_and(tirx.shift_left(high, constant(4)), constant(_SIGN_AND_CODE))
    code = tirx.bitwise_or(code, tirx.bitwise_and(low, constant(0xF)))
    return from_bits(tirx.shift_left(code, constant(16))) * splat(_UNBIASED, 1)


_SIGN_AND_CODE = 0x87F0 - 0x10000
_UNBIASED = 2.0**120
"""f32 has the bias 127, E4M7 has 7."""


def split_pairs(kernel: KernelBuilder, pairs: Expr) -> tuple[Expr, Expr]:
    """The low and the high bf16 of each int32 lane as f32."""
    kind = vector_type("int32", lanes_of(pairs))
    low = from_bits(tirx.shift_left(pairs, tirx.const(16, kind)))
    high = from_bits(tirx.bitwise_and(pairs, tirx.const(-65536, kind)))
    return kernel.let(low, "even"), kernel.let(high, "odd")


# --- across lanes ---------------------------------------------------------------------------------


def reduce_lanes(kernel: KernelBuilder, value: Expr, combine: Callable[[Expr, Expr], Expr]) -> Expr:
    """All lanes combined to a scalar, halving the vector each time."""
    while (lanes := lanes_of(value)) > 1:
        value = kernel.let(value)
        if lanes == 2:
            # Halves of two lanes would be vectors of one, which LLVM does not take for scalars.
            low, high = (tirx.Shuffle([value], [tirx.IntImm("int32", at)]) for at in range(2))
            value = combine(low, high)
            break
        half = vector_type(type_of(value), lanes // 2)
        low = tirx.call_intrin(half, "tirx.vectorlow", value)
        high = tirx.call_intrin(half, "tirx.vectorhigh", value)
        value = combine(low, high)
    return kernel.let(value)


def reduce_add(kernel: KernelBuilder, value: Expr) -> Expr:
    """The sum of the lanes, as a balanced tree."""
    return reduce_lanes(kernel, value, lambda a, b: a + b)


def reduce_max(kernel: KernelBuilder, value: Expr) -> Expr:
    """The largest lane; NaN if any lane is NaN."""
    return reduce_lanes(kernel, value, lambda a, b: max_nan(kernel, a, b))


def max_nan(kernel: KernelBuilder, a: Expr, b: Expr) -> Expr:
    """The larger; NaN if either is NaN."""
    a, b = kernel.let(a), kernel.let(b)
    return tirx.Select(is_nan(a), a, maximum(a, b))


def min_nan(kernel: KernelBuilder, a: Expr, b: Expr) -> Expr:
    """The smaller; NaN if either is NaN."""
    a, b = kernel.let(a), kernel.let(b)
    return tirx.Select(is_nan(a), a, minimum(a, b))


# --- loops ----------------------------------------------------------------------------------------


def vector_loop(
    kernel: KernelBuilder, begin: Index, end: Index, body: Body, *, unroll: int = 1
) -> None:
    """Run `body` over [begin, end) by whole vectors, then over what is left.

    The rest is one masked vector where there are masks, else one element at a time. `unroll` puts
    that many vectors into one turn of the main loop.
    """
    lanes = kernel.isa.lanes_f32
    if isinstance(begin, int) and isinstance(end, int):
        whole: Index = begin + (end - begin) // (lanes * unroll) * (lanes * unroll)
        vectors: Index = begin + (end - begin) // lanes * lanes
    else:
        start = kernel.let(i64(begin), "begin")
        stop = kernel.let(i64(end), "end")
        whole = kernel.let(start + _whole(stop - start, lanes * unroll), "whole")
        vectors = whole
        if unroll > 1:
            whole = kernel.held(whole)
            vectors = kernel.held(start + _whole(stop - start, lanes))
        begin, end = start, stop
    with kernel.loop(begin, whole, lanes * unroll) as index:
        for turn in range(unroll):
            body(kernel.let(index + turn * lanes), lanes, None)
    if unroll > 1:
        with kernel.loop(whole, vectors, lanes) as index:
            body(index, lanes, None)
    _tail(kernel, vectors, end, body)


def _whole(count: Expr, step: int) -> Expr:
    """The largest multiple of `step` (a power of two or not) up to `count`, which is >= 0."""
    return tirx.truncdiv(count, i64(step)) * step


def _tail(kernel: KernelBuilder, begin: Index, end: Index, body: Body) -> None:
    lanes = kernel.isa.lanes_f32
    if isinstance(begin, int) and isinstance(end, int):
        if begin == end:
            return
        if has_masks(kernel):
            body(i64(begin), lanes, mask_below(end - begin, lanes))
            return
    if has_masks(kernel):
        with kernel.when(i64(begin) < i64(end)):
            rest = kernel.let(i64(end) - i64(begin), "rest")
            body(i64(begin), lanes, mask_below(rest, lanes))
    else:
        with kernel.loop(begin, end) as index:
            body(index, 1, None)


def count_of(kernel: KernelBuilder, mask: Expr) -> Expr:
    """How many lanes a mask has on, as int64."""
    lanes = lanes_of(mask)
    ones = tirx.Select(mask, splat(1.0, lanes), splat(0.0, lanes))
    return kernel.let(tirx.Cast("int64", reduce_add(kernel, ones)), "count")
