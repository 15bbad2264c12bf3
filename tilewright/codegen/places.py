"""Index arithmetic that kernels share, whatever language they are emitted in.

A place says where a kernel stands along one axis; what that is, each backend says itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from tilewright.dsl.broadcast import broadcast_shapes
from tilewright.dsl.dims import Dim
from tilewright.dsl.graph import Node, Value
from tilewright.dsl.types import Shape

P = TypeVar("P")


def broadcast_index(index: Sequence[P], shape: Shape, out: Shape, zero: P) -> tuple[P, ...]:
    """Where a broadcast operand of some shape stands for an index of the result."""
    kept = index[len(out) - len(shape) :]
    wide = out[len(out) - len(shape) :]
    return tuple(
        zero if size == 1 and whole != 1 else place
        for place, size, whole in zip(kept, shape, wide, strict=True)
    )


def operand_indices(node: Node, index: Sequence[P], zero: P) -> list[tuple[Value, tuple[P, ...]]]:
    """The operands of an elementwise node, each with where it stands for an index of the result."""
    shapes = [operand.tensor.shape for operand in node.operands]
    out = broadcast_shapes(node.op, shapes)
    return [
        (operand, broadcast_index(index, shape, out, zero))
        for operand, shape in zip(node.operands, shapes, strict=True)
    ]


def permuted_index(index: Sequence[P], axes: Sequence[int]) -> tuple[P, ...]:
    """Where the operand of a `permute_dims` stands for an index of its result."""
    back = {axis % len(index): place for axis, place in zip(axes, index, strict=True)}
    return tuple(back[axis] for axis in range(len(index)))


def unflatten(
    flat: P, shape: Shape, zero: P, split: Callable[[P, Dim], tuple[P, P]]
) -> tuple[P, ...]:
    """The index whose row-major place in `shape` is `flat`; axes of size one cost nothing.

    `split` divides a place by a size: quotient and rest.
    """
    found = [zero] * len(shape)
    wide = [axis for axis, size in enumerate(shape) if size != 1]
    for axis in reversed(wide[1:]):
        flat, found[axis] = split(flat, shape[axis])
    if wide:
        found[wide[0]] = flat
    return tuple(found)
