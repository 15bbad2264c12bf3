"""A graph without what an axis of the mesh adds to it."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.dsl.attrs import Attrs
from tilewright.dsl.graph import Graph, Value
from tilewright.dsl.ident import Ident
from tilewright.dsl.op import get
from tilewright.dsl.placement import Placement
from tilewright.dsl.types import TensorType, Type

Line = tuple[str, tuple[str, ...], tuple[tuple[str, Type], ...], Attrs]


def erased(graph: Graph, axis: str) -> tuple[Sequence[object], Sequence[Line]]:
    """Ends and nodes without collectives and placements on one axis, to be compared: graphs for
    which they are equal mean the same.
    """
    forward: dict[Ident, Ident] = {}

    def name(value: Value) -> Ident:
        return forward.get(value.name, value.name)

    def bare(value: Value) -> tuple[str, Type]:
        return value.name, _bare(value.type, axis)

    lines: list[Line] = []
    for node in graph.nodes:
        if get(node.op).is_collective and node.attrs.str("axis") == axis:
            forward[node.result.name] = name(node.operands[0])
        else:
            operands = tuple(map(name, node.operands))
            lines.append((node.op, operands, tuple(map(bare, node.results)), node.attrs))
    ends = [*(bare(v) for v in graph.input_values), *(name(v) for v in graph.output_values)]
    return ends, lines


def _bare(type_: Type, axis: str) -> Type:
    if not isinstance(type_, TensorType):
        return type_
    rest = tuple(entry for entry in type_.placement.entries if entry[0] != axis)
    return type_.with_placement(Placement(rest))
