"""Moves what depends on parameters alone to compile time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tilewright.dsl.cost import most_bytes
from tilewright.dsl.graph import Graph, Input, Node, Output, Value, extract, map_values, producers
from tilewright.dsl.hashing import structural_hash
from tilewright.dsl.ident import Ident, path
from tilewright.dsl.op import get
from tilewright.dsl.program import Program
from tilewright.dsl.symbols import type_symbols
from tilewright.passes.base import Pass, PassContext, Stage
from tilewright.passes.claim import EXACT, Claim
from tilewright.passes.kinds import kind_of

GROWTH = 2
"""A result may be at most this many times as large as the parameters it is made from."""


@dataclass(frozen=True, slots=True)
class PrepareParams(Pass):
    """y = f(parameters); ... y ... -> ... p ..., where p is a new parameter prepared as f

    if f reads parameters only, is no bare `decode` (which would undo an encoding) and does not blow
    up what is stored. Exact: the same operations run once, when the artifact is made. Equal
    preparations in several graphs share one parameter; `ctx.prepared` holds them by path.
    """

    name: ClassVar[str] = "prepare_params"
    stage: ClassVar[Stage] = "layout"
    preserves: ClassVar[Claim] = EXACT

    def run(self, program: Program, ctx: PassContext) -> Program:
        graphs = [_prepare(graph, ctx) for graph in program.graphs]
        same = all(new is old for new, old in zip(graphs, program.graphs, strict=True))
        return program if same else program.with_graphs(graphs)


def _prepare(graph: Graph, ctx: PassContext) -> Graph:
    constant = _constant_nodes(graph, ctx)
    sources = _Sources(graph)
    replaced: dict[Ident, Input] = {}
    for value in _borders(graph, constant):
        recipe = sources.recipe(value)
        reason = _refusal(recipe)
        if reason is not None:
            ctx.log.refused("prepare_params", graph.name, value.name, reason)
            continue
        entry = Input(value, "param", _path(recipe))
        known = ctx.prepared.setdefault(entry.path, recipe)
        assert structural_hash(known) == structural_hash(recipe)
        replaced[value.name] = entry
        ctx.log.fired("prepare_params", graph.name, value.name, f"stored as {entry.path}")
    return _without(graph, constant, replaced) if replaced else graph


def _constant_nodes(graph: Graph, ctx: PassContext) -> dict[int, Node]:
    """Nodes that read parameters (and leaves) only, at least one parameter somewhere above.

    What a program declares as encoded is stored so, and read where it lies.
    """
    params = {
        i.value.name
        for i in graph.by_role("param")
        if i.value.tensor.is_dense or i.path in ctx.prepared
    }
    leaves: set[Ident] = set()
    found: dict[int, Node] = {}
    for node in graph.nodes:
        names = {o.name for o in node.operands}
        if node.op == "constant" and node.result.tensor.rank:
            # Kernels read literals from memory, so they are stored as parameters are.
            found[id(node)] = node
            params.update(r.name for r in node.results)
        elif not names and kind_of(node.op) == "leaf":
            leaves.update(r.name for r in node.results)
        elif names <= params | leaves and names & params and _is_fixed(node):
            found[id(node)] = node
            params.update(r.name for r in node.results)
    return found


def _is_fixed(node: Node) -> bool:
    """True where the results have one size, are not an encoding undone, and need no other rank."""
    if node.op == "decode" or get(node.op).is_collective:
        return False
    return not any(type_symbols(r.type) for r in node.results)


def _borders(graph: Graph, constant: Mapping[int, Node]) -> list[Value]:
    """Values of constant nodes that others read, and every literal.

    A literal is stored also where only a refused preparation reads it.
    """
    read = {v.name for v in graph.output_values}
    for node in graph.nodes:
        if id(node) not in constant:
            read.update(o.name for o in node.operands)
    return [
        r
        for node in constant.values()
        for r in node.results
        if r.name in read or node.op == "constant"
    ]


class _Sources:
    """Where the values of a graph come from."""

    def __init__(self, graph: Graph) -> None:
        self._made = producers(graph)
        self._order = {id(node): place for place, node in enumerate(graph.nodes)}
        self._paths = {entry.value.name: entry.path for entry in graph.inputs}

    def recipe(self, value: Value) -> Graph:
        """The graph from parameters to `value`."""
        needed: dict[int, Node] = {}
        stack = [value]
        while stack:
            node = self._made.get(stack.pop().name)
            if node is not None and id(node) not in needed:
                needed[id(node)] = node
                stack.extend(node.operands)
        nodes = sorted(needed.values(), key=lambda node: self._order[id(node)])
        cut = extract(Ident("prepare"), nodes, [value])
        inputs = tuple(Input(i.value, "param", self._paths[i.value.name]) for i in cut.inputs)
        return Graph(cut.name, inputs, cut.nodes, (Output("out", value),))


def _refusal(recipe: Graph) -> str | None:
    if not recipe.inputs:
        return None
    stored = most_bytes(recipe.outputs[0].value.type)
    read = sum(most_bytes(i.value.type) for i in recipe.inputs)
    if stored > GROWTH * read:
        return f"it would store {stored:,} bytes made from {read:,}"
    return None


def _path(recipe: Graph) -> str:
    """A path that tells the first parameter, and is equal for equal recipes."""
    paths = [i.path for i in recipe.inputs] or ["literal"]
    digest = hashlib.blake2b(digest_size=4)
    digest.update("\n".join((*paths, structural_hash(recipe))).encode())
    return path(f"prepared.{paths[0]}.x{digest.hexdigest()}")


def _without(graph: Graph, constant: Mapping[int, Node], replaced: Mapping[Ident, Input]) -> Graph:
    """The graph with prepared values as parameters, and what only they needed dropped."""
    nodes = _live(graph, [n for n in graph.nodes if not _is_replaced(n, replaced)])
    read = {o.name for node in nodes for o in node.operands}
    read.update(v.name for v in graph.output_values)
    by_path: dict[str, Value] = {}
    forward: dict[Ident, Value] = {}
    inputs = list(graph.inputs)
    for name, entry in replaced.items():
        known = by_path.setdefault(entry.path, entry.value)
        if known is entry.value:
            inputs.append(entry)
        elif name in read:
            forward[name] = known
    read |= {v.name for v in forward.values()}
    kept = tuple(i for i in inputs if i.role != "param" or i.value.name in read)
    rebuilt = Graph(graph.name, kept, tuple(nodes), graph.outputs)
    return map_values(rebuilt, lambda v: forward.get(v.name, v)) if forward else rebuilt


def _is_replaced(node: Node, replaced: Mapping[Ident, Input]) -> bool:
    return any(r.name in replaced for r in node.results)


def _live(graph: Graph, nodes: Sequence[Node]) -> list[Node]:
    wanted = {v.name for v in graph.output_values}
    kept: list[Node] = []
    for node in reversed(nodes):
        if any(r.name in wanted for r in node.results):
            kept.append(node)
            wanted.update(o.name for o in node.operands)
    return kept[::-1]
