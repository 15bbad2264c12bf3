"""Elementwise operations, with NumPy broadcasting of shapes and no promotion of dtypes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from tilewright.dsl.attrs import Attrs, AttrSpec
from tilewright.dsl.broadcast import broadcast_shapes
from tilewright.dsl.builder import active
from tilewright.dsl.dims import Dim, dim
from tilewright.dsl.dtypes import DType, bf16, bool_, f32, i8, i32, i64
from tilewright.dsl.errors import DTypeError, ShapeError
from tilewright.dsl.op import (
    OpDef,
    Sample,
    error,
    need_float,
    register,
    same_dtype,
    sample,
    tensors,
)
from tilewright.dsl.ops.special import erf as erf64
from tilewright.dsl.sharding import Rule, broadcast_rule
from tilewright.dsl.tensor import Scalar, Tensor
from tilewright.dsl.types import TensorType, Type

_N = dim("n", 1, 64)


class Elementwise(OpDef):
    """One result element from one element of each operand."""

    flops_per_element: ClassVar[int] = 1
    takes_bool: ClassVar[bool] = False

    def check(self, xs: Sequence[TensorType], a: Attrs) -> DType:
        """The result's dtype. Raises DTypeError."""
        same_dtype(self.name, xs)
        if xs[0].dtype == bool_ and not self.takes_bool:
            raise DTypeError(
                f"{self.name} needs numbers, got bool", fix="use a logical operation, or cast"
            )
        return xs[0].dtype

    def types(self, xs: Sequence[Type], a: Attrs) -> tuple[Type, ...]:
        ts = tensors(self.name, xs)
        dtype = self.check(ts, a)
        return (TensorType(broadcast_shapes(self.name, [t.shape for t in ts]), dtype),)

    def rule(self, xs: Sequence[Type], a: Attrs) -> Rule:
        shapes = [t.shape for t in tensors(self.name, xs)]
        return self.linearity(broadcast_rule(shapes, broadcast_shapes(self.name, shapes)))

    def linearity(self, rule: Rule) -> Rule:
        """What Partial may do; nothing, unless an operation says otherwise."""
        return rule

    def flops(self, xs: Sequence[Type], a: Attrs, out: Sequence[Type]) -> Dim:
        (result,) = tensors(self.name, out)
        return result.numel * self.flops_per_element


class Binary(Elementwise):
    """Two operands of one dtype."""

    operands = ("x", "y")
    ufunc: ClassVar[Callable[[Any, Any, Any], Any]]

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        return (type(self).ufunc(xp, xs[0], xs[1]),)

    def samples(self) -> Sequence[Sample]:
        return [
            sample(f32[2, 8], f32[2, 8]),
            sample(f32[_N, 3], f32[3]),
            sample(bf16[4, 1], bf16[1, 5]),
            sample(i32[3], i32[()]),
            error(DTypeError, f32[2], i32[2]),
            error(DTypeError, bool_[2], bool_[2])
            if not self.takes_bool
            else sample(bool_[2], bool_[2]),
            error(ShapeError, f32[2, 3], f32[4]),
        ]


class FloatBinary(Binary):
    """Two float operands."""

    def check(self, xs: Sequence[TensorType], a: Attrs) -> DType:
        for x in xs:
            need_float(self.name, x)
        return super().check(xs, a)

    def samples(self) -> Sequence[Sample]:
        positive = ("positive", "positive")
        return [
            sample(f32[2, 8], f32[2, 8], fills=positive),
            sample(f32[_N, 3], f32[3], fills=positive),
            sample(bf16[4, 1], bf16[1, 5], fills=positive),
            error(DTypeError, i32[2], i32[2]),
        ]


@register
class Add(Binary):
    """x + y. Linear in both together: every term is Partial, or none."""

    name = "add"
    ufunc = lambda xp, x, y: x + y

    def linearity(self, rule: Rule) -> Rule:
        return rule.terms()


@register
class Sub(Binary):
    """x - y. Linear in both together."""

    name = "sub"
    ufunc = lambda xp, x, y: x - y

    def linearity(self, rule: Rule) -> Rule:
        return rule.terms()


@register
class Mul(Binary):
    """x * y. Linear in each operand; two Partial factors are refused."""

    name = "mul"
    ufunc = lambda xp, x, y: x * y

    def linearity(self, rule: Rule) -> Rule:
        return rule.product()


@register
class Div(FloatBinary):
    """x / y for floats. Linear in the numerator."""

    name = "div"
    ufunc = lambda xp, x, y: xp.divide(x, y)

    def linearity(self, rule: Rule) -> Rule:
        return rule.product(0)


class IntBinary(Binary):
    """Two integer operands; the divisor of samples is positive."""

    def check(self, xs: Sequence[TensorType], a: Attrs) -> DType:
        for x in xs:
            if not x.dtype.is_integer:
                raise DTypeError(f"{self.name} needs integers, got {x.dtype}", fix="use div")
        return super().check(xs, a)

    def samples(self) -> Sequence[Sample]:
        fills = ("small_int", "positive")
        return [
            sample(i32[2, 8], i32[2, 8], fills=fills),
            sample(i64[_N], i64[()], fills=fills),
            error(DTypeError, f32[2], f32[2]),
        ]


def _floordiv(xp: Any, x: Any, y: Any) -> Any:
    return xp.where(y == 0, 0, x // xp.where(y == 0, 1, y))


def _mod(xp: Any, x: Any, y: Any) -> Any:
    return xp.where(y == 0, 0, x % xp.where(y == 0, 1, y))


@register
class FloorDiv(IntBinary):
    """Integer division that floors; by zero it is 0."""

    name = "floordiv"
    ufunc = _floordiv


@register
class Mod(IntBinary):
    """x - floordiv(x, y) * y; by zero it is 0."""

    name = "mod"
    ufunc = _mod


@register
class Pow(FloatBinary):
    """x ** y for floats (NaN for a negative base with a fractional exponent)."""

    name = "pow"
    flops_per_element = 20
    ufunc = lambda xp, x, y: xp.pow(x, y)


@register
class Maximum(Binary):
    """The larger one; NaN propagates."""

    name = "maximum"
    ufunc = lambda xp, x, y: xp.maximum(x, y)


@register
class Minimum(Binary):
    """The smaller one; NaN propagates."""

    name = "minimum"
    ufunc = lambda xp, x, y: xp.minimum(x, y)


class Compare(Binary):
    """A bool from two operands of one dtype; NaN compares as false (`not_equal`: true)."""

    takes_bool = True

    def check(self, xs: Sequence[TensorType], a: Attrs) -> DType:
        super().check(xs, a)
        return bool_


@register
class Less(Compare):
    """x < y."""

    name = "less"
    ufunc = lambda xp, x, y: x < y


@register
class LessEqual(Compare):
    """x <= y."""

    name = "less_equal"
    ufunc = lambda xp, x, y: x <= y


@register
class Equal(Compare):
    """x == y."""

    name = "equal"
    ufunc = lambda xp, x, y: x == y


@register
class NotEqual(Compare):
    """x != y."""

    name = "not_equal"
    ufunc = lambda xp, x, y: x != y


class Logical(Binary):
    """Two bools."""

    def check(self, xs: Sequence[TensorType], a: Attrs) -> DType:
        if any(x.dtype != bool_ for x in xs):
            raise DTypeError(f"{self.name} needs bools, got {', '.join(str(x.dtype) for x in xs)}")
        return bool_

    def samples(self) -> Sequence[Sample]:
        return [sample(bool_[2, 8], bool_[8]), error(DTypeError, i32[2], i32[2])]


@register
class LogicalAnd(Logical):
    """x and y."""

    name = "logical_and"
    ufunc = lambda xp, x, y: xp.logical_and(x, y)


@register
class LogicalOr(Logical):
    """x or y."""

    name = "logical_or"
    ufunc = lambda xp, x, y: xp.logical_or(x, y)


class Unary(Elementwise):
    """One operand of any number format."""

    operands = ("x",)
    function: ClassVar[Callable[[Any, Any], Any]]

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        return (type(self).function(xp, xs[0]),)

    def samples(self) -> Sequence[Sample]:
        return [sample(f32[2, 8]), sample(bf16[_N, 3]), sample(i32[5]), error(DTypeError, bool_[4])]


class FloatUnary(Unary):
    """One float operand."""

    flops_per_element = 10

    def check(self, xs: Sequence[TensorType], a: Attrs) -> DType:
        need_float(self.name, xs[0])
        return xs[0].dtype

    def samples(self) -> Sequence[Sample]:
        return [sample(f32[2, 8]), sample(bf16[_N, 3]), sample(f32[()]), error(DTypeError, i32[2])]


class PositiveUnary(FloatUnary):
    """A float operand whose samples are positive."""

    def samples(self) -> Sequence[Sample]:
        return [
            sample(f32[2, 8], fills=("positive",)),
            sample(bf16[_N, 3], fills=("positive",)),
            error(DTypeError, i32[2]),
        ]


@register
class Neg(Unary):
    """-x. Linear."""

    name = "neg"
    function = lambda xp, x: -x

    def linearity(self, rule: Rule) -> Rule:
        return rule.terms()


@register
class Abs(Unary):
    """|x|."""

    name = "abs"
    function = lambda xp, x: xp.abs(x)


@register
class LogicalNot(Unary):
    """Not x."""

    name = "logical_not"
    function = lambda xp, x: xp.logical_not(x)

    def check(self, xs: Sequence[TensorType], a: Attrs) -> DType:
        if xs[0].dtype != bool_:
            raise DTypeError(f"logical_not needs a bool, got {xs[0].dtype}")
        return bool_

    def samples(self) -> Sequence[Sample]:
        return [sample(bool_[2, 8]), error(DTypeError, i32[2])]


@register
class Exp(FloatUnary):
    """e ** x."""

    name = "exp"
    function = lambda xp, x: xp.exp(x)


@register
class Log(PositiveUnary):
    """Natural logarithm; -inf at 0, NaN below."""

    name = "log"
    function = lambda xp, x: xp.log(x)


@register
class Sqrt(PositiveUnary):
    """Square root; NaN below 0."""

    name = "sqrt"
    flops_per_element = 4
    function = lambda xp, x: xp.sqrt(x)


@register
class Rsqrt(PositiveUnary):
    """1 / sqrt(x)."""

    name = "rsqrt"
    flops_per_element = 5
    function = lambda xp, x: xp.divide(1.0, xp.sqrt(x))


@register
class Tanh(FloatUnary):
    """Hyperbolic tangent."""

    name = "tanh"
    function = lambda xp, x: xp.tanh(x)


@register
class Sigmoid(FloatUnary):
    """1 / (1 + exp(-x))."""

    name = "sigmoid"
    function = lambda xp, x: xp.divide(1.0, 1.0 + xp.exp(-x))


@register
class Erf(FloatUnary):
    """The error function."""

    name = "erf"
    flops_per_element = 15
    function = erf64


@register
class Sin(FloatUnary):
    """Sine of radians."""

    name = "sin"
    function = lambda xp, x: xp.sin(x)


@register
class Cos(FloatUnary):
    """Cosine of radians."""

    name = "cos"
    function = lambda xp, x: xp.cos(x)


@register
class Cast(Unary):
    """Another number format: floats round to nearest even, floats to integers truncate.

    Linear between floats, where it is the identity in the ideal reading.
    """

    name = "cast"
    attrs = {"dtype": AttrSpec("dtype")}
    flops_per_element = 0

    def check(self, xs: Sequence[TensorType], a: Attrs) -> DType:
        return a.dtype("dtype")

    def rule(self, xs: Sequence[Type], a: Attrs) -> Rule:
        rule = super().rule(xs, a)
        (x,) = tensors(self.name, xs)
        return rule.terms() if x.dtype.is_float and a.dtype("dtype").is_float else rule

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        target = a.dtype("dtype")
        if target.is_float:
            return (xp.astype(xs[0], xp.float64),)
        if target == bool_:
            return (xs[0] != 0,)
        with np.errstate(invalid="ignore"):
            return (xp.astype(xs[0], target.numpy),)

    def samples(self) -> Sequence[Sample]:
        return [
            sample(f32[2, 8], dtype=bf16),
            sample(bf16[_N, 3], dtype=f32),
            sample(i32[5], dtype=f32, fills=("small_int",)),
            sample(f32[5], dtype=i32),
            sample(bool_[4], dtype=f32),
            sample(f32[4], dtype=bool_),
            sample(i64[4], dtype=i8, fills=("small_int",)),
        ]


@register
class Clamp(Unary):
    """min(max(x, low), high); NaN propagates."""

    name = "clamp"
    attrs = {"low": AttrSpec("scalar"), "high": AttrSpec("scalar")}
    flops_per_element = 2

    def check(self, xs: Sequence[TensorType], a: Attrs) -> DType:
        dtype = super().check(xs, a)
        for bound in (a["low"], a["high"]):
            if isinstance(bound, bool) or (isinstance(bound, float) and not dtype.is_float):
                raise DTypeError(f"clamp: a bound of {bound} does not fit a {dtype} tensor")
        return dtype

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        low, high = (xp.asarray(a[name], dtype=xs[0].dtype) for name in ("low", "high"))
        return (xp.minimum(xp.maximum(xs[0], low), high),)

    def samples(self) -> Sequence[Sample]:
        return [
            sample(f32[2, 8], low=-1.0, high=1.0),
            sample(i32[5], low=0, high=3),
            error(DTypeError, i32[5], low=0.5, high=3),
        ]


@register
class Where(Elementwise):
    """x where the condition holds, else y. Linear in the two branches together."""

    name = "where"
    operands = ("condition", "x", "y")
    takes_bool = True

    def check(self, xs: Sequence[TensorType], a: Attrs) -> DType:
        if xs[0].dtype != bool_:
            raise DTypeError(f"where needs a bool condition, got {xs[0].dtype}")
        return super().check(xs[1:], a)

    def linearity(self, rule: Rule) -> Rule:
        return rule.terms(1, 2)

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        return (xp.where(xs[0], xs[1], xs[2]),)

    def samples(self) -> Sequence[Sample]:
        return [
            sample(bool_[2, 8], f32[2, 8], f32[()]),
            sample(bool_[_N, 1], bf16[1, 3], bf16[3]),
            error(DTypeError, f32[2], f32[2], f32[2]),
        ]


def _unary(name: str) -> Callable[[Tensor], Tensor]:
    def apply(x: Tensor) -> Tensor:
        return active().tensor(name, x)

    apply.__name__ = name
    apply.__doc__ = f"See the operation `{name}`."
    return apply


exp, log, sqrt, rsqrt, tanh, sigmoid, erf, sin, cos = map(
    _unary, ("exp", "log", "sqrt", "rsqrt", "tanh", "sigmoid", "erf", "sin", "cos")
)


def where(condition: Tensor, x: Tensor | Scalar, y: Tensor | Scalar) -> Tensor:
    """x where the condition holds, else y; one of the two may be a Python scalar."""
    like = x if isinstance(x, Tensor) else y
    lift = active().like("where", like)
    return active().tensor("where", condition, lift(x), lift(y))


def maximum(x: Tensor, y: Tensor | Scalar) -> Tensor:
    """The larger one; NaN propagates."""
    return active().tensor("maximum", x, active().like("maximum", x)(y))


def minimum(x: Tensor, y: Tensor | Scalar) -> Tensor:
    """The smaller one; NaN propagates."""
    return active().tensor("minimum", x, active().like("minimum", x)(y))


def equal(x: Tensor, y: Tensor | Scalar) -> Tensor:
    """A bool tensor: x == y."""
    return active().tensor("equal", x, active().like("equal", x)(y))


def clamp(x: Tensor, low: Scalar, high: Scalar) -> Tensor:
    """min(max(x, low), high)."""
    return active().tensor("clamp", x, low=low, high=high)
