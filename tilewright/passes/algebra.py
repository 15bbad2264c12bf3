"""Identities of arithmetic that hold bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from tilewright.dsl.attrs import Attr
from tilewright.dsl.dtypes import DType, f64
from tilewright.dsl.graph import Node, Value
from tilewright.passes.base import PassContext, Refusal, Rewrite, Stage
from tilewright.passes.claim import EXACT, Claim
from tilewright.passes.editor import Editor
from tilewright.passes.match import Match, Number, forward_to
from tilewright.passes.sweep import LocalPass

Found = Rewrite | Refusal | None
Rule = Callable[[Node, Match], Found]

_NORMAL_EXPONENTS = {"f64": 1022, "f32": 126, "bf16": 126, "f16": 14}
"""2 ** -n and 2 ** n are normal numbers of the format."""


@dataclass(frozen=True, slots=True)
class Algebra(LocalPass):
    """Arithmetic that changes nothing is removed, and cheaper arithmetic put in.

        x + 0 -> x              if x is an integer, or the zero is -0.0
        x - 0 -> x              if x is an integer, or the zero is 0.0
        x * 1, x / 1 -> x
        x * -1, x / -1 -> neg(x)
        x / c -> x * (1/c)      if c is a power of two and 1/c a normal number
        pow(x, 1) -> x
        pow(x, 2) -> x * x      if x is not f64: then x * x is exact in float64, where pow is taken
        neg(neg(x)) -> x,  logical_not(logical_not(x)) -> x
        where(true, x, y) -> x,  where(false, x, y) -> y,  where(c, x, x) -> x

    A constant is one number in every element. Where it is what gives the result its shape, x is
    repeated with broadcast_to. Never `x * 0 -> 0` (NaN, Inf), nor `x + 0.0 -> x` for floats:
    -0.0 + 0.0 is 0.0. decode(encode(x)) stays: encoding loses digits.
    """

    name: ClassVar[str] = "algebra"
    stage: ClassVar[Stage] = "canonical"
    preserves: ClassVar[Claim] = EXACT
    cleans_up: ClassVar[bool] = True

    def rewrite(self, node: Node, editor: Editor, ctx: PassContext) -> Found:
        rule = _RULES.get(node.op)
        return None if rule is None else rule(node, Match(editor))


def _add(node: Node, match: Match) -> Found:
    for one, other in (node.operands, node.operands[::-1]):
        if match.is_number(other, 0):
            zero = match.number(other)
            if not isinstance(zero, float) or math.copysign(1.0, zero) < 0:
                return forward_to(node, one, match, "adds nothing")
            return Refusal("x + 0.0 is not x where x is -0.0")
    return None


def _sub(node: Node, match: Match) -> Found:
    x, y = node.operands
    if not match.is_number(y, 0):
        return None
    zero = match.number(y)
    if isinstance(zero, float) and math.copysign(1.0, zero) < 0:
        return Refusal("x - -0.0 is not x where x is -0.0")
    return forward_to(node, x, match, "subtracts nothing")


def _mul(node: Node, match: Match) -> Found:
    for one, other in (node.operands, node.operands[::-1]):
        if match.is_number(other, 1):
            return forward_to(node, one, match, "multiplies by one")
        if match.is_number(other, -1):
            return _negated(node, one, match)
    return None


def _negated(node: Node, x: Value, match: Match) -> Found:
    made = match.editor.try_defining("neg", x, result=node.result)
    return None if made is None else match.rewrite(node, (made,), "multiplies by minus one")


def _div(node: Node, match: Match) -> Found:
    x, y = node.operands
    divisor = match.number(y)
    if not isinstance(divisor, float):
        return None
    if divisor == 1.0:
        return forward_to(node, x, match, "divides by one")
    if divisor == -1.0:
        return _negated(node, x, match)
    if not _exact_reciprocal(divisor, node.result.tensor.dtype):
        return None
    editor = match.editor
    attrs: dict[str, Attr] = {"shape": y.tensor.shape, "dtype": y.tensor.dtype}
    factor = editor.node("full", like=y, attrs={**attrs, "value": 1.0 / divisor})
    made = editor.try_defining("mul", x, factor.result, result=node.result)
    if made is None:
        return None
    return match.rewrite(node, (factor, made), "a power of two has an exact reciprocal")


def _exact_reciprocal(divisor: float, dtype: DType) -> bool:
    fraction, exponent = math.frexp(divisor)
    return abs(fraction) == 0.5 and abs(exponent - 1) <= _NORMAL_EXPONENTS.get(dtype.name, 0)


def _pow(node: Node, match: Match) -> Found:
    x, y = node.operands
    if match.is_number(y, 1):
        return forward_to(node, x, match, "the first power")
    if not match.is_number(y, 2):
        return None
    if x.tensor.dtype == f64:
        return Refusal("x * x and pow(x, 2) round differently in f64")
    made = match.editor.try_defining("mul", x, x, result=node.result)
    return None if made is None else match.rewrite(node, (made,), "a square is a product")


def _involution(node: Node, match: Match) -> Found:
    inner = match.take(node.operands[0], node.op)
    if inner is None:
        return None
    return forward_to(node, inner.operands[0], match, f"{node.op} twice")


def _where(node: Node, match: Match) -> Found:
    condition, x, y = node.operands
    if match.same(x, y):
        return forward_to(node, x, match, "both branches are one value")
    known: Number | None = match.number(condition)
    if known is None:
        return None
    return forward_to(node, x if known else y, match, "the condition is constant")


_RULES: dict[str, Rule] = {
    "add": _add,
    "div": _div,
    "logical_not": _involution,
    "mul": _mul,
    "neg": _involution,
    "pow": _pow,
    "sub": _sub,
    "where": _where,
}
