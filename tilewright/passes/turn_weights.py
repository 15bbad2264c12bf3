"""Weights that stand the other way round, stored as the backend streams them."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import ClassVar

from tilewright.dsl.attrs import Attrs
from tilewright.dsl.graph import Graph, Node, Value
from tilewright.dsl.ident import Ident
from tilewright.dsl.program import Program
from tilewright.dsl.types import TensorType
from tilewright.passes.base import Pass, PassContext, Stage
from tilewright.passes.claim import EXACT, Claim
from tilewright.passes.prepare_params import PrepareParams
from tilewright.passes.tile_weights import readers

_TURN = Attrs({"axes": (1, 0)})


@dataclass(frozen=True, slots=True)
class TurnWeights(Pass):
    """matmul(x, w) -> matmul(x, p, transpose_b=True), where p = permute_dims(w, [1, 0])

    for a dense parameter w [k, n] that is only ever the right operand of a matmul, as it is, if the
    backend names tiles for p. Exact: the elements move when the artifact is made, and are stored
    once. Weights that a model keeps as [n, k] arrive so already (`transpose_matmul`).
    """

    name: ClassVar[str] = "turn_weights"
    stage: ClassVar[Stage] = "layout"
    preserves: ClassVar[Claim] = EXACT

    def run(self, program: Program, ctx: PassContext) -> Program:
        paths = {d.path for d in program.params if _turns(program, d.path, d.type, ctx)}
        if not paths:
            return program
        for path in sorted(paths):
            ctx.log.fired(self.name, program.name, path, "stored as [n, k]")
        graphs = [_rewrite(graph, paths) for graph in program.graphs]
        return PrepareParams().run(program.with_graphs(graphs), ctx)


def _turns(program: Program, path: str, type_: object, ctx: PassContext) -> bool:
    if not isinstance(type_, TensorType) or type_.rank != 2 or ctx.backend is None:
        return False
    if not type_.is_dense or type_.placement.entries:
        return False
    found = [reader for graph in program.graphs for reader in readers(graph, path)]
    if not found or not all(_is_plain(node, place) for node, place in found):
        return False
    if any(_is_given_back(graph, path) for graph in program.graphs):
        return False
    return ctx.backend.weight_tiles(_turned(type_)) is not None


def _is_plain(node: Node, place: int) -> bool:
    return node.op == "matmul" and place == 1 and not node.attrs.bool("transpose_b")


def _is_given_back(graph: Graph, path: str) -> bool:
    names = {entry.value.name for entry in graph.by_role("param") if entry.path == path}
    return any(output.value.name in names for output in graph.outputs)


def _turned(type_: TensorType) -> TensorType:
    return replace(type_, shape=type_.shape[::-1])


def _rewrite(graph: Graph, paths: AbstractSet[str]) -> Graph:
    made: list[Node] = []
    turned: dict[Ident, Value] = {}
    for entry in graph.by_role("param"):
        if entry.path in paths:
            value = entry.value
            result = Value(Ident(f"{value.name}_turned"), _turned(value.tensor))
            made.append(Node("permute_dims", (value,), (result,), _TURN))
            turned[value.name] = result
    nodes = [_product(node, turned) for node in graph.nodes]
    return Graph(graph.name, graph.inputs, (*made, *nodes), graph.outputs)


def _product(node: Node, turned: dict[Ident, Value]) -> Node:
    if node.op != "matmul" or node.operands[1].name not in turned:
        return node
    operands = (node.operands[0], turned[node.operands[1].name])
    return Node(node.op, operands, node.results, node.attrs.replace(transpose_b=True))
