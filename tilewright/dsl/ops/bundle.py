"""Bundles: many tensors as one flat one, for optimizer steps and collectives in buckets.

    flat = bundle([x, y, z], multiple_of=8)      x, y, z row after row, then zeros up to 8 k
    x, y, z = unbundle(flat, [x.shape, ...])     the parts again

(The buckets of Li et al., PyTorch Distributed, 2020, as a value of the language.)
"""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.dsl.attrs import Attrs, AttrSpec
from tilewright.dsl.builder import active
from tilewright.dsl.composite import Composite
from tilewright.dsl.dims import Dim, dim, known_le, product
from tilewright.dsl.dtypes import bf16, f32, i32
from tilewright.dsl.errors import DTypeError, ShapeError
from tilewright.dsl.op import Sample, error, register, same_dtype, sample
from tilewright.dsl.ops.movement import concat, pad
from tilewright.dsl.ops.movement import slice as slice_of
from tilewright.dsl.ops.reshape import reshape
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.types import Shape, TensorType, shape_text

_N = dim("n", 1, 64)


@register
class Bundle(Composite):
    """The elements of all operands in one row, in order, with zeros up to a `multiple_of`.

    A view: nothing says that the elements lie together. Linear in all operands together. On a mesh
    parts may be replicated, Partial (all of them) or Local; a shard of a part is no shard of the
    bundle. A padded bundle is one that a reduce-scatter divides evenly.
    """

    name = "bundle"
    operands = ("x", "others*")
    attrs = {"multiple_of": AttrSpec("int", 1)}

    def check(self, xs: Sequence[TensorType], a: Attrs) -> None:
        same_dtype(self.name, xs)
        if a.int("multiple_of") < 1:
            raise ShapeError(f"bundle: multiple_of is {a.int('multiple_of')}, and at least 1")

    def body(self, *xs: Tensor, a: Attrs) -> Tensor:
        rows = [reshape(x, (product(x.shape),)) for x in xs]
        flat = rows[0] if len(rows) == 1 else concat(rows, 0)
        return _padded(flat, a.int("multiple_of"))

    def samples(self) -> Sequence[Sample]:
        return [
            sample(f32[2, 3], f32[4], f32[()]),
            sample(bf16[_N, 2], bf16[3], multiple_of=4),
            sample(i32[2, 2], multiple_of=3),
            error(DTypeError, f32[2], bf16[2]),
            error(ShapeError, f32[4], multiple_of=0),
        ]


def _padded(flat: Tensor, multiple_of: int) -> Tensor:
    spare = -flat.shape[0] % multiple_of
    return flat if spare == 0 else pad(flat, (0,), (spare,))


def bundle(xs: Sequence[Tensor], *, multiple_of: int = 1) -> Tensor:
    """One flat tensor over all of xs; its length is a multiple of `multiple_of`, zeros at the end.

    Raises DTypeError for parts of several formats, ShapeError, PlacementError for sharded parts
    that do not lie together.
    """
    return active().tensor("bundle", *xs, multiple_of=multiple_of)


def unbundle(flat: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
    """The parts of these shapes that a flat tensor begins with, in order.

    Raises ShapeError where it is not flat, or shorter than they are together.
    """
    total: Dim = 0
    for shape in shapes:
        total = total + product(shape)
    if len(flat.shape) != 1 or not known_le(total, flat.shape[0]):
        raise ShapeError(
            f"unbundle: {shape_text(flat.shape)} does not hold {total} elements in a row",
            fix="give the shapes that were bundled",
        )
    found: list[Tensor] = []
    start: Dim = 0
    for shape in shapes:
        size = product(shape)
        found.append(reshape(slice_of(flat, (start,), (size,)), shape))
        start = start + size
    return tuple(found)
