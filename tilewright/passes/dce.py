"""Dead code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tilewright.dsl.graph import Graph, Node
from tilewright.passes.base import GraphPass, PassContext, Stage
from tilewright.passes.claim import EXACT, Claim


@dataclass(frozen=True, slots=True)
class Dce(GraphPass):
    """Nodes that no output needs are removed.

        y = f(x) -> nothing

    if no result of it is an output or read by a node that stays. A state's successor is an output,
    so the operations that make it stay. Inputs stay too: they are the signature.
    """

    name: ClassVar[str] = "dce"
    stage: ClassVar[Stage] = "canonical"
    preserves: ClassVar[Claim] = EXACT
    cleans_up: ClassVar[bool] = True

    def run_graph(self, graph: Graph, ctx: PassContext) -> Graph:
        """One sweep from the last node to the first."""
        found = without_dead(graph)
        kept = {id(node) for node in found.nodes}
        for node in reversed(graph.nodes):
            if id(node) not in kept:
                ctx.log.fired(self.name, graph.name, node.results[0].name, "no output needs it")
        return found


def without_dead(graph: Graph) -> Graph:
    """The graph without what no output needs; the same object where all is needed."""
    needed = {value.name for value in graph.output_values}
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if any(result.name in needed for result in node.results):
            needed.update(operand.name for operand in node.operands)
            kept.append(node)
    if len(kept) == len(graph.nodes):
        return graph
    return Graph(graph.name, graph.inputs, tuple(reversed(kept)), graph.outputs)
