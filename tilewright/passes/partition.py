"""Closes the partition: every node is a region that the backend lowers, an alias, or a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tilewright.dsl.attrs import Attrs
from tilewright.dsl.errors import UnsupportedRegion
from tilewright.dsl.graph import Graph, Node, Value, extract
from tilewright.dsl.ident import Ident
from tilewright.dsl.op import get
from tilewright.dsl.ops.scan import too_long
from tilewright.passes.base import GraphPass, PassContext, Refusal, Stage
from tilewright.passes.claim import EXACT, Claim
from tilewright.passes.kinds import kind_of

_STEPS = ("alias", "join", "host")
"""Kinds that no kernel computes."""


@dataclass(frozen=True, slots=True)
class Partition(GraphPass):
    """fused(n1; n2; ...) -> fused(n1); fused(n2); ...

    where the backend refuses the whole. Exact: the body is taken apart. Raises UnsupportedRegion
    with every operation that nobody accepts, unless `fallback` lets the reference run them.
    """

    fallback: bool = False

    name: ClassVar[str] = "partition"
    stage: ClassVar[Stage] = "plan"
    preserves: ClassVar[Claim] = EXACT

    def run_graph(self, graph: Graph, ctx: PassContext) -> Graph:
        if ctx.backend is None:
            return graph
        nodes: list[Node] = []
        refused: list[str] = []
        for node in graph.nodes:
            for piece in _pieces(node, graph, ctx):
                reason = _reason(piece, ctx)
                if reason is not None:
                    refused.append(f"%{piece.results[0].name} ({_ops(piece)}): {reason.reason}")
                nodes.append(piece)
        if refused and not self.fallback:
            raise UnsupportedRegion(
                f"{ctx.backend.name} cannot lower {len(refused)} operations of graph "
                f"{graph.name}:\n  " + "\n  ".join(refused),
                fix="rewrite them, or compile with --fallback reference",
            )
        same = tuple(nodes) == graph.nodes
        return graph if same else Graph(graph.name, graph.inputs, tuple(nodes), graph.outputs)


def _reason(node: Node, ctx: PassContext) -> Refusal | None:
    if kind_of(node.op) in _STEPS or get(node.op).is_collective or ctx.backend is None:
        return None
    if node.op == "scan":
        return Refusal(too_long(node.attrs))
    return ctx.backend.accepts(node)


def _pieces(node: Node, graph: Graph, ctx: PassContext) -> list[Node]:
    reason = _reason(node, ctx)
    if reason is None or node.op != "fused":
        return [node]
    body = node.attrs.graph("body")
    if len(body.nodes) == 1:
        return [node]
    ctx.log.refused("partition", graph.name, node.results[0].name, reason.reason)
    return [_single(inner) for inner in body.nodes]


def _single(node: Node) -> Node:
    """A region of one node. Leaves and movement become loops of their own."""
    kind = kind_of(node.op)
    family = kind if kind in ("matmul", "grouped", "attention", "scatter") else "loop"
    body = extract(Ident("body"), [node], _results(node))
    return Node("fused", body.input_values, node.results, Attrs({"family": family, "body": body}))


def _results(node: Node) -> list[Value]:
    return list(node.results)


def _ops(node: Node) -> str:
    if node.op != "fused":
        return node.op
    return ", ".join(dict.fromkeys(inner.op for inner in node.attrs.graph("body").nodes))
