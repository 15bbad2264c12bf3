"""Rotary position embedding."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.dsl.attrs import Attrs, AttrSpec
from tilewright.dsl.builder import active
from tilewright.dsl.composite import Composite
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import bf16, f32, i32, i64
from tilewright.dsl.errors import DTypeError, RankError, ShapeError
from tilewright.dsl.op import Sample, error, need_float, register, sample
from tilewright.dsl.ops.create import full, iota
from tilewright.dsl.ops.elementwise import cos, sin
from tilewright.dsl.ops.movement import concat
from tilewright.dsl.ops.reduce import accumulated
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.types import TensorType, shape_text

_N = dim("n", 1, 64)


@register
class Rope(Composite):
    """Rotates the pairs (x[i], x[i + d/2]) of each head by position * theta^(-2i/d) / scaling.

    x is [batch, seq, heads, d], positions are [seq] or [batch, seq]. The pairing is that of
    GPT-NeoX and Hugging Face. Angles are f32 (f64 for f64 operands); short floats are rotated in
    f32.
    Source: Su et al., RoFormer, 2021; linear scaling: Chen et al., 2023.
    """

    name = "rope"
    operands = ("x", "positions")
    attrs = {"theta": AttrSpec("float", 10000.0), "scaling": AttrSpec("float", 1.0)}

    def check(self, xs: Sequence[TensorType], a: Attrs) -> None:
        x, positions = xs
        need_float(self.name, x)
        if x.rank != 4:
            raise RankError(f"rope: x is [batch, seq, heads, head_dim], got {shape_text(x.shape)}")
        size = x.shape[3]
        if not isinstance(size, int) or size % 2:
            raise ShapeError(f"rope: head_dim must be an even number, got {size}")
        if positions.dtype not in (i32, i64):
            raise DTypeError(f"rope: positions are i32 or i64, got {positions.dtype}")
        if positions.shape not in (x.shape[1:2], x.shape[:2]):
            raise ShapeError(
                f"rope: positions are {shape_text(positions.shape)}, expected [seq] or "
                f"[batch, seq] of {shape_text(x.shape)}"
            )

    def body(self, *xs: Tensor, a: Attrs) -> Tensor:
        x, positions = accumulated(xs[0]), xs[1]
        size = x.shape[3]
        assert isinstance(size, int)
        half = size // 2
        exponent = iota((half,), dtype=x.dtype) * 2.0 / float(size)
        frequency = 1.0 / full((), a.float("theta"), x.dtype) ** exponent
        if a.float("scaling") != 1.0:
            frequency = frequency / a.float("scaling")
        angle = positions.cast(x.dtype).reshape(*positions.shape, 1, 1) * frequency
        left, right = x[..., :half], x[..., half:]
        c, s = cos(angle), sin(angle)
        return concat([left * c - right * s, right * c + left * s], axis=3).cast(xs[0].dtype)

    def samples(self) -> Sequence[Sample]:
        fills = ("normal", "index")
        return [
            sample(f32[2, 5, 3, 8], i32[5], fills=fills, below=50),
            sample(bf16[2, _N, 1, 4], i64[2, _N], fills=fills, below=50, theta=1e6, scaling=8.0),
            error(ShapeError, f32[2, 5, 3, 7], i32[5]),
            error(ShapeError, f32[2, 5, 3, 8], i32[4]),
            error(RankError, f32[5, 3, 8], i32[5]),
            error(DTypeError, f32[2, 5, 3, 8], f32[5]),
        ]


def rope(x: Tensor, positions: Tensor, *, theta: float = 10000.0, scaling: float = 1.0) -> Tensor:
    """x [batch, seq, heads, head_dim] with its halves rotated by position."""
    return active().tensor("rope", x, positions, theta=theta, scaling=scaling)
