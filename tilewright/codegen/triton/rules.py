"""How each operation is computed at an index."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tilewright.codegen.places import broadcast_index, operand_indices, permuted_index
from tilewright.codegen.triton.emit import (
    Block,
    Operand,
    binary,
    call,
    literal,
    negative,
    shape,
    to,
)
from tilewright.codegen.triton.pull import ARITHMETIC, ZERO, Index, Puller, Rule, Unlowered
from tilewright.dsl.attrs import Attr
from tilewright.dsl.dims import DimExpr
from tilewright.dsl.dtypes import DType
from tilewright.dsl.graph import Node
from tilewright.dsl.ops.reduce import identity_of

Function = Callable[[Puller, DType, Sequence[Block]], Block]
_NAN = "tl.PropagateNan.ALL"


def scalar(puller: Puller, value: Attr, dtype: DType) -> Block:
    """A scalar attribute as a block of one element, in the type that arithmetic has."""
    kind = ARITHMETIC[dtype.name]
    if isinstance(value, DimExpr):
        size = puller.dim(value)
        return to(call("tl.full", shape(1, 1), size, "tl.int64"), kind)
    number = float(value) if dtype.is_float else int(value)  # pyright: ignore[reportArgumentType]  # a scalar
    return call("tl.full", shape(1, 1), literal(number), kind)


def _elementwise(function: Function) -> Rule:
    def rule(puller: Puller, node: Node, index: Index) -> Block:
        values = [puller.value(o, at) for o, at in operand_indices(node, index, ZERO)]
        return function(puller, node.operands[-1].tensor.dtype, values)

    return rule


def _operator(op: str) -> Function:
    return lambda p, d, xs: binary(op, xs[0], xs[1])


def _function(name: str) -> Function:
    return lambda p, d, xs: call(name, *xs)


def extreme(name: str, dtype: DType, x: Operand, y: Operand) -> Block:
    """`tl.maximum` or `tl.minimum` with our NaN, which propagates."""
    return call(name, x, y, propagate_nan=_NAN) if dtype.is_float else call(name, x, y)


def _extreme(name: str) -> Function:
    return lambda p, d, xs: extreme(name, d, *xs)


def _floordiv(puller: Puller, dtype: DType, xs: Sequence[Block]) -> Block:
    """Triton truncates; ours rounds down, and by zero is 0."""
    x, y = xs
    safe, zero = _divisor(puller, y)
    quotient = binary("//", x, safe)
    if dtype.kind == "int":
        quotient = binary("-", quotient, to(_crosses(puller, x, safe), ARITHMETIC[dtype.name]))
    return call("tl.where", zero, 0, quotient)


def _mod(puller: Puller, dtype: DType, xs: Sequence[Block]) -> Block:
    x, y = xs
    safe, zero = _divisor(puller, y)
    rest = binary("%", x, safe)
    if dtype.kind == "int":
        rest = call("tl.where", _crosses(puller, x, safe), binary("+", rest, safe), rest)
    return call("tl.where", zero, 0, rest)


def _divisor(puller: Puller, y: Block) -> tuple[Block, Block]:
    zero = puller.writer.let("by_zero", binary("==", y, 0))
    return puller.writer.let("divisor", call("tl.where", zero, 1, y)), zero


def _crosses(puller: Puller, x: Block, y: Block) -> Block:
    """Whether truncation rounded up: a rest is left and the signs differ."""
    rest = puller.writer.let("rest", binary("%", x, y))
    signs = binary("!=", binary("<", rest, 0), binary("<", y, 0))
    return puller.writer.let("crosses", binary("&", binary("!=", rest, 0), signs))


def _tanh(puller: Puller, dtype: DType, xs: Sequence[Block]) -> Block:
    """1 - 2 / (exp(2 |x|) + 1) with the sign of x; near zero, where that cancels, a series."""
    (x,) = xs
    square = puller.writer.let("square", binary("*", x, x))
    series: Operand = 62.0 / 2835.0
    for coefficient in (-17.0 / 315.0, 2.0 / 15.0, -1.0 / 3.0, 1.0):
        series = binary("+", binary("*", series, square), coefficient)
    size = puller.writer.let("size", call("tl.abs", x))
    growth = binary("+", call("tl.exp", binary("*", 2.0, size)), 1.0)
    far = puller.writer.let("far", binary("-", 1.0, binary("/", 2.0, growth)))
    signed = call("tl.where", binary("<", x, 0.0), negative(far), far)
    return call("tl.where", binary("<", size, 0.25), binary("*", x, series), signed)


def _sigmoid(puller: Puller, dtype: DType, xs: Sequence[Block]) -> Block:
    return binary("/", 1.0, binary("+", 1.0, call("tl.exp", negative(xs[0]))))


FUNCTIONS: Mapping[str, Function] = {
    "add": _operator("+"),
    "sub": _operator("-"),
    "mul": _operator("*"),
    "div": _operator("/"),
    "floordiv": _floordiv,
    "mod": _mod,
    "maximum": _extreme("tl.maximum"),
    "minimum": _extreme("tl.minimum"),
    "less": _operator("<"),
    "less_equal": _operator("<="),
    "equal": _operator("=="),
    "not_equal": _operator("!="),
    "logical_and": _operator("&"),
    "logical_or": _operator("|"),
    "logical_not": lambda p, d, xs: binary("==", xs[0], 0),
    "neg": lambda p, d, xs: negative(xs[0]),
    "abs": lambda p, d, xs: xs[0] if d.kind == "uint" else call("tl.abs", xs[0]),
    "exp": _function("tl.exp"),
    "log": _function("tl.log"),
    "sqrt": _function("tl.sqrt"),
    "rsqrt": _function("tl.rsqrt"),
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "erf": _function("tl.erf"),
    "sin": _function("tl.sin"),
    "cos": _function("tl.cos"),
    "copy": lambda p, d, xs: xs[0],
    "where": _function("tl.where"),
}


def _cast(puller: Puller, node: Node, index: Index) -> Block:
    """Between floats nothing happens: a fused kernel keeps excess precision until it stores."""
    (x,) = node.operands
    found, target = puller.value(x, index), node.attrs.dtype("dtype")
    kind = ARITHMETIC[target.name]
    if ARITHMETIC[x.tensor.dtype.name] == kind:
        return found
    return binary("!=", found, 0) if target.kind == "bool" else to(found, kind)


def _clamp(puller: Puller, node: Node, index: Index) -> Block:
    (x,) = node.operands
    dtype = x.tensor.dtype
    low, high = (scalar(puller, node.attrs[n], dtype) for n in ("low", "high"))
    raised = extreme("tl.maximum", dtype, puller.value(x, index), low)
    return extreme("tl.minimum", dtype, raised, high)


def _full(puller: Puller, node: Node, index: Index) -> Block:
    return scalar(puller, node.attrs["value"], node.attrs.dtype("dtype"))


def _iota(puller: Puller, node: Node, index: Index) -> Block:
    place = index[node.attrs.int("axis") % node.result.tensor.rank]
    found = binary("+", place, puller.dim(node.attrs.dim("start")))
    kind = ARITHMETIC[node.result.tensor.dtype.name]
    if found.rows or found.columns:
        return to(found, kind)
    return to(call("tl.full", shape(1, 1), found, "tl.int64"), kind)  # a bare number has no type


def _slice(puller: Puller, node: Node, index: Index) -> Block:
    starts = map(puller.dim, node.attrs.dims("start"))
    moved = (binary("+", place, start) for place, start in zip(index, starts, strict=True))
    return puller.value(node.operands[0], tuple(puller.writer.let("at", m) for m in moved))


def _permute_dims(puller: Puller, node: Node, index: Index) -> Block:
    (x,) = node.operands
    return puller.value(x, permuted_index(index, node.attrs.ints("axes")))


def _broadcast_to(puller: Puller, node: Node, index: Index) -> Block:
    (x,) = node.operands
    shape, out = x.tensor.shape, node.result.tensor.shape
    return puller.value(x, broadcast_index(index, shape, out, ZERO))


def _reshape(puller: Puller, node: Node, index: Index) -> Block:
    (x,) = node.operands
    new, old = node.result.tensor.shape, x.tensor.shape
    flat = puller.writer.let("flat", puller.flatten(index, new))
    return puller.value(x, puller.unflatten(flat, old))


def _reduce(puller: Puller, node: Node, index: Index) -> Block:
    """Along a row: at once where the tile holds it, else piece by piece."""
    (x,) = node.operands
    dtype, rank = x.tensor.dtype, x.tensor.rank
    if node.attrs.int("axis") % rank != rank - 1:
        raise Unlowered(f"{node.op} along another axis than the last has no kernel")
    outer = index[:-1] if node.attrs.bool("keepdims") else index
    if any(place.columns for place in outer):
        raise Unlowered(f"the {node.op} of a row is read along its columns")
    start, width = literal(identity_of(node.op, dtype)), x.tensor.shape[-1]
    writer = puller.writer
    if puller.columns is not None and puller.columns[0] == width:
        axis = puller.columns[1]
        found = puller.value(x, (*outer, axis.places))
        if axis.mask is not None:
            found = writer.let("row", call("tl.where", axis.mask, found, start))
        elif not found.columns:
            found = writer.let("row", call("tl.broadcast_to", found, puller.tile()))
        return _across(node.op, dtype, found, puller)
    held = writer.variable(
        "held",
        call("tl.full", puller.tile(), start, ARITHMETIC[dtype.name]),
    )
    with puller.pieces(width) as axis:
        found = puller.value(x, (*outer, axis.places))
        if axis.mask is not None:
            found = call("tl.where", axis.mask, found, start)
        writer.assign(held, _combine(node.op, dtype, held, found))
    return _across(node.op, dtype, held, puller)


def _combine(op: str, dtype: DType, x: Block, y: Block) -> Block:
    return binary("+", x, y) if op == "sum" else extreme(f"tl.{op}imum", dtype, x, y)


def _across(op: str, dtype: DType, row: Block, puller: Puller) -> Block:
    """One number a row. Triton's max and min pass NaN over; ours do not."""
    row = puller.writer.let("row", row)
    found = Block(call(f"tl.{op}", row, axis=1, keep_dims=True).node, rows=True)
    if op != "sum":
        if not dtype.is_float:
            return to(found, ARITHMETIC[dtype.name])
        odd = to(binary("!=", row, row), "tl.int32")
        any_odd = Block(call("tl.max", odd, axis=1, keep_dims=True).node, rows=True)
        return call("tl.where", binary("!=", any_odd, 0), literal(float("nan")), found)
    return found if dtype.is_float else to(found, ARITHMETIC[dtype.name])


RULES: Mapping[str, Rule] = {
    **{op: _elementwise(function) for op, function in FUNCTIONS.items()},
    "cast": _cast,
    "clamp": _clamp,
    "full": _full,
    "iota": _iota,
    "slice": _slice,
    "permute_dims": _permute_dims,
    "broadcast_to": _broadcast_to,
    "reshape": _reshape,
    "sum": _reduce,
    "max": _reduce,
    "min": _reduce,
}
