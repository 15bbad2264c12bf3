"""NumPy's broadcasting of shapes, over symbolic dimensions."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.dsl.dims import Dim
from tilewright.dsl.errors import ShapeError
from tilewright.dsl.types import Shape, shape_text


def broadcast_shapes(op: str, shapes: Sequence[Shape]) -> Shape:
    """The common shape; dims align at the right, and only a literal 1 stretches.

    Raises ShapeError where two dims differ: symbols are never guessed to be equal.
    """
    rank = max((len(shape) for shape in shapes), default=0)
    result: list[Dim] = [1] * rank
    for shape in shapes:
        for axis, size in enumerate(shape, start=rank - len(shape)):
            if size == 1 or size == result[axis]:
                continue
            if result[axis] != 1:
                listed = " and ".join(map(shape_text, shapes))
                raise ShapeError(
                    f"{op}: shapes {listed} do not broadcast",
                    fix="reshape or broadcast_to one of them",
                )
            result[axis] = size
    return tuple(result)
