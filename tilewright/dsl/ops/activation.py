"""Activation functions and the gated feed-forward layer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

from tilewright.dsl.attrs import Attrs, AttrSpec
from tilewright.dsl.builder import active
from tilewright.dsl.composite import Composite
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import bf16, f32, i32
from tilewright.dsl.errors import AttributeError_, DTypeError, RankError, ShapeError
from tilewright.dsl.op import Sample, error, need_float, register, sample
from tilewright.dsl.ops.elementwise import erf, sigmoid, tanh
from tilewright.dsl.ops.reduce import accumulated
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.types import TensorType

_N = dim("n", 1, 64)
_SQRT_HALF = 0.7071067811865476
_SQRT_TWO_OVER_PI = 0.7978845608028654


class Activation(Composite):
    """One float operand, elementwise; short floats are computed in f32."""

    operands = ("x",)

    @abstractmethod
    def curve(self, x: Tensor) -> Tensor:
        """The function itself, in the wide format."""

    def body(self, *xs: Tensor, a: Attrs) -> Tensor:
        (x,) = xs
        return self.curve(accumulated(x)).cast(x.dtype)

    def check(self, xs: Sequence[TensorType], a: Attrs) -> None:
        need_float(self.name, xs[0])

    def samples(self) -> Sequence[Sample]:
        return [sample(f32[2, 8]), sample(bf16[_N, 3]), error(DTypeError, i32[2])]


@register
class Gelu(Activation):
    """x * Phi(x), Phi the normal distribution function, by erf."""

    name = "gelu"

    def curve(self, x: Tensor) -> Tensor:
        return x * 0.5 * (erf(x * _SQRT_HALF) + 1.0)


@register
class GeluTanh(Activation):
    """The tanh approximation of gelu: x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""

    name = "gelu_tanh"

    def curve(self, x: Tensor) -> Tensor:
        inner = (x + x * x * x * 0.044715) * _SQRT_TWO_OVER_PI
        return x * 0.5 * (tanh(inner) + 1.0)


@register
class Silu(Activation):
    """x * sigmoid(x)."""

    name = "silu"

    def curve(self, x: Tensor) -> Tensor:
        return x * sigmoid(x)


def gelu(x: Tensor) -> Tensor:
    """x * Phi(x), exact."""
    return active().tensor("gelu", x)


def gelu_tanh(x: Tensor) -> Tensor:
    """Gelu by its tanh approximation."""
    return active().tensor("gelu_tanh", x)


def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x)."""
    return active().tensor("silu", x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "silu": silu,
}


@register
class GatedMlp(Composite):
    """(activation(x @ gate.T) * (x @ up.T)) @ down.T, weights stored as [out, in]."""

    name = "gated_mlp"
    operands = ("x", "gate_w", "up_w", "down_w")
    attrs = {"activation": AttrSpec("str", "silu")}

    def check(self, xs: Sequence[TensorType], a: Attrs) -> None:
        if a.str("activation") not in ACTIVATIONS:
            raise AttributeError_(
                f"gated_mlp: there is no activation {a.str('activation')!r}",
                fix=f"use one of {', '.join(ACTIVATIONS)}",
            )
        need_float(self.name, xs[0])
        for weight in xs[1:]:
            if weight.rank != 2:
                raise RankError(f"gated_mlp: weights are [out, in], got rank {weight.rank}")

    def body(self, *xs: Tensor, a: Attrs) -> Tensor:
        x, gate_w, up_w, down_w = xs
        gate = ACTIVATIONS[a.str("activation")](x @ gate_w.T)
        return (gate * (x @ up_w.T)) @ down_w.T

    def samples(self) -> Sequence[Sample]:
        return [
            sample(f32[2, 8], f32[6, 8], f32[6, 8], f32[8, 6]),
            sample(bf16[2, _N, 4], bf16[6, 4], bf16[6, 4], bf16[4, 6], activation="gelu_tanh"),
            error(AttributeError_, f32[2, 4], f32[6, 4], f32[6, 4], f32[4, 6], activation="?"),
            error(RankError, f32[2, 4], f32[4], f32[6, 4], f32[4, 6]),
            error(ShapeError, f32[2, 4], f32[6, 5], f32[6, 4], f32[4, 6]),
        ]


def gated_mlp(
    x: Tensor, gate_w: Tensor, up_w: Tensor, down_w: Tensor, *, activation: str = "silu"
) -> Tensor:
    """(activation(x @ gate.T) * (x @ up.T)) @ down.T."""
    return active().tensor("gated_mlp", x, gate_w, up_w, down_w, activation=activation)
