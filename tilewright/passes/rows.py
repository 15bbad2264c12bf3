"""Reductions of rows as patterns: kept dims, means, roots of variances."""

from __future__ import annotations

from tilewright.dsl.graph import Node, Value
from tilewright.dsl.types import Shape
from tilewright.passes.match import Match


def reduced(match: Match, value: Value, op: str) -> tuple[Node, int] | None:
    """The reduction that a value holds with its dims kept (repeated or not), and its axis.

    Looks through broadcast_to, and through a reshape that only puts the reduced dim back.
    """
    value = _unrepeated(match, value)
    shape = value.tensor.shape
    inner = match.take(value, "reshape")
    node = match.take(value if inner is None else inner.operands[0], op)
    if node is None:
        return None
    x = node.operands[0].tensor
    axis = node.attrs.int("axis") % x.rank
    return (node, axis) if shape == _kept(x.shape, axis) else None


def mean(match: Match, value: Value) -> tuple[Value, int] | None:
    """What a value is the mean of (dims kept, repeated or not), and along which axis."""
    found = reduced(match, value, "mean")
    if found is not None:
        return found[0].operands[0], found[1]
    node = match.take(_unrepeated(match, value), "div", "mul")
    if node is None:
        return None
    for total, count in (node.operands, node.operands[::-1]):
        added = reduced(match, total, "sum")
        if added is not None and _is_count(match, node, count, added):
            return added[0].operands[0], added[1]
    return None


def _is_count(match: Match, node: Node, count: Value, added: tuple[Node, int]) -> bool:
    """Whether the sum is divided by (or multiplied by the reciprocal of) its number of terms."""
    terms = added[0].operands[0].tensor.shape[added[1]]
    full = match.take(_unrepeated(match, count), "full")
    if full is None:
        return False
    value = full.attrs["value"]
    if node.op == "div":
        return match.same(node.operands[1], count) and value == terms
    if not isinstance(terms, int) or not isinstance(value, float):
        return False
    return abs(value * terms - 1.0) <= 4 * full.result.tensor.dtype.unit_roundoff


def over_root(match: Match, node: Node) -> tuple[Value, Value] | None:
    """(a, b) where the node is a * rsqrt(b) or a / sqrt(b), the root repeated or not."""
    x, y = node.operands
    if node.op == "div":
        root = match.take(_unrepeated(match, y), "sqrt")
        return None if root is None else (x, root.operands[0])
    for one, other in ((x, y), (y, x)):
        root = match.take(_unrepeated(match, other), "rsqrt")
        if root is not None:
            return one, root.operands[0]
    return None


def plus_number(match: Match, value: Value) -> tuple[Value, float] | None:
    """(a, c) where a value is a + c, c as the program states it."""
    node = match.take(value, "add")
    if node is None:
        return None
    for one, other in (node.operands, node.operands[::-1]):
        stated = stated_number(match, other)
        if stated is not None:
            return one, stated
    return None


def stated_number(match: Match, value: Value) -> float | None:
    """The float that every element of a value is, before its dtype rounds it."""
    full = match.take(_unrepeated(match, value), "full")
    stated = None if full is None else full.attrs["value"]
    return stated if isinstance(stated, float) else None


def square(match: Match, value: Value) -> Value | None:
    """a where a value is a * a or pow(a, 2)."""
    node = match.take(value, "mul", "pow")
    if node is None:
        return None
    x, y = node.operands
    if node.op == "mul":
        return x if match.same(x, y) else None
    return x if stated_number(match, y) == 2.0 else None


def column(match: Match, value: Value, columns: Shape) -> Value | None:
    """The value of rank one with this shape that a value repeats for every row, if it does so."""
    inner = match.through(value, "broadcast_to")
    shape = inner.tensor.shape
    if shape == columns:
        return inner
    node = match.take(inner, "reshape")
    if node is None or shape != (*(1,) * (len(shape) - 1), *columns):
        return None
    return node.operands[0] if node.operands[0].tensor.shape == columns else None


def _unrepeated(match: Match, value: Value) -> Value:
    return match.through(value, "broadcast_to")


def _kept(shape: Shape, axis: int) -> Shape:
    return (*shape[:axis], 1, *shape[axis + 1 :])
