"""Random bits that depend on a key and on where an element stands in the global tensor, so that
they are equal on all backends and placements.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tilewright.dsl.attrs import Attrs, AttrSpec
from tilewright.dsl.builder import active
from tilewright.dsl.composite import Composite
from tilewright.dsl.dims import Dim, dim, known_le
from tilewright.dsl.dtypes import bf16, f32, i32, u32
from tilewright.dsl.errors import AttributeError_, DTypeError, ShapeError
from tilewright.dsl.op import OpDef, Sample, error, need_float, register, sample, tensors
from tilewright.dsl.ops.elementwise import where
from tilewright.dsl.placement import Shard
from tilewright.dsl.sharding import Rule, axis_letters
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.types import Shape, TensorType, Type, shape_text

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
BLOCK = 64
"""Elements that share `BLOCK // 4` counters; a quarter of it is one run of equal lanes."""

_LOW = 0xFFFFFFFF
_RUN = BLOCK // 4
_N = dim("n", 1, 64)

Word = Any
"""An int64 array (or int) that holds 32-bit words."""


def philox(counter: Sequence[Word], key: Sequence[Word]) -> tuple[Word, Word, Word, Word]:
    """Philox-4x32-10: four random words from four counter words and two key words.

    Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3 (SC 2011). Words are
    int64 values below 2**32, over any array namespace; no product exceeds 48 bits.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        high0, low0 = _wide_product(MULTIPLIERS[0], c0)
        high1, low1 = _wide_product(MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + WEYL[0]) & _LOW, (k1 + WEYL[1]) & _LOW
    return c0, c1, c2, c3


def _wide_product(a: int, x: Word) -> tuple[Word, Word]:
    """The high and the low word of a 64-bit product."""
    by_low, by_high = a * (x & 0xFFFF), a * (x >> 16)
    low = (by_low + ((by_high & 0xFFFF) << 16)) & _LOW
    return (by_high + (by_low >> 16)) >> 16, low


def bits_at(xp: Any, key: Sequence[Word], index: Any, stream: int) -> Any:
    """Random u32 words for elements at these global row-major positions (int64).

    Element i takes word `(i % 64) // 16` of counter `(i // 64) * 16 + i % 16`: sixteen neighbours
    have sixteen consecutive counters and one lane, so a kernel that makes 64 elements at once gets
    them from sixteen counters side by side, without a transpose, while a kernel that makes each
    element alone needs no more than its position. Counter words: low, high, `stream`, 0.
    """
    counter = index // BLOCK * _RUN + index % _RUN
    zero = xp.zeros_like(counter)
    words = philox((counter & _LOW, counter >> 32, zero + stream, zero), key)
    lane = index % BLOCK // _RUN
    chosen = words[0]
    for number in (1, 2, 3):
        chosen = xp.where(lane == number, words[number], chosen)
    return chosen


@register
class RandomBits(OpDef):
    """Uniform u32 words from a key u32[2]; see `bits_at` for which element gets which word.

    `stream` tells apart the draws that share a key. On a shard, `global_shape` is the shape of the
    whole and `offset` the position of the shard's first element in it.
    """

    name = "random_bits"
    operands = ("key",)
    attrs = {
        "shape": AttrSpec("dims"),
        "stream": AttrSpec("int", 0),
        "global_shape": AttrSpec("dims", None, optional=True),
        "offset": AttrSpec("dims", None, optional=True),
    }

    def types(self, xs: Sequence[Type], a: Attrs) -> tuple[Type, ...]:
        (key,) = tensors(self.name, xs)
        if key.dtype != u32:
            raise DTypeError(f"random_bits needs a key of u32, got {key.dtype}")
        if key.shape != (2,):
            raise ShapeError(f"a key has two words, got {shape_text(key.shape)}")
        if not 0 <= a.int("stream") <= _LOW:
            raise AttributeError_(f"stream is a 32-bit number, got {a.int('stream')}")
        self._check_window(a.dims("shape"), *_window(a))
        return (TensorType(a.dims("shape"), u32),)

    def _check_window(self, shape: Shape, whole: Shape, offset: Shape) -> None:
        inside = len(shape) == len(whole) == len(offset) and all(
            known_le(0, start) and known_le(start + size, extent)
            for size, extent, start in zip(shape, whole, offset, strict=True)
        )
        if not inside:
            raise ShapeError(
                f"random_bits: {shape_text(shape)} at {shape_text(offset)} does not lie in "
                f"{shape_text(whole)}"
            )

    def rule(self, xs: Sequence[Type], a: Attrs) -> Rule:
        return Rule((("word",),), (axis_letters(len(a.dims("shape"))),)).keep_whole("word")

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        key = xp.astype(xs[0], xp.int64)
        (result,) = tensors(self.name, out)
        whole, offset = _window(a)
        position = xp.zeros((), dtype=xp.int64)
        for axis, (size, extent, start) in enumerate(zip(result.shape, whole, offset, strict=True)):
            along = xp.arange(size, dtype=xp.int64) + start
            shape = [1] * axis + [-1] + [1] * (result.rank - axis - 1)
            position = position * extent + xp.reshape(along, shape)
        words = bits_at(xp, (key[0], key[1]), position, a.int("stream"))
        return (xp.astype(words, xp.uint32),)

    def flops(self, xs: Sequence[Type], a: Attrs, out: Sequence[Type]) -> Dim:
        """Per counter and round: two wide products, four xors, two additions."""
        (result,) = tensors(self.name, out)
        return result.numel * (ROUNDS * 8 // 4)

    def samples(self) -> Sequence[Sample]:
        key = u32[2]
        return [
            sample(key, fills=("index",), below=2**31, shape=(3, 50)),
            sample(key, fills=("index",), below=2**31, shape=(_N, 2), stream=3),
            sample(key, fills=("index",), below=2**31, shape=()),
            sample(
                key,
                fills=("index",),
                below=2**31,
                shape=(2, 40),
                global_shape=(4, 100),
                offset=(1, 60),
            ),
            error(DTypeError, i32[2], shape=(4,)),
            error(ShapeError, u32[4], shape=(4,)),
            error(ShapeError, key, shape=(4,), global_shape=(6,), offset=(3,)),
            error(AttributeError_, key, shape=(4,), stream=-1),
        ]


def _window(a: Attrs) -> tuple[Shape, Shape]:
    """The whole shape, and where the result begins in it."""
    shape = a.dims("shape")
    whole = shape if a["global_shape"] is None else a.dims("global_shape")
    offset = (0,) * len(shape) if a["offset"] is None else a.dims("offset")
    return whole, offset


@register
class Uniform(Composite):
    """f32 numbers in [0, 1): the upper 24 bits of each random word, times 2**-24."""

    name = "uniform"
    operands = ("key",)
    attrs = {"shape": AttrSpec("dims"), "stream": AttrSpec("int", 0)}

    def body(self, *xs: Tensor, a: Attrs) -> Tensor:
        bits = random_bits(xs[0], a.dims("shape"), stream=a.int("stream"))
        return (bits // 256).cast(f32) * 2.0**-24

    def samples(self) -> Sequence[Sample]:
        return [
            sample(u32[2], fills=("index",), below=2**31, shape=(_N, 70)),
            error(DTypeError, i32[2], shape=(4,)),
        ]


@register
class Dropout(Composite):
    """Each element is zero with probability `rate`, else x / (1 - rate) (rounded once).

    The decisions depend on the element's global position alone: a sharded operand meets its own
    slice of them.
    """

    name = "dropout"
    operands = ("x", "key")
    attrs = {"rate": AttrSpec("float"), "stream": AttrSpec("int", 0)}

    def check(self, xs: Sequence[TensorType], a: Attrs) -> None:
        need_float(self.name, xs[0])
        if not 0.0 <= a.float("rate") <= 1.0:
            raise AttributeError_(f"dropout needs a rate in 0..1, got {a.float('rate')}")

    def body(self, *xs: Tensor, a: Attrs) -> Tensor:
        x, key = xs
        rate = a.float("rate")
        chance = _placed_like(x, uniform(key, x.shape, stream=a.int("stream")))
        scale = 1.0 if rate == 1.0 else 1.0 / (1.0 - rate)
        wide = x if x.dtype.bits >= 32 else x.cast(f32)
        return where(chance >= rate, (wide * scale).cast(x.dtype), 0.0)

    def samples(self) -> Sequence[Sample]:
        fills = ("normal", "index")
        return [
            sample(f32[4, 70], u32[2], fills=fills, below=2**31, rate=0.25),
            sample(bf16[_N, 3], u32[2], fills=fills, below=2**31, rate=0.5, stream=7),
            sample(f32[5], u32[2], fills=fills, below=2**31, rate=0.0),
            sample(f32[5], u32[2], fills=fills, below=2**31, rate=1.0),
            error(DTypeError, i32[4], u32[2], rate=0.5),
            error(AttributeError_, f32[4], u32[2], rate=1.5),
        ]


def _placed_like(x: Tensor, whole: Tensor) -> Tensor:
    """The rank's slice of a replicated tensor, cut as `x` is."""
    for axis, place in x.type.placement.entries:
        if isinstance(place, Shard):
            whole = active().tensor("shard_slice", whole, axis=axis, dim=place.dim)
    return whole


def random_bits(key: Tensor, shape: Shape, *, stream: int = 0) -> Tensor:
    """u32 words of this shape from a key u32[2]; draws that share a key differ in `stream`."""
    return active().tensor("random_bits", key, shape=shape, stream=stream)


def uniform(key: Tensor, shape: Shape, *, stream: int = 0) -> Tensor:
    """f32 numbers in [0, 1) of this shape."""
    return active().tensor("uniform", key, shape=shape, stream=stream)


def dropout(x: Tensor, key: Tensor, rate: float, *, stream: int = 0) -> Tensor:
    """Zero with probability `rate`, else x / (1 - rate)."""
    return active().tensor("dropout", x, key, rate=rate, stream=stream)
