"""Operations on KV caches. A cache is linear: what consumes it takes its place.

A cache has no length of its own: how many positions are filled is a symbol of the program, and
every operation says which positions it means. What was never written reads as zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from tilewright.dsl.attrs import Attrs, AttrSpec
from tilewright.dsl.builder import active
from tilewright.dsl.codec import encode_values
from tilewright.dsl.cost import Cost
from tilewright.dsl.dims import Dim, bounds, dim, known_eq, known_le
from tilewright.dsl.dtypes import bf16, f32, i32, i64
from tilewright.dsl.encoding import NM, Encoding, IntFormat, Quantized, Sparse, components
from tilewright.dsl.errors import (
    ArityError,
    DTypeError,
    EncodingError,
    PlacementError,
    ShapeError,
    SymbolRangeError,
)
from tilewright.dsl.op import OpDef, Sample, error, get, register, sample
from tilewright.dsl.ops.index import check_indices
from tilewright.dsl.placement import Mesh, Placement
from tilewright.dsl.sharding import Rule, axis_letters
from tilewright.dsl.tensor import Cache, Tensor
from tilewright.dsl.types import CacheType, TensorType, Type, shape_text

_PAST = dim("past", 0, 24)
_SEQ = dim("seq", 1, 8)
_PLAIN = CacheType(2, 32, 2, 4, f32)
_INT8 = CacheType(2, 32, 2, 4, bf16, encoding=Quantized(IntFormat(8), 3))
_BY_POSITION = CacheType(2, 32, 2, 4, f32, encoding=Quantized(IntFormat(8), 1, 8))


class StateOp(OpDef):
    """The first operand is a cache."""

    def cache_and_rest(self, xs: Sequence[Type]) -> tuple[CacheType, tuple[TensorType, ...]]:
        """The operands by kind. Raises DTypeError where the kinds are wrong."""
        if not xs:
            raise ArityError(f"{self.name} needs a cache")
        cache, *rest = xs
        tensors = tuple(x for x in rest if isinstance(x, TensorType))
        if not isinstance(cache, CacheType) or len(tensors) != len(rest):
            raise DTypeError(
                f"{self.name} takes a cache, and after it tensors alone",
                fix='declare one with state("name", CacheType(...))',
            )
        _check_positions(self.name, cache)
        return cache, tensors

    def rule(self, xs: Sequence[Type], a: Attrs) -> Rule:
        """Caches are not placed, so nothing that enters one may be sharded."""
        _, rest = self.cache_and_rest(xs)
        letters = [axis_letters(x.rank, f"x{i}d") for i, x in enumerate(rest)]
        results = [
            axis_letters(t.rank, "r") if isinstance(t, TensorType) else ()
            for t in self.types(xs, a)
        ]
        whole = (letter for group in letters for letter in group)
        return Rule(((), *letters), tuple(results)).keep_whole(*whole)

    def placements(
        self, xs: Sequence[Type], a: Attrs, out: Sequence[Type], mesh: Mesh
    ) -> Sequence[Placement]:
        for x in xs:
            if isinstance(x, TensorType) and x.placement:
                raise PlacementError(
                    f"{self.name}: a cache lies whole on every rank, but an operand is {x}",
                    fix="all_gather (or all_reduce) it first",
                )
        return [Placement()] * len(out)

    def flops(self, xs: Sequence[Type], a: Attrs, out: Sequence[Type]) -> Dim:
        return 0


def _check_positions(op: str, cache: CacheType) -> None:
    """Raises EncodingError where one position cannot be written without its neighbours."""
    for part in components(cache.part).values():
        if part.rank != 4 or part.shape[1] != cache.capacity:
            raise EncodingError(
                f"{op}: {cache.encoding} stores several positions of a cache together",
                fix="encode along the heads or the head dimension (axis 2 or 3)",
            )


def _check_end(op: str, end: Dim, start: Dim, capacity: Dim) -> None:
    """Raises ShapeError where 0 <= start and end <= capacity can hold for no values.

    What holds for some values only is a condition of the call: `requirements` names it, the
    evaluator and the runtime check it.
    """
    if bounds(start)[1] >= 0 and bounds(capacity - end)[1] >= 0:
        return
    raise ShapeError(
        f"{op}: positions {start} to {end} never lie in a cache of {capacity}",
        fix=f"bound the symbols so that {end} <= {capacity}, or give the cache more capacity",
    )


def requirements(op: str, xs: Sequence[Type], a: Attrs) -> Sequence[Dim]:
    """What must not be negative for a state operation to stay inside its cache, where unproved."""
    if not isinstance(get(op), StateOp) or not isinstance(xs[0], CacheType):
        return ()
    names = [name for name in ("at", "length") if name in a]
    start = a.dim(names[0]) if names else 0
    new = xs[1].shape[1] if op == "append" and isinstance(xs[1], TensorType) else 0
    return [d for d in (start, xs[0].capacity - start - new) if not known_le(0, d)]


def _check_call(op: str, start: int, end: int, capacity: Dim) -> None:
    if isinstance(capacity, int) and not 0 <= start <= end <= capacity:
        raise SymbolRangeError(
            f"{op}: positions {start} to {end} do not lie in a cache of {capacity}",
            fix="use fewer positions, or compile with a larger capacity",
        )


def _each_part(value: Any, change: Callable[[Any], Any]) -> Any:
    """`change` of keys and values, and there of every component."""
    if isinstance(value, tuple):
        return tuple(_each_part(part, change) for part in cast("tuple[Any, ...]", value))
    if isinstance(value, Mapping):
        parts = cast("Mapping[str, Any]", value)
        return {name: change(part) for name, part in parts.items()}
    return change(value)


@register
class Append(StateOp):
    """The cache with k and v [batch, seq, heads, head_dim] at positions `at` and on.

    An encoded cache encodes them as it writes. Consumes the cache.
    """

    name = "append"
    operands = ("cache", "k", "v")
    attrs = {"at": AttrSpec("dim")}
    consumes = frozenset({0})

    def types(self, xs: Sequence[Type], a: Attrs) -> tuple[Type, ...]:
        cache, (k, v) = self.cache_and_rest(xs)
        for x in (k, v):
            if x.dtype != cache.dtype:
                raise DTypeError(
                    f"append: the cache holds {cache.dtype}, got {x.dtype}",
                    fix=f"cast(x, {cache.dtype})",
                )
            wanted = (cache.batch, x.shape[1] if x.rank == 4 else 0, cache.heads, cache.head_dim)
            if x.rank != 4 or not all(map(known_eq, x.shape, wanted)) or x.shape != k.shape:
                raise ShapeError(
                    f"append: {shape_text(x.shape)} does not fit a cache of "
                    f"{shape_text(cache.part.shape)}",
                    fix="keys and values are [batch, seq, heads, head_dim], of one shape",
                )
        at = a.dim("at")
        _check_end(self.name, at + k.shape[1], at, cache.capacity)
        return (cache,)

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        (result,) = out
        assert isinstance(result, CacheType)
        at = a.int("at")
        _check_call(self.name, at, at + xs[1].shape[1], result.capacity)
        pairs = zip(xs[0], xs[1:], strict=True)
        return (tuple(_written(xp, old, x, at, result) for old, x in pairs),)

    def cost(self, xs: Sequence[Type], a: Attrs, out: Sequence[Type]) -> Cost:
        """Only what is new moves."""
        cache, (k, v) = self.cache_and_rest(xs)
        written = k.with_encoding(cache.encoding).nbytes + v.with_encoding(cache.encoding).nbytes
        return Cost(0, k.nbytes + v.nbytes, written)

    def samples(self) -> Sequence[Sample]:
        new, short = f32[2, _SEQ, 2, 4], bf16[2, 3, 2, 4]
        nm = CacheType(2, 32, 2, 4, f32, encoding=Sparse(NM(2, 4), 3))
        return [
            sample(_PLAIN, new, new, at=_PAST),
            sample(_INT8, short, short, at=0),
            sample(nm, new, new, at=_PAST),
            error(ShapeError, _PLAIN, new, new, at=_PAST + 32),
            error(ShapeError, _PLAIN, f32[2, 3, 2, 5], f32[2, 3, 2, 5], at=0),
            error(ShapeError, _PLAIN, f32[2, 3, 2, 4], f32[2, 1, 2, 4], at=0),
            error(DTypeError, _PLAIN, short, short, at=0),
            error(DTypeError, new, new, new, at=0),
            error(EncodingError, _BY_POSITION, new, new, at=0),
        ]


def _written(xp: Any, old: Any, x: Any, at: int, cache: CacheType) -> Any:
    encoding: Encoding = cache.encoding
    new = TensorType(tuple(x.shape), cache.dtype, encoding=encoding)
    stop = at + x.shape[1]
    if new.is_dense:
        return xp.concat([old[:, :at], x, old[:, stop:]], axis=1)
    return {
        name: xp.concat([old[name][:, :at], part, old[name][:, stop:]], axis=1)
        for name, part in encode_values(x, new).items()
    }


@register
class View(StateOp):
    """The first `length` keys and values, [batch, length, heads, head_dim] each, as stored."""

    name = "view"
    operands = ("cache",)
    attrs = {"length": AttrSpec("dim")}

    def types(self, xs: Sequence[Type], a: Attrs) -> tuple[Type, ...]:
        cache, _ = self.cache_and_rest(xs)
        length = a.dim("length")
        _check_end(self.name, length, length, cache.capacity)
        shape = (cache.batch, length, cache.heads, cache.head_dim)
        part = TensorType(shape, cache.dtype, encoding=cache.encoding)
        return part, part

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        length = a.int("length")
        return _each_part(tuple(xs[0]), lambda part: part[:, :length])

    def cost(self, xs: Sequence[Type], a: Attrs, out: Sequence[Type]) -> Cost:
        """Nothing moves: the results are windows on the cache."""
        return Cost()

    def samples(self) -> Sequence[Sample]:
        return [
            sample(_PLAIN, length=_PAST + _SEQ),
            sample(_INT8, length=32),
            sample(_PLAIN, length=0),
            error(ShapeError, _PLAIN, length=33),
            error(ShapeError, _PLAIN, length=_PAST + 33),
            error(DTypeError, f32[2, 32, 2, 4], length=3),
        ]


@register
class Rollback(StateOp):
    """The cache of which only the first `length` positions still matter. Consumes the cache.

    Nothing is written: what lies behind stays until it is written over. The operation gives later
    appends their place in the order, and a paged cache its pages back.
    """

    name = "rollback"
    operands = ("cache",)
    attrs = {"length": AttrSpec("dim")}
    consumes = frozenset({0})

    def types(self, xs: Sequence[Type], a: Attrs) -> tuple[Type, ...]:
        cache, _ = self.cache_and_rest(xs)
        length = a.dim("length")
        _check_end(self.name, length, length, cache.capacity)
        return (cache,)

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        return (xs[0],)

    def cost(self, xs: Sequence[Type], a: Attrs, out: Sequence[Type]) -> Cost:
        """Nothing moves."""
        return Cost()

    def samples(self) -> Sequence[Sample]:
        return [
            sample(_PLAIN, length=_PAST),
            sample(_INT8, length=0),
            error(ShapeError, _PLAIN, length=33),
        ]


@register
class Fork(StateOp):
    """A new cache with what the cache holds; the two go separate ways from here."""

    name = "fork"
    operands = ("cache",)

    def types(self, xs: Sequence[Type], a: Attrs) -> tuple[Type, ...]:
        return (self.cache_and_rest(xs)[0],)

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        return (xs[0],)

    def samples(self) -> Sequence[Sample]:
        return [sample(_PLAIN), sample(_INT8), error(DTypeError, f32[2])]


@register
class CacheGather(StateOp):
    """The cache whose sequence i is sequence `index[i]` (beam search). Consumes the cache.

    An index out of range is an error in checked evaluation and clamped in kernels.
    """

    name = "cache_gather"
    operands = ("cache", "index")
    consumes = frozenset({0})

    def types(self, xs: Sequence[Type], a: Attrs) -> tuple[Type, ...]:
        cache, (index,) = self.cache_and_rest(xs)
        if index.dtype not in (i32, i64):
            raise DTypeError(f"cache_gather: indices are i32 or i64, got {index.dtype}")
        if index.rank != 1 or not known_eq(index.shape[0], cache.batch):
            raise ShapeError(
                f"cache_gather: a cache of {cache.batch} sequences needs that many indices, got "
                f"{shape_text(index.shape)}"
            )
        return (cache,)

    def check_values(self, xs: Sequence[Any], a: Attrs) -> None:
        check_indices(self.name, xs[1], len(xs[1]))

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        index = xp.clip(xs[1], 0, max(len(xs[1]) - 1, 0))
        return (_each_part(tuple(xs[0]), lambda part: xp.take(part, index, axis=0)),)

    def samples(self) -> Sequence[Sample]:
        return [
            Sample((_PLAIN, i32[2]), fills=("normal", "index"), below=2),
            Sample((_INT8, i64[2]), fills=("normal", "index"), below=2),
            error(ShapeError, _PLAIN, i32[3]),
            error(DTypeError, _PLAIN, f32[2]),
        ]


def rollback(cache: Cache, length: Dim) -> Cache:
    """The cache of which only the first `length` positions still matter; consumes it."""
    return active().cache("rollback", cache, length=length)


def fork(cache: Cache) -> Cache:
    """A new cache with what this one holds."""
    return active().cache("fork", cache)


def cache_gather(cache: Cache, index: Tensor) -> Cache:
    """The cache whose sequence i is sequence `index[i]`; consumes it."""
    return active().cache("cache_gather", cache, index)
