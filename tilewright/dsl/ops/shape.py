"""Axes and shapes as all families of operations read them."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.dsl.dims import Dim
from tilewright.dsl.errors import RankError, SymbolRangeError
from tilewright.dsl.types import Shape


def normal_axis(op: str, axis: int, rank: int) -> int:
    """The axis counted from 0; a negative one counts from the end. Raises RankError."""
    if not -rank <= axis < rank:
        raise RankError(
            f"{op}: axis {axis} is out of range for rank {rank}",
            fix=f"use -{rank} to {rank - 1}" if rank else "a scalar has no axes",
        )
    return axis % rank


def concrete(shape: Sequence[Dim]) -> tuple[int, ...]:
    """A shape without symbols. Raises SymbolRangeError where one is left."""
    for size in shape:
        if not isinstance(size, int):
            raise SymbolRangeError(f"dimension {size} has no value", fix="bind its symbols")
    return tuple(size for size in shape if isinstance(size, int))


def without_axis(shape: Shape, axis: int, *, keepdims: bool) -> Shape:
    """The shape of a reduction along `axis`."""
    kept: Shape = (1,) if keepdims else ()
    return (*shape[:axis], *kept, *shape[axis + 1 :])
