"""Powers that are square roots."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from tilewright.dsl.graph import Node, Value
from tilewright.passes.base import PassContext, Refusal, Rewrite, Stage
from tilewright.passes.claim import REASSOCIATES, Claim
from tilewright.passes.editor import Editor
from tilewright.passes.match import Match
from tilewright.passes.sweep import LocalPass

_STEPS = 16
"""How many nodes the proof of a sign may look at."""


@dataclass(frozen=True, slots=True)
class Roots(LocalPass):
    """Powers of a half are roots.

        pow(x, 0.5) -> sqrt(x),  pow(x, -0.5) -> rsqrt(x),  1 / sqrt(x) -> rsqrt(x)

    if x is known not to be negative (for pow; also not -0.0, for which powers and roots differ as
    they do at -inf): a sum of squares, exponentials, absolute values, positive numbers.
    """

    name: ClassVar[str] = "roots"
    stage: ClassVar[Stage] = "canonical"
    preserves: ClassVar[Claim] = REASSOCIATES

    def rewrite(self, node: Node, editor: Editor, ctx: PassContext) -> Rewrite | Refusal | None:
        match = Match(editor)
        if node.op == "div":
            return _reciprocal(node, match)
        if node.op != "pow":
            return None
        x, exponent = node.operands
        root = next((op for op, e in _ROOTS if match.is_number(exponent, e)), None)
        if root is None:
            return None
        if not not_negative(x, match):
            return Refusal(f"pow is {root} only where its base is not negative, nor -0.0")
        made = editor.try_defining(root, x, result=node.result)
        return None if made is None else match.rewrite(node, (made,), f"this power is {root}")


_ROOTS = (("sqrt", 0.5), ("rsqrt", -0.5))


def _reciprocal(node: Node, match: Match) -> Rewrite | None:
    one, root = node.operands
    if not match.is_number(one, 1):
        return None
    inner = match.take(root, "sqrt")
    if inner is None:
        return None
    made = match.editor.try_defining("rsqrt", inner.operands[0], result=node.result)
    return None if made is None else match.rewrite(node, (made,), "one over a root")


def not_negative(value: Value, match: Match) -> bool:
    """True where no element can be below zero or -0.0 (NaN may occur)."""
    stack = [value]
    for _ in range(_STEPS):
        if not stack:
            return True
        current = stack.pop()
        number = match.number(current)
        if number is not None:
            if math.copysign(1.0, number) < 0:
                return False
            continue
        node = match.take(current, *_POSITIVE, *_KEEPS_SIGN)
        if node is None:
            return False
        square = node.op == "mul" and match.same(*node.operands)
        if node.op not in _POSITIVE and not square:
            stack.extend(node.operands)
    return not stack


_POSITIVE = ("abs", "exp", "sigmoid")
_KEEPS_SIGN = ("add", "broadcast_to", "cast", "div", "max", "maximum", "mean", "mul", "reshape",
               "sum")  # fmt: skip
