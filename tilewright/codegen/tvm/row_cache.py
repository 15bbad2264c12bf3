"""Which values of a row are worth keeping while its passes go by."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.dsl.graph import Graph, Node, Value, producers
from tilewright.dsl.ident import Ident
from tilewright.dsl.op import get
from tilewright.dsl.types import Shape
from tilewright.passes.kinds import kind_of

_DEAR = 6
"""Operations (an exponential counts ten) from which on a value is kept rather than made again."""
_MOST = 4
"""Rows kept at once."""


def kept_rows(body: Graph, space: Shape, reductions: Sequence[Node]) -> list[Value]:
    """Dear values over the whole space that a reduction computes and a later pass reads."""
    made = producers(body)
    passes = [_computed(made, [r.operands[0]]) for r in reductions]
    passes.append(_computed(made, [o.value for o in body.outputs]))
    found: list[Value] = []
    covered: set[Ident] = set()
    for node in reversed(body.nodes):
        value = node.results[0]
        if value.tensor.shape != space or value.name in covered or not value.tensor.dtype.is_float:
            continue
        users = [i for i, names in enumerate(passes) if value.name in names]
        if len(users) > 1 and users[0] < len(reductions) and _price(made, value, space) >= _DEAR:
            found.append(value)
            covered |= _computed(made, [value])
    return found[:_MOST]


def _computed(made: dict[Ident, Node], values: Sequence[Value]) -> set[Ident]:
    """Values that a pass over `values` computes anew: all above them, up to reductions."""
    found: set[Ident] = set()
    stack = list(values)
    while stack:
        value = stack.pop()
        node = made.get(value.name)
        if node is None or value.name in found or kind_of(node.op) == "reduce":
            continue
        found.add(value.name)
        stack.extend(node.operands)
    return found


def _price(made: dict[Ident, Node], value: Value, space: Shape) -> int:
    """Operations an element costs, roughly."""
    total = 0
    for name in _computed(made, [value]):
        node = made[name]
        result = node.results[0].tensor
        if result.shape == space:
            total += getattr(get(node.op), "flops_per_element", 2)
    return total
