"""Elementwise operations on pulled values."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx

from tilewright.codegen.places import operand_indices
from tilewright.codegen.tvm import intrin, math, vector
from tilewright.codegen.tvm.emit import STORAGE, Expr, KernelBuilder, lanes_of, vector_type
from tilewright.codegen.tvm.index import ZERO, Index, dim_expr
from tilewright.codegen.tvm.pull import Puller, Rule
from tilewright.dsl.attrs import Attr
from tilewright.dsl.dims import DimExpr
from tilewright.dsl.dtypes import DType
from tilewright.dsl.graph import Node

Function = Callable[[KernelBuilder, DType, Sequence[Expr]], Expr]


def element_type(dtype: DType) -> str:
    """TIR's type for arithmetic in a dtype."""
    if dtype.is_float:
        return "float32"
    return "bool" if dtype.kind == "bool" else STORAGE[dtype.name]


def align(values: Sequence[Expr]) -> list[Expr]:
    """All values with as many lanes as the widest."""
    lanes = max(map(lanes_of, values))
    return [v if lanes_of(v) == lanes else vector.splat(v, lanes) for v in values]


def literal(kernel: KernelBuilder, value: Attr, dtype: DType) -> Expr:
    """A scalar attribute as a constant of a dtype's arithmetic type."""
    kind = element_type(dtype)
    if isinstance(value, DimExpr):
        return tirx.Cast(kind, dim_expr(kernel, value))
    if dtype.is_float:
        return tirx.FloatImm(kind, float(value))  # pyright: ignore[reportArgumentType]  # a scalar
    return tirx.IntImm(kind, int(value))  # pyright: ignore[reportArgumentType]  # a scalar


def elementwise(function: Function) -> Rule:
    """The rule of an operation that works element by element."""

    def rule(puller: Puller, node: Node, place: int, index: Index) -> Expr:
        values = [puller.value(o, at) for o, at in operand_indices(node, index, ZERO)]
        return function(puller.kernel, node.operands[-1].tensor.dtype, align(values))

    return rule


def _compared(compare: Callable[[Expr, Expr], Expr]) -> Function:
    """Bools are compared as numbers: LLVM takes TIR's comparison of two bools for one of floats."""

    def apply(kernel: KernelBuilder, dtype: DType, xs: Sequence[Expr]) -> Expr:
        if dtype.kind != "bool":
            return compare(*xs)
        kind = vector_type("int32", lanes_of(xs[0]))
        one, zero = (tirx.const(n, kind) for n in (1, 0))
        return compare(*(tirx.Select(x, one, zero) for x in xs))

    return apply


def _floordiv(kernel: KernelBuilder, dtype: DType, xs: Sequence[Expr]) -> Expr:
    return _guarded(xs, dtype, tirx.floordiv, _negated)


def _mod(kernel: KernelBuilder, dtype: DType, xs: Sequence[Expr]) -> Expr:
    return _guarded(xs, dtype, tirx.floormod, _nothing)


def _negated(x: Expr) -> Expr:
    return tirx.const(0, x.ty) - x


def _nothing(x: Expr) -> Expr:
    return tirx.const(0, x.ty)


def _guarded(
    xs: Sequence[Expr],
    dtype: DType,
    divide: Callable[[Expr, Expr], Expr],
    by_minus_one: Callable[[Expr], Expr],
) -> Expr:
    """Division by zero is 0, and never traps; nor does that of the least integer by -1."""
    x, y = xs
    zero, one = (tirx.const(n, y.ty) for n in (0, 1))
    safe = tirx.Select(tirx.EQ(y, zero), one, y)
    if dtype.kind != "int":
        return tirx.Select(tirx.EQ(y, zero), zero, divide(x, safe))
    negative = tirx.EQ(y, tirx.const(-1, y.ty))
    quotient = divide(x, tirx.Select(negative, one, safe))
    return tirx.Select(tirx.EQ(y, zero), zero, tirx.Select(negative, by_minus_one(x), quotient))


def _extreme(
    float_form: Callable[[KernelBuilder, Expr, Expr], Expr], int_form: Callable[[Expr, Expr], Expr]
) -> Function:
    def apply(kernel: KernelBuilder, dtype: DType, xs: Sequence[Expr]) -> Expr:
        return float_form(kernel, *xs) if dtype.is_float else int_form(*xs)

    return apply


def _abs(kernel: KernelBuilder, dtype: DType, xs: Sequence[Expr]) -> Expr:
    (x,) = xs
    if dtype.is_float:
        return intrin.absolute(x)
    return x if dtype.kind == "uint" else tirx.Select(x < tirx.const(0, x.ty), -x, x)


def _unary(function: Callable[[KernelBuilder, Expr], Expr]) -> Function:
    return lambda kernel, dtype, xs: function(kernel, xs[0])


FUNCTIONS: dict[str, Function] = {
    "add": lambda k, d, xs: xs[0] + xs[1],
    "sub": lambda k, d, xs: xs[0] - xs[1],
    "mul": lambda k, d, xs: xs[0] * xs[1],
    "div": lambda k, d, xs: xs[0] / xs[1],
    "floordiv": _floordiv,
    "mod": _mod,
    "pow": lambda k, d, xs: math.pow(k, xs[0], xs[1]),
    "maximum": _extreme(vector.max_nan, tirx.Max),
    "minimum": _extreme(vector.min_nan, tirx.Min),
    "less": _compared(tirx.LT),
    "less_equal": _compared(tirx.LE),
    "equal": _compared(tirx.EQ),
    "not_equal": _compared(tirx.NE),
    "logical_and": lambda k, d, xs: tirx.And(xs[0], xs[1]),
    "logical_or": lambda k, d, xs: tirx.Or(xs[0], xs[1]),
    "logical_not": lambda k, d, xs: tirx.Not(xs[0]),
    "neg": lambda k, d, xs: -xs[0],
    "abs": _abs,
    "exp": _unary(math.exp),
    "log": _unary(math.log),
    "sqrt": lambda k, d, xs: intrin.sqrt(xs[0]),
    "rsqrt": _unary(math.rsqrt),
    "tanh": _unary(math.tanh),
    "sigmoid": _unary(math.sigmoid),
    "erf": _unary(math.erf),
    "sin": _unary(math.sin),
    "cos": _unary(math.cos),
    "copy": lambda k, d, xs: xs[0],
    "where": lambda k, d, xs: tirx.Select(xs[0], xs[1], xs[2]),
}


def _cast(puller: Puller, node: Node, place: int, index: Index) -> Expr:
    """Between floats nothing happens: a fused kernel keeps excess precision until it stores."""
    (x,) = node.operands
    target = node.attrs.dtype("dtype")
    found = puller.value(x, index)
    return convert(found, x.tensor.dtype, target)


def convert(value: Expr, source: DType, target: DType) -> Expr:
    """A value of one dtype's arithmetic type in another's."""
    kind = vector_type(element_type(target), lanes_of(value))
    if element_type(source) == element_type(target):
        return value
    if target.kind == "bool":
        return tirx.NE(value, tirx.const(0, value.ty))
    if source.kind == "bool":
        return tirx.Select(value, tirx.const(1, kind), tirx.const(0, kind))
    return tirx.Cast(kind, value)


def _clamp(puller: Puller, node: Node, place: int, index: Index) -> Expr:
    (x,) = node.operands
    found = puller.value(x, index)
    low, high = (literal(puller.kernel, node.attrs[n], x.tensor.dtype) for n in ("low", "high"))
    _, low, high = align([found, low, high])
    if not x.tensor.dtype.is_float:
        return tirx.Min(tirx.Max(found, low), high)
    raised = vector.max_nan(puller.kernel, found, low)
    return vector.min_nan(puller.kernel, raised, high)


MATH_RULES: dict[str, Rule] = {
    **{name: elementwise(function) for name, function in FUNCTIONS.items()},
    "cast": _cast,
    "clamp": _clamp,
}
