"""The two sides of a rewrite, cut out of their graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tilewright.dsl.graph import Graph, Input, Output, Value
from tilewright.dsl.ident import Ident
from tilewright.passes.base import Rewrite
from tilewright.passes.editor import Editor


@dataclass(frozen=True, slots=True)
class SubGraphs:
    """The two sides of a rewrite as functions of the same inputs."""

    before: Graph
    after: Graph


def sides(rewrite: Rewrite, editor: Editor) -> SubGraphs:
    """The matched nodes, and what replaces them, as graphs with equal inputs and outputs."""
    inside = {id(node) for node in rewrite.before}
    defined = [result for node in rewrite.before for result in node.results]
    outward = [v for v in defined if editor.used_outside(v, inside)]
    names = {v.name for v in defined}
    made = {r.name for node in rewrite.after for r in node.results}
    read: dict[Ident, Value] = {}
    for nodes, own in ((rewrite.before, names), (rewrite.after, made)):
        for node in nodes:
            for operand in node.operands:
                if operand.name not in own:
                    read.setdefault(operand.name, operand)
    for value in rewrite.forward.values():
        if value.name not in made:
            read.setdefault(value.name, value)
    inputs = tuple(Input(v, "input", v.name) for v in read.values())
    before = Graph(Ident("before"), inputs, rewrite.before, _outputs(outward, {}))
    after = Graph(Ident("after"), inputs, rewrite.after, _outputs(outward, rewrite.forward))
    return SubGraphs(before, after)


def _outputs(values: Sequence[Value], forward: Mapping[Ident, Value]) -> tuple[Output, ...]:
    return tuple(Output(v.name, forward.get(v.name, v)) for v in values)
