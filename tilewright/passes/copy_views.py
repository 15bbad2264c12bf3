"""Copies where a value must lie in two places, made by kernels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from tilewright.dsl.graph import Graph, Node, Output, Value
from tilewright.passes.base import GraphPass, PassContext, Stage
from tilewright.passes.claim import EXACT, Claim
from tilewright.passes.editor import Editor
from tilewright.passes.joins import joined_at, places
from tilewright.passes.kinds import kind_of


@dataclass(frozen=True, slots=True)
class CopyViews(GraphPass):
    """stack(x, y) -> stack(x, copy(y))          if y cannot be made where it is joined
    return row(x, at) -> return copy(row(x, at))

    An input, a weight, a part that comes twice or stands in another join lies elsewhere already,
    and a caller's array is no part of another. Exact. The copies are kernels among others: the team
    shares them, and no step of its own comes between.
    """

    name: ClassVar[str] = "copy_views"
    stage: ClassVar[Stage] = "fuse"
    preserves: ClassVar[Claim] = EXACT

    def run_graph(self, graph: Graph, ctx: PassContext) -> Graph:
        walk = _Walk(graph, ctx)
        for node in graph.nodes:
            walk.nodes.append(walk.joined(node) if kind_of(node.op) == "join" else node)
        outputs = tuple(map(walk.returned, graph.outputs))
        if len(walk.nodes) == len(graph.nodes):
            return graph
        return Graph(graph.name, graph.inputs, tuple(walk.nodes), outputs)


class _Walk:
    """The nodes so far, and where every value lies."""

    def __init__(self, graph: Graph, ctx: PassContext) -> None:
        self.nodes: list[Node] = []
        self._places = places(graph)
        self._editor = Editor(graph, ctx.mesh)
        self._ctx = ctx

    def joined(self, join: Node) -> Node:
        """The join over what lies in it."""
        whole = self._places[join.result.name]
        operands: list[Value] = []
        for operand, offset in joined_at(join):
            place = self._places[operand.name]
            there = whole.shift("data") + offset
            inside = place.root == whole.root and place.shift("data") == there
            reason = f"it lies elsewhere than in %{join.result.name}"
            operands.append(operand if inside else self._copied(operand, reason))
        return replace(join, operands=tuple(operands))

    def returned(self, output: Output) -> Output:
        """The output, whole."""
        if output.replaces is not None or not self._places[output.value.name].shifts:
            return output
        return replace(output, value=self._copied(output.value, "it is a part of another value"))

    def _copied(self, value: Value, reason: str) -> Value:
        made = self._editor.node("copy", value, like=value)
        self.nodes.append(made)
        self._ctx.log.fired("copy_views", self._editor.graph.name, value.name, reason)
        return made.result
