"""Attention scores read backwards: masks, soft cap and scale, down to the product."""

from __future__ import annotations

from dataclasses import dataclass, field

from tilewright.dsl.graph import Node, Value
from tilewright.passes.base import Refusal
from tilewright.passes.match import Match
from tilewright.passes.rows import stated_number

_LAYERS = 16
_MINUS_INFINITY = -1e30
"""Numbers up to this one stand for -inf in code that avoids infinities."""
_LOWEST = {"f16": -65504.0}


@dataclass(frozen=True, slots=True)
class Condition:
    """A bool that says which keys a query sees (if `negated`: does not see)."""

    value: Value
    negated: bool
    finite: bool
    """True where hidden keys have a large negative score instead of -inf."""


@dataclass
class Scores:
    """What was found between a softmax and the product of queries and keys."""

    match: Match
    product: Node | None = None
    scale: float = 1.0
    softcap: float | None = None
    conditions: list[Condition] = field(default_factory=list[Condition])

    def read(self, value: Value) -> Refusal | None:
        """Goes back from the softmax's operand to the product; says what is in the way."""
        for _ in range(_LAYERS):
            node = self.match.take(value, "add", "cast", "div", "matmul", "mul", "sub", "where")
            if node is None:
                return Refusal("attention: the scores do not come from a product")
            if node.op == "matmul":
                self.product = node
                return None
            found = self._layer(node)
            if isinstance(found, Refusal):
                return found
            value = found
        return Refusal("attention: more than 16 steps between the product and the softmax")

    def _layer(self, node: Node) -> Value | Refusal:
        match node.op:
            case "cast" if node.operands[0].tensor.dtype.is_float:
                return node.operands[0]
            case "where":
                return self._where(node)
            case "add":
                return self._added(node)
            case "mul" | "div":
                return self._scaled(node)
            case _:
                return Refusal(f"attention: {node.op} between the product and the softmax")

    def _where(self, node: Node) -> Value | Refusal:
        condition, x, y = node.operands
        for seen, hidden, negated in ((x, y, False), (y, x, True)):
            number = stated_number(self.match, hidden)
            if number is not None and is_minus_infinity(number, hidden):
                return self._hide(condition, negated, number, seen)
        return Refusal("attention: where chooses between scores, and none of them is -inf")

    def _added(self, node: Node) -> Value | Refusal:
        for scores, bias in (node.operands, node.operands[::-1]):
            inner = self.match.through(bias, "broadcast_to", "cast")
            where = self.match.take(inner, "where")
            if where is None:
                continue
            condition, x, y = where.operands
            for seen, hidden, negated in ((x, y, False), (y, x, True)):
                number = stated_number(self.match, hidden)
                if number is None or stated_number(self.match, seen) != 0.0:
                    continue
                if is_minus_infinity(number, hidden):
                    return self._hide(condition, negated, number, scores)
        return Refusal("attention: what is added to the scores is not 0 or -inf by a condition")

    def _hide(
        self, condition: Value, negated: bool, number: float, scores: Value
    ) -> Value | Refusal:
        if self.softcap is not None:
            return Refusal("attention: the mask is under the soft cap, which makes -inf finite")
        finite = number != float("-inf")
        self.conditions.append(Condition(condition, negated, finite))
        return scores

    def _scaled(self, node: Node) -> Value | Refusal:
        pairs = (node.operands,) if node.op == "div" else (node.operands, node.operands[::-1])
        for scores, other in pairs:
            factor = stated_number(self.match, other)
            if factor is None or factor <= 0.0:
                continue
            capped = self._capped(scores, factor) if node.op == "mul" else None
            if capped is not None:
                return capped
            self.scale *= factor if node.op == "mul" else 1.0 / factor
            return scores
        return Refusal(f"attention: {node.op} of scores by something else than a positive number")

    def _capped(self, scores: Value, cap: float) -> Value | Refusal | None:
        """x where the scores are tanh(x / cap), about to be multiplied by cap."""
        bend = self.match.take(self.match.through(scores, "cast"), "tanh")
        if bend is None:
            return None
        node = self.match.take(bend.operands[0], "mul", "div")
        divisor = None if node is None else stated_number(self.match, node.operands[1])
        if node is None or not divisor:
            return Refusal("attention: tanh of scores that are not divided by a number")
        found = divisor if node.op == "div" else 1.0 / divisor
        if abs(found - cap) > 1e-6 * cap:
            return Refusal(f"attention: scores are divided by {found:g} and multiplied by {cap:g}")
        if self.scale != 1.0 or self.softcap is not None:
            return Refusal("attention: the soft cap is not the last step before the mask")
        self.softcap = cap
        return node.operands[0]


def is_minus_infinity(number: float, like: Value) -> bool:
    """True for -inf, and for what stands for it in this dtype."""
    return number <= _LOWEST.get(like.tensor.dtype.name, _MINUS_INFINITY)


def take_scale(match: Match, value: Value) -> tuple[Value, float]:
    """(x, c) where a value is x * c or x / c by a positive number; (value, 1) otherwise."""
    node = match.take(value, "mul", "div")
    if node is None:
        return value, 1.0
    pairs = (node.operands,) if node.op == "div" else (node.operands, node.operands[::-1])
    for x, other in pairs:
        factor = stated_number(match, other)
        if factor is not None and factor > 0.0 and x.type == value.type:
            return x, factor if node.op == "mul" else 1.0 / factor
    return value, 1.0
