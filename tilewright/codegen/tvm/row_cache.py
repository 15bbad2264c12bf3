"""Which values of a row are worth keeping while its passes go by."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from tilewright.codegen.tvm.loop_schedule import Keep
from tilewright.dsl.graph import Graph, Node, Value, producers
from tilewright.dsl.ident import Ident
from tilewright.dsl.op import get
from tilewright.dsl.types import Shape
from tilewright.passes.kinds import kind_of

_LEAST: dict[Keep, float] = {"none": inf, "dear": 6, "all": 1}
"""Operations (an exponential counts ten) from which on a value is kept rather than made again."""
_MOST = 4
"""Rows kept at once."""


def kept_rows(
    body: Graph, space: Shape, reductions: Sequence[Node], keep: Keep = "dear"
) -> list[Value]:
    """Values over the whole space that a reduction computes and a later pass reads.

    Every pass must read them at its own place: what is kept is one row, from its first column to
    its last.
    """
    made = producers(body)
    roots = [[r.operands[0]] for r in reductions] + [[o.value for o in body.outputs]]
    passes = [_Pass(made, space, values) for values in roots]
    found: list[Value] = []
    covered: set[Ident] = set()
    for node in reversed(body.nodes):
        value = node.results[0]
        if value.tensor.shape != space or value.name in covered or not value.tensor.dtype.is_float:
            continue
        users = sum(1 for one in passes if value.name in one.here)
        if users < 2 or any(value.name in one.elsewhere for one in passes):
            continue
        if _price(made, value, space) >= _LEAST[keep]:
            found.append(value)
            covered |= _computed(made, [value])
    return found[:_MOST]


class _Pass:
    """What a pass over `values` computes: at its own place, and (through movement) at others."""

    def __init__(self, made: dict[Ident, Node], space: Shape, values: Sequence[Value]) -> None:
        self.here: set[Ident] = set()
        self.elsewhere: set[Ident] = set()
        stack = [(value, value.tensor.shape == space) for value in values]
        while stack:
            value, here = stack.pop()
            node, names = made.get(value.name), self.here if here else self.elsewhere
            if node is None or value.name in names or kind_of(node.op) == "reduce":
                continue
            names.add(value.name)
            pointwise = here and kind_of(node.op) == "elementwise"
            stack.extend((o, pointwise and o.tensor.shape == space) for o in node.operands)


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
