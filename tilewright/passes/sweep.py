"""Passes made of local rewrites: one sweep, every fired rewrite checked on its own sub-graph."""

from __future__ import annotations

from abc import abstractmethod

from tilewright.dsl.graph import Graph, Node
from tilewright.dsl.ident import Ident
from tilewright.passes.base import GraphPass, Pass, PassContext, Refusal, Rewrite
from tilewright.passes.editor import Editor
from tilewright.passes.subgraph import sides
from tilewright.passes.validate import validate


class LocalPass(GraphPass):
    """A pass made of one local rewrite, tried at every node in order."""

    @abstractmethod
    def rewrite(self, node: Node, editor: Editor, ctx: PassContext) -> Rewrite | Refusal | None:
        """What to do where `node` is the last node of a match; None where nothing matches."""

    def run_graph(self, graph: Graph, ctx: PassContext) -> Graph:
        """One sweep; every fired rewrite is validated on its own sub-graph."""
        editor = Editor(graph, ctx.mesh)
        for node in editor.live():
            found = self.rewrite(node, editor, ctx)
            if found is not None:
                settle(self, found, node.results[0].name, editor, ctx)
        return editor.freeze()


def settle(
    step: Pass, found: Rewrite | Refusal, anchor: Ident, editor: Editor, ctx: PassContext
) -> None:
    """Validates, applies and logs a rewrite; logs a refusal."""
    graph = editor.graph.name
    if isinstance(found, Refusal):
        ctx.log.refused(step.name, graph, anchor, found.reason)
        return
    if ctx.check != "off":
        validate(step.name, step.preserves, sides(found, editor), ctx.mesh)
    editor.apply(found)
    ctx.log.fired(step.name, graph, anchor, found.reason, found.gain_bytes)
