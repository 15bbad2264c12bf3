"""Softmax and the normalisations of rows. Short floats are computed in f32."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.dsl.attrs import Attrs, AttrSpec
from tilewright.dsl.builder import active
from tilewright.dsl.composite import Composite
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import bf16, f16, f32, i32
from tilewright.dsl.errors import DTypeError, RankError, ShapeError
from tilewright.dsl.op import Sample, error, need_float, register, same_dtype, sample
from tilewright.dsl.ops.elementwise import equal, exp, rsqrt, where
from tilewright.dsl.ops.reduce import FloatRow, accumulated
from tilewright.dsl.ops.shape import normal_axis
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.types import TensorType, shape_text

_N = dim("n", 1, 64)
_INFINITY = float("inf")


def exponentials(scores: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """exp(scores - shift), their sum along `axis` and the shift, the latter two with dims kept.

    The shift is the largest score; where all are -inf it is 0, and so are exponentials and sum.
    """
    top = scores.max(axis, keepdims=True)
    shift = where(equal(top, -_INFINITY), 0.0, top)
    weights = exp(scores - shift)
    return weights, weights.sum(axis, keepdims=True), shift


def nonzero(total: Tensor) -> Tensor:
    """The total, or 1 where it is 0: the divisor that makes an all-masked row 0."""
    return where(equal(total, 0.0), 1.0, total)


@register
class Softmax(FloatRow):
    """exp(x) / sum(exp(x)) along an axis; 0 where all of x is -inf."""

    name = "softmax"
    attrs = {"axis": AttrSpec("axis", -1)}

    def body(self, *xs: Tensor, a: Attrs) -> Tensor:
        (x,) = xs
        axis = normal_axis(self.name, a.int("axis"), x.rank)
        weights, total, _ = exponentials(accumulated(x), axis)
        return (weights / nonzero(total)).cast(x.dtype)


class RowNorm(Composite):
    """A normalisation over the last dimension, with one parameter per column."""

    def check(self, xs: Sequence[TensorType], a: Attrs) -> None:
        x, *columns = xs
        need_float(self.name, x)
        same_dtype(self.name, xs)
        if x.rank == 0:
            raise RankError(f"{self.name} normalises the last dimension, but x is a scalar")
        for column in columns:
            if column.shape != x.shape[-1:]:
                raise ShapeError(
                    f"{self.name}: a parameter is {shape_text(column.shape)}, expected "
                    f"{shape_text(x.shape[-1:])}"
                )


@register
class LayerNorm(RowNorm):
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last dimension."""

    name = "layer_norm"
    operands = ("x", "weight", "bias")
    attrs = {"eps": AttrSpec("float", 1e-5)}

    def body(self, *xs: Tensor, a: Attrs) -> Tensor:
        x, weight, bias = map(accumulated, xs)
        centred = x - x.mean(-1, keepdims=True)
        variance = (centred * centred).mean(-1, keepdims=True)
        scaled = centred * rsqrt(variance + a.float("eps"))
        return (scaled * weight + bias).cast(xs[0].dtype)

    def samples(self) -> Sequence[Sample]:
        return [
            sample(f32[2, 8], f32[8], f32[8]),
            sample(bf16[2, _N, 3], bf16[3], bf16[3], eps=1e-3),
            sample(f16[4], f16[4], f16[4]),
            error(ShapeError, f32[2, 8], f32[7], f32[8]),
            error(DTypeError, f32[2, 8], bf16[8], f32[8]),
            error(DTypeError, i32[2, 8], i32[8], i32[8]),
            error(RankError, f32[()], f32[1], f32[1]),
        ]


@register
class RmsNorm(RowNorm):
    """x / sqrt(mean(x^2) + eps) * (offset + weight) over the last dimension (Gemma: offset 1)."""

    name = "rms_norm"
    operands = ("x", "weight")
    attrs = {"eps": AttrSpec("float", 1e-6), "offset": AttrSpec("float", 0.0)}

    def body(self, *xs: Tensor, a: Attrs) -> Tensor:
        x, weight = map(accumulated, xs)
        offset = a.float("offset")
        scaled = x * rsqrt((x * x).mean(-1, keepdims=True) + a.float("eps"))
        return (scaled * (weight + offset if offset else weight)).cast(xs[0].dtype)

    def samples(self) -> Sequence[Sample]:
        return [
            sample(f32[2, 8], f32[8]),
            sample(bf16[2, _N, 3], bf16[3], eps=1e-3, offset=1.0),
            error(ShapeError, f32[2, 8], f32[7]),
            error(DTypeError, f32[2, 8], bf16[8]),
            error(RankError, f32[()], f32[1]),
        ]


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) along an axis; 0 where all of x is -inf."""
    return active().tensor("softmax", x, axis=axis)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Rows of mean 0 and variance 1, then scaled and shifted by column."""
    return active().tensor("layer_norm", x, weight, bias, eps=eps)


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6, *, offset: float = 0.0) -> Tensor:
    """Rows of mean square 1, scaled by `offset + weight`."""
    return active().tensor("rms_norm", x, weight, eps=eps, offset=offset)
