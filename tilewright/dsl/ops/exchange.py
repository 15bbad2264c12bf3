"""What all collectives share.

In the global view a collective is the identity on the logical value and changes where it lies. In
the local view (`size` > 0, the number of ranks on the axis) the operand is Local or Replicate, the
result Local, and the shapes are those of one rank. `exchange` says, in both, what the ranks hold
afterwards.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from tilewright.dsl.attrs import Attrs, AttrSpec
from tilewright.dsl.dims import Dim, quotient
from tilewright.dsl.encoding import components
from tilewright.dsl.errors import (
    AttributeError_,
    CompilerBug,
    PlacementError,
    RankError,
    ShapeError,
    TilewrightError,
)
from tilewright.dsl.op import OpDef, Sample, tensors
from tilewright.dsl.placement import AxisPlacement, Local, Mesh, Placement, Replicate, Shard
from tilewright.dsl.sharding import Rule, axis_letters
from tilewright.dsl.shards import chunks
from tilewright.dsl.types import Shape, TensorType, Type

ON_AXIS = {"axis": AttrSpec("str"), "size": AttrSpec("int", 0)}
_MESH = Mesh.of(tp=2)


class Collective(OpDef):
    """One operand, and the mesh axis it moves along."""

    operands = ("x",)
    attrs = ON_AXIS
    is_collective = True
    takes_encoded = True
    takes: ClassVar[str]
    """The placement that the operand needs on the axis, in words."""
    remedy: ClassVar[str]

    @abstractmethod
    def moved(self, place: AxisPlacement, a: Attrs) -> AxisPlacement | None:
        """The placement on the axis afterwards; None where the operand's does not fit."""

    @abstractmethod
    def exchange(self, held: Sequence[Any], a: Attrs) -> list[Any]:
        """What the ranks of the axis hold afterwards, given what they hold, in order.

        A rank that holds nothing has None.
        """

    def check(self, x: TensorType, a: Attrs) -> None:
        """Raises what is wrong with operand and attributes, placement aside."""

    def local_shape(self, shape: Shape, a: Attrs, size: int) -> Shape:
        """A rank's shape afterwards in the local view. Raises ShapeError for uneven shards."""
        return shape

    def types(self, xs: Sequence[Type], a: Attrs) -> tuple[Type, ...]:
        (x,) = tensors(self.name, xs)
        self.check(x, a)
        size = a.int("size")
        if size < 0:
            raise AttributeError_(f"{self.name}: a mesh axis has no size {size}")
        shape = self.local_shape(x.shape, a, size) if size else x.shape
        found = TensorType(shape, x.dtype, encoding=x.encoding)
        components(found)
        return (found,)

    def rule(self, xs: Sequence[Type], a: Attrs) -> Rule:
        """On every other axis of the mesh, elements only move."""
        (x,) = tensors(self.name, xs)
        letters = axis_letters(x.rank)
        return Rule((letters,), (letters,)).moves()

    def placements(
        self, xs: Sequence[Type], a: Attrs, out: Sequence[Type], mesh: Mesh
    ) -> Sequence[Placement]:
        (x,) = tensors(self.name, xs)
        axis, size = a.str("axis"), mesh.size(a.str("axis"))
        if a.int("size") not in (0, size):
            raise PlacementError(f"{self.name}: mesh axis {axis} has {size} ranks, not {a['size']}")
        self.check_ranks(a, size)
        place = x.placement.on(axis)
        after = self.moved(place, a)
        if a.int("size"):  # what all ranks hold alike is each one's own as well
            after = Local() if isinstance(place, Local | Replicate) else None
        if after is None:
            takes = "local" if a.int("size") else self.takes
            raise PlacementError(
                f"{self.name} takes an operand that is {takes} on mesh axis {axis}; this one is "
                f"{place}",
                fix=self.remedy,
            )
        self._check_minor(x.placement, axis)
        return [x.placement.replace(axis, after)]

    def check_ranks(self, a: Attrs, size: int) -> None:
        """Raises AttributeError_ where the attributes name a rank that the axis lacks."""

    def _check_minor(self, placement: Placement, axis: str) -> None:
        """Only the last axis that cuts a dimension holds neighbouring pieces of it."""
        place = placement.on(axis)
        if isinstance(place, Shard) and (order := placement.sharding(place.dim))[-1] != axis:
            raise PlacementError(
                f"{self.name}: dimension {place.dim} is cut by {', then '.join(order)}; pieces "
                f"along {axis} are no neighbours",
                fix=f"gather {order[-1]} first",
            )

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        if a.int("size"):
            raise CompilerBug(f"{self.name} in the local view means nothing on a single rank")
        return (xs[0],)

    def flops(self, xs: Sequence[Type], a: Attrs, out: Sequence[Type]) -> Dim:
        return 0

    def _sample(self, x: TensorType, place: AxisPlacement, **attrs: Any) -> Sample:
        """A legal use on a mesh of two ranks."""
        return self._error(None, x, place, **attrs)

    def _error(
        self,
        mistake: type[TilewrightError] | None,
        x: TensorType,
        place: AxisPlacement,
        **attrs: Any,
    ) -> Sample:
        operand = x.with_placement(Placement.of(tp=place))
        return Sample((operand,), {"axis": "tp", **attrs}, mistake, mesh=_MESH)


def cut(x: Any, dim: int, count: int) -> list[Any]:
    """The pieces of an array along a dimension, as `torch.chunk` cuts them (or empty)."""
    before = (slice(None),) * dim
    return [x[(*before, slice(*piece))] for piece in chunks(x.shape[dim], count)]


def only(x: Any, at: int, count: int) -> list[Any]:
    """What one rank holds, and the others do not."""
    return [x if rank == at else None for rank in range(count)]


def check_dim(op: str, x: TensorType, dim: int) -> None:
    """Raises RankError unless `dim` is a dimension of x."""
    if not 0 <= dim < x.rank:
        raise RankError(
            f"{op}: dimension {dim} is out of range for rank {x.rank}",
            fix="dimensions count from 0, without negative numbers",
        )


def check_rank(op: str, rank: int, size: int) -> None:
    """Raises AttributeError_ unless the axis has such a coordinate."""
    if not 0 <= rank < size:
        raise AttributeError_(f"{op}: coordinate {rank} is outside a mesh axis of {size}")


def grown(shape: Shape, dim: int, size: int) -> Shape:
    """A dimension `size` times as large."""
    return (*shape[:dim], shape[dim] * size, *shape[dim + 1 :])


def shrunk(op: str, shape: Shape, dim: int, size: int) -> Shape:
    """A dimension a `size`-th as large. Raises ShapeError where that is not exact."""
    each = quotient(shape[dim], size)
    if each is None:
        raise ShapeError(
            f"{op}: {size} ranks do not divide dimension {dim} of size {shape[dim]}, so ranks "
            "would differ in shape",
            fix="pad it to a multiple, or declare the symbol with multiple_of",
        )
    return (*shape[:dim], each, *shape[dim + 1 :])
