"""Where a tensor lies on a mesh of devices (DTensor's names where it has them)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tilewright.dsl.errors import PlacementError
from tilewright.dsl.ident import Ident, ident

ReduceOp = Literal["sum", "max", "min"]
REDUCE_OPS: tuple[ReduceOp, ...] = ("sum", "max", "min")


@dataclass(frozen=True, slots=True)
class Replicate:
    """Every coordinate holds the whole value."""

    def __str__(self) -> str:
        return "replicate"


@dataclass(frozen=True, slots=True)
class Shard:
    """Coordinate i holds the i-th chunk of dimension `dim`, as `torch.chunk` cuts it."""

    dim: int

    def __str__(self) -> str:
        return f"shard({self.dim})"


@dataclass(frozen=True, slots=True)
class Partial:
    """The value is the reduction, over the coordinates, of what they hold."""

    op: ReduceOp = "sum"

    def __str__(self) -> str:
        return f"partial({self.op})"


@dataclass(frozen=True, slots=True)
class Local:
    """Private data of each coordinate, with no relation among them."""

    def __str__(self) -> str:
        return "local"


@dataclass(frozen=True, slots=True)
class At:
    """Coordinate `index` alone holds the value."""

    index: int

    def __str__(self) -> str:
        return f"at({self.index})"


AxisPlacement = Replicate | Shard | Partial | Local | At
REPLICATE = Replicate()


@dataclass(frozen=True, slots=True)
class Mesh:
    """Named axes of devices, major first. The empty mesh is one device."""

    axes: tuple[tuple[Ident, int], ...] = ()

    def __post_init__(self) -> None:
        names = [name for name, _ in self.axes]
        if len(set(names)) != len(names):
            raise PlacementError(f"mesh axes must differ, got {', '.join(names)}")
        for name, size in self.axes:
            if size < 1:
                raise PlacementError(f"mesh axis {name} has size {size}", fix="sizes are >= 1")

    @staticmethod
    def of(**axes: int) -> Mesh:
        """`Mesh.of(dp=2, tp=4)`."""
        return Mesh(tuple((ident(name), size) for name, size in axes.items()))

    def size(self, axis: str) -> int:
        """Devices along `axis`. Raises PlacementError for an unknown axis."""
        for name, size in self.axes:
            if name == axis:
                return size
        known = ", ".join(name for name, _ in self.axes) or "none"
        raise PlacementError(f"the mesh has no axis {axis!r}", fix=f"its axes are: {known}")

    @property
    def ranks(self) -> int:
        """Devices in all."""
        count = 1
        for _, size in self.axes:
            count *= size
        return count

    def coordinates(self, rank: int) -> dict[str, int]:
        """Coordinates of a rank, axis by axis; the last axis varies fastest."""
        found: dict[str, int] = {}
        for name, size in reversed(self.axes):
            rank, found[name] = divmod(rank, size)
        return found

    def __str__(self) -> str:
        return "(" + ", ".join(f"{name}={size}" for name, size in self.axes) + ")"


@dataclass(frozen=True, slots=True)
class Placement:
    """One entry per axis that is not Replicate; normalised, so equality is meaning.

    Entries that shard one dimension keep their order (major first); all others are sorted.
    """

    entries: tuple[tuple[Ident, AxisPlacement], ...] = ()

    def __post_init__(self) -> None:
        names = [axis for axis, _ in self.entries]
        if len(set(names)) != len(names):
            raise PlacementError(f"an axis is placed twice in {self}")
        reductions = {place.op for _, place in self.entries if isinstance(place, Partial)}
        if len(reductions) > 1:
            raise PlacementError(
                f"the reductions of {self} do not commute, so it names no value",
                fix="all_reduce one of the axes first",
            )
        kept = tuple(entry for entry in self.entries if not isinstance(entry[1], Replicate))
        ordered = sorted(kept, key=_entry_order)
        object.__setattr__(self, "entries", tuple(ordered))

    @staticmethod
    def of(**axes: AxisPlacement) -> Placement:
        """`Placement.of(dp=Shard(0), tp=Partial("sum"))`."""
        return Placement(tuple((ident(axis), place) for axis, place in axes.items()))

    def on(self, axis: str) -> AxisPlacement:
        """The placement on one axis."""
        for name, place in self.entries:
            if name == axis:
                return place
        return REPLICATE

    def replace(self, axis: str, place: AxisPlacement) -> Placement:
        """The same placement with another entry for `axis` (minor among equals)."""
        others = tuple(entry for entry in self.entries if entry[0] != axis)
        return Placement((*others, (ident(axis), place)))

    def sharding(self, dim: int) -> tuple[Ident, ...]:
        """Axes that shard a dimension, major first."""
        return tuple(axis for axis, place in self.entries if place == Shard(dim))

    @property
    def axes(self) -> tuple[Ident, ...]:
        """Axes that are not Replicate."""
        return tuple(axis for axis, _ in self.entries)

    def __bool__(self) -> bool:
        return bool(self.entries)

    def __str__(self) -> str:
        return "(" + ", ".join(f"{axis}: {place}" for axis, place in self.entries) + ")"


def _entry_order(entry: tuple[Ident, AxisPlacement]) -> tuple[int, str]:
    axis, place = entry
    return (place.dim, "") if isinstance(place, Shard) else (-1, axis)


REPLICATED = Placement()
