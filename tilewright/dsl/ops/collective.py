"""Collectives: what moves between the ranks of one mesh axis (`exchange` has their two views)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce as fold
from typing import Any

import numpy as np

from tilewright.dsl.attrs import Attrs, AttrSpec
from tilewright.dsl.builder import active
from tilewright.dsl.dims import Dim, dim
from tilewright.dsl.dtypes import bf16, bool_, f32, i32
from tilewright.dsl.encoding import IntFormat, Quantized
from tilewright.dsl.errors import (
    AttributeError_,
    DTypeError,
    EncodingError,
    PlacementError,
    RankError,
)
from tilewright.dsl.op import Sample, register, tensors
from tilewright.dsl.ops.exchange import (
    ON_AXIS,
    Collective,
    check_dim,
    check_rank,
    cut,
    grown,
    only,
    shrunk,
)
from tilewright.dsl.placement import (
    REDUCE_OPS,
    REPLICATE,
    At,
    AxisPlacement,
    Local,
    Partial,
    ReduceOp,
    Replicate,
    Shard,
)
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.types import Shape, TensorType, Type

_N = dim("n", 1, 64)
_INT8 = Quantized(IntFormat(8), 1)
_REDUCING = {**ON_AXIS, "reduction": AttrSpec("str", "sum")}

_REDUCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "sum": np.add,
    "max": np.maximum,
    "min": np.minimum,
}


class Reducing(Collective):
    """Takes a Partial apart."""

    attrs = _REDUCING
    takes_encoded = False
    takes = "partial"
    remedy = "what is not Partial needs no reduction; a Shard is gathered by all_gather"

    def check(self, x: TensorType, a: Attrs) -> None:
        kind = a.str("reduction")
        if kind not in REDUCE_OPS:
            raise AttributeError_(
                f"{self.name}: there is no reduction {kind!r}", fix=f"use {', '.join(REDUCE_OPS)}"
            )
        if kind == "sum" and x.dtype == bool_:
            raise DTypeError(f"{self.name}: bools have no sum", fix="use max (or) or min (and)")

    def is_mine(self, place: AxisPlacement, a: Attrs) -> bool:
        """True for a Partial of this reduction."""
        return isinstance(place, Partial) and place.op == a.str("reduction")

    def reduced(self, held: Sequence[Any], a: Attrs) -> Any:
        """The reduction, in the order of the ranks."""
        return fold(_REDUCTIONS[a.str("reduction")], held)

    def flops(self, xs: Sequence[Type], a: Attrs, out: Sequence[Type]) -> Dim:
        """One operation for every element that a rank contributes."""
        (x,) = tensors(self.name, xs)
        return x.numel


@register
class AllReduce(Reducing):
    """Partial -> Replicate."""

    name = "all_reduce"

    def moved(self, place: AxisPlacement, a: Attrs) -> AxisPlacement | None:
        return REPLICATE if self.is_mine(place, a) else None

    def exchange(self, held: Sequence[Any], a: Attrs) -> list[Any]:
        return [self.reduced(held, a)] * len(held)

    def samples(self) -> Sequence[Sample]:
        return [
            self._sample(f32[2, 8], Partial()),
            self._sample(bf16[_N, 3], Partial("max"), reduction="max"),
            self._error(PlacementError, f32[2, 8], REPLICATE),
            self._error(PlacementError, f32[2, 8], Shard(0)),
            self._error(PlacementError, f32[2, 8], Partial("max")),
            self._error(DTypeError, bool_[4], Local(), size=2),
            self._error(AttributeError_, f32[4], Partial(), reduction="mean"),
            self._error(EncodingError, f32[4, 8].with_encoding(_INT8), Partial()),
        ]


@register
class ReduceScatter(Reducing):
    """Partial -> Shard(dim)."""

    name = "reduce_scatter"
    attrs = {**_REDUCING, "dim": AttrSpec("int")}

    def check(self, x: TensorType, a: Attrs) -> None:
        super().check(x, a)
        check_dim(self.name, x, a.int("dim"))

    def moved(self, place: AxisPlacement, a: Attrs) -> AxisPlacement | None:
        return Shard(a.int("dim")) if self.is_mine(place, a) else None

    def local_shape(self, shape: Shape, a: Attrs, size: int) -> Shape:
        return shrunk(self.name, shape, a.int("dim"), size)

    def exchange(self, held: Sequence[Any], a: Attrs) -> list[Any]:
        return cut(self.reduced(held, a), a.int("dim"), len(held))

    def samples(self) -> Sequence[Sample]:
        return [
            self._sample(f32[3, 8], Partial(), dim=0),
            self._sample(i32[4, _N], Partial("min"), dim=1, reduction="min"),
            self._error(PlacementError, f32[2, 8], REPLICATE, dim=0),
            self._error(RankError, f32[2, 8], Partial(), dim=2),
        ]


@register
class Reduce(Reducing):
    """Partial -> At(root)."""

    name = "reduce"
    attrs = {**_REDUCING, "root": AttrSpec("int", 0)}

    def check_ranks(self, a: Attrs, size: int) -> None:
        check_rank(self.name, a.int("root"), size)

    def moved(self, place: AxisPlacement, a: Attrs) -> AxisPlacement | None:
        return At(a.int("root")) if self.is_mine(place, a) else None

    def exchange(self, held: Sequence[Any], a: Attrs) -> list[Any]:
        return only(self.reduced(held, a), a.int("root"), len(held))

    def samples(self) -> Sequence[Sample]:
        return [
            self._sample(f32[2, 8], Partial(), root=1),
            self._error(PlacementError, f32[2, 8], At(0)),
            self._error(AttributeError_, f32[2, 8], Partial(), root=2),
        ]


@register
class AllGather(Collective):
    """Shard(dim) -> Replicate."""

    name = "all_gather"
    attrs = {**ON_AXIS, "dim": AttrSpec("int")}
    takes = "sharded along `dim`"
    remedy = "gather the dimension that is sharded; a Partial is summed by all_reduce"

    def check(self, x: TensorType, a: Attrs) -> None:
        check_dim(self.name, x, a.int("dim"))

    def moved(self, place: AxisPlacement, a: Attrs) -> AxisPlacement | None:
        return REPLICATE if place == Shard(a.int("dim")) else None

    def local_shape(self, shape: Shape, a: Attrs, size: int) -> Shape:
        return grown(shape, a.int("dim"), size)

    def exchange(self, held: Sequence[Any], a: Attrs) -> list[Any]:
        return [np.concatenate(list(held), axis=a.int("dim"))] * len(held)

    def samples(self) -> Sequence[Sample]:
        return [
            self._sample(f32[3, 8], Shard(0), dim=0),
            self._sample(bf16[_N, 3], Shard(1), dim=1),
            self._sample(f32[4, 8].with_encoding(_INT8), Shard(0), dim=0),
            self._error(PlacementError, f32[2, 8], Shard(0), dim=1),
            self._error(PlacementError, f32[2, 8], Partial(), dim=0),
            self._error(RankError, f32[2, 8], Shard(0), dim=-1),
        ]


@register
class AllToAll(Collective):
    """Shard(from_dim) -> Shard(to_dim)."""

    name = "all_to_all"
    attrs = {**ON_AXIS, "from_dim": AttrSpec("int"), "to_dim": AttrSpec("int")}
    takes = "sharded along `from_dim`"
    remedy = "name the dimension that is sharded; a Replicate is cut by shard_slice"

    def check(self, x: TensorType, a: Attrs) -> None:
        for name in ("from_dim", "to_dim"):
            check_dim(self.name, x, a.int(name))
        if a.int("from_dim") == a.int("to_dim"):
            raise AttributeError_(f"{self.name}: from_dim and to_dim are both {a['to_dim']}")

    def moved(self, place: AxisPlacement, a: Attrs) -> AxisPlacement | None:
        return Shard(a.int("to_dim")) if place == Shard(a.int("from_dim")) else None

    def local_shape(self, shape: Shape, a: Attrs, size: int) -> Shape:
        wide = grown(shape, a.int("from_dim"), size)
        return shrunk(self.name, wide, a.int("to_dim"), size)

    def exchange(self, held: Sequence[Any], a: Attrs) -> list[Any]:
        sent = [cut(x, a.int("to_dim"), len(held)) for x in held]
        return [
            np.concatenate([pieces[to] for pieces in sent], axis=a.int("from_dim"))
            for to in range(len(held))
        ]

    def samples(self) -> Sequence[Sample]:
        return [
            self._sample(f32[3, 8], Shard(0), from_dim=0, to_dim=1),
            self._sample(bf16[_N, 3, 5], Shard(2), from_dim=2, to_dim=1),
            self._error(PlacementError, f32[2, 8], REPLICATE, from_dim=0, to_dim=1),
            self._error(AttributeError_, f32[2, 8], Shard(0), from_dim=0, to_dim=0),
            self._error(
                PlacementError, f32[4, 8].with_encoding(_INT8), Shard(0), from_dim=0, to_dim=1
            ),
        ]


@register
class Broadcast(Collective):
    """At(root) -> Replicate."""

    name = "broadcast"
    attrs = {**ON_AXIS, "root": AttrSpec("int", 0)}
    takes = "at `root`"
    remedy = "name the coordinate that holds it"

    def check_ranks(self, a: Attrs, size: int) -> None:
        check_rank(self.name, a.int("root"), size)

    def moved(self, place: AxisPlacement, a: Attrs) -> AxisPlacement | None:
        return REPLICATE if place == At(a.int("root")) else None

    def exchange(self, held: Sequence[Any], a: Attrs) -> list[Any]:
        return [held[a.int("root")]] * len(held)

    def samples(self) -> Sequence[Sample]:
        return [
            self._sample(f32[2, 8], At(1), root=1),
            self._sample(f32[4, 8].with_encoding(_INT8), At(0)),
            self._error(PlacementError, f32[2, 8], At(0), root=1),
            self._error(AttributeError_, f32[2, 8], At(0), root=-1),
        ]


@register
class Send(Collective):
    """At(source) -> At(target)."""

    name = "send"
    attrs = {**ON_AXIS, "source": AttrSpec("int"), "target": AttrSpec("int")}
    takes = "at `source`"
    remedy = "name the coordinate that holds it"

    def check_ranks(self, a: Attrs, size: int) -> None:
        check_rank(self.name, a.int("source"), size)
        check_rank(self.name, a.int("target"), size)

    def moved(self, place: AxisPlacement, a: Attrs) -> AxisPlacement | None:
        return At(a.int("target")) if place == At(a.int("source")) else None

    def exchange(self, held: Sequence[Any], a: Attrs) -> list[Any]:
        return only(held[a.int("source")], a.int("target"), len(held))

    def samples(self) -> Sequence[Sample]:
        return [
            self._sample(f32[2, 8], At(0), source=0, target=1),
            self._error(PlacementError, f32[2, 8], At(1), source=0, target=1),
            self._error(AttributeError_, f32[2, 8], At(0), source=0, target=2),
        ]


@register
class Permute(Collective):
    """Local -> Local: what coordinate i holds goes to coordinate `permutation[i]`."""

    name = "permute"
    attrs = {**ON_AXIS, "permutation": AttrSpec("ints")}
    takes = "local"
    remedy = "shards keep their order; to move a value between coordinates use send"

    def check_ranks(self, a: Attrs, size: int) -> None:
        if sorted(a.ints("permutation")) != list(range(size)):
            raise AttributeError_(
                f"permute: {list(a.ints('permutation'))} is no permutation of {size} ranks"
            )

    def moved(self, place: AxisPlacement, a: Attrs) -> AxisPlacement | None:
        return place if isinstance(place, Local) else None

    def exchange(self, held: Sequence[Any], a: Attrs) -> list[Any]:
        received: list[Any] = [None] * len(held)
        for source, target in enumerate(a.ints("permutation")):
            received[target] = held[source]
        return received

    def samples(self) -> Sequence[Sample]:
        return [
            self._sample(f32[2, 8], Local(), permutation=(1, 0)),
            self._error(PlacementError, f32[2, 8], Shard(0), permutation=(1, 0)),
            self._error(AttributeError_, f32[2, 8], Local(), permutation=(1, 1)),
        ]


@register
class ShardSlice(Collective):
    """Replicate -> Shard(dim): every rank keeps its own piece; nothing is sent."""

    name = "shard_slice"
    attrs = {**ON_AXIS, "dim": AttrSpec("int")}
    takes = "replicated"
    remedy = "a Partial is cut by reduce_scatter, a Shard of another dimension by all_to_all"

    def check(self, x: TensorType, a: Attrs) -> None:
        check_dim(self.name, x, a.int("dim"))

    def moved(self, place: AxisPlacement, a: Attrs) -> AxisPlacement | None:
        return Shard(a.int("dim")) if isinstance(place, Replicate) else None

    def local_shape(self, shape: Shape, a: Attrs, size: int) -> Shape:
        return shrunk(self.name, shape, a.int("dim"), size)

    def exchange(self, held: Sequence[Any], a: Attrs) -> list[Any]:
        return [cut(x, a.int("dim"), len(held))[i] for i, x in enumerate(held)]

    def samples(self) -> Sequence[Sample]:
        return [
            self._sample(f32[3, 8], REPLICATE, dim=0),
            self._sample(f32[4, 8].with_encoding(_INT8), REPLICATE, dim=0),
            self._error(PlacementError, f32[2, 8], Shard(0), dim=1),
            self._error(PlacementError, f32[2, 8], Partial(), dim=1),
            self._error(PlacementError, f32[4, 8].with_encoding(_INT8), REPLICATE, dim=1),
        ]


def all_reduce(x: Tensor, axis: str, op: ReduceOp = "sum") -> Tensor:
    """Partial -> Replicate."""
    return active().tensor("all_reduce", x, axis=axis, reduction=op)


def reduce_scatter(x: Tensor, axis: str, dim: int, op: ReduceOp = "sum") -> Tensor:
    """Partial -> Shard(dim)."""
    return active().tensor("reduce_scatter", x, axis=axis, dim=dim, reduction=op)


def all_gather(x: Tensor, axis: str, dim: int) -> Tensor:
    """Shard(dim) -> Replicate."""
    return active().tensor("all_gather", x, axis=axis, dim=dim)


def all_to_all(x: Tensor, axis: str, from_dim: int, to_dim: int) -> Tensor:
    """Shard(from_dim) -> Shard(to_dim)."""
    return active().tensor("all_to_all", x, axis=axis, from_dim=from_dim, to_dim=to_dim)


def broadcast(x: Tensor, axis: str, root: int = 0) -> Tensor:
    """At(root) -> Replicate."""
    return active().tensor("broadcast", x, axis=axis, root=root)


def reduce(x: Tensor, axis: str, root: int = 0, op: ReduceOp = "sum") -> Tensor:
    """Partial -> At(root)."""
    return active().tensor("reduce", x, axis=axis, root=root, reduction=op)


def send(x: Tensor, axis: str, source: int, target: int) -> Tensor:
    """At(source) -> At(target)."""
    return active().tensor("send", x, axis=axis, source=source, target=target)


def permute(x: Tensor, axis: str, permutation: Sequence[int]) -> Tensor:
    """What coordinate i holds goes to coordinate `permutation[i]`; Local -> Local."""
    return active().tensor("permute", x, axis=axis, permutation=tuple(permutation))


def shard_slice(x: Tensor, axis: str, dim: int) -> Tensor:
    """Replicate -> Shard(dim), without sending anything."""
    return active().tensor("shard_slice", x, axis=axis, dim=dim)
