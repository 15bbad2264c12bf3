"""Fuses nodes into regions: one node per kernel, its body a graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tilewright.dsl.attrs import Attrs
from tilewright.dsl.cost import most_bytes
from tilewright.dsl.graph import Graph, Node, Value, extract
from tilewright.dsl.ident import Ident
from tilewright.dsl.types import Shape, TensorType, shape_text
from tilewright.passes.base import GraphPass, PassContext, Stage
from tilewright.passes.claim import EXACT, Claim
from tilewright.passes.dce import Dce
from tilewright.passes.grouping import Family, Group, Grouping, Join
from tilewright.passes.kinds import is_row_reduction, kind_of


@dataclass(frozen=True, slots=True)
class FuseRegions(GraphPass):
    """n1; n2; ... -> fused(body = {n1; n2; ...})

    if everything the nodes read from outside exists before the first of them. A matmul takes
    elementwise followers of its own shape; loops take elementwise nodes and reductions over one
    index space; leaves and movement are recomputed by each reader. Exact: the body is the nodes.
    """

    name: ClassVar[str] = "fuse_regions"
    stage: ClassVar[Stage] = "fuse"
    preserves: ClassVar[Claim] = EXACT

    def run_graph(self, graph: Graph, ctx: PassContext) -> Graph:
        walk = Grouping(Dce().run_graph(graph, ctx))  # a group that nobody reads is no region
        for position, node in enumerate(walk.graph.nodes):
            _visit(walk, node, position, ctx)
            walk.place(node, position)
        walk.finish()
        return _wrap(walk)


def _visit(walk: Grouping, node: Node, position: int, ctx: PassContext) -> None:
    match kind_of(node.op):
        case "elementwise" | "gather":
            _join_or_start(walk, node, position, ctx)
        case "reduce":
            _reduce(walk, node, position, ctx)
        case "matmul" | "grouped" | "attention" as family:
            walk.start(family, _shape(node), node, position)
        case "scatter" | "row" as kind:
            family: Family = "scatter" if kind == "scatter" else "loop"
            walk.start(family, _shape(node), node, position).closed = True
        case "alias" if node.operands[0].name not in walk.lazy:
            walk.alone[position] = node
        case "movement" if node.op == "view" and walk.is_consumed(node.operands[0]):
            # Read now: later, the cache's bytes are another state's.
            walk.start("loop", _shape(node), node, position).closed = True
        case "join" | "host" | "scan" | "alone":
            walk.alone[position] = node
        case _:
            walk.lazy.update((result.name, node) for result in node.results)


def _join_or_start(walk: Grouping, node: Node, position: int, ctx: PassContext) -> None:
    shape = _shape(node)
    for group in walk.candidates(node):
        if not _fits(group, shape):
            spaces = f"{shape_text(shape)}, the kernel over {shape_text(group.space)}"
            _refuse(walk, group, node, ctx, f"it runs over {spaces}")
            continue
        if _offer(walk, group, node, position, ctx):
            return
    walk.start("loop", shape, node, position)


def _fits(group: Group, shape: Shape) -> bool:
    if shape == group.space:
        return True
    rows = group.space[:-1]
    return group.family == "loop" and shape in ((*rows, 1), rows) and len(rows) > 0


def _offer(walk: Grouping, group: Group, node: Node, position: int, ctx: PassContext) -> bool:
    join = walk.try_join(group, node)
    if isinstance(join, str):
        _refuse(walk, group, node, ctx, join)
        return False
    rule = "fuse_epilogue" if group.family != "loop" else "fuse_loop"
    if group.family != "loop" or group.has_reduction:
        choice = f"{rule}:{walk.graph.name}.{group.anchor.name}"
        if ctx.choose(choice, ("fuse", "separate"), "fuse") == "separate":
            _refuse(walk, group, node, ctx, "the plan keeps them separate")
            return False
    walk.join(join, node, position)
    ctx.log.fired(
        rule, walk.graph.name, node.results[0].name, f"into {group.anchor.name}", _saved(join, node)
    )
    return True


def _reduce(walk: Grouping, node: Node, position: int, ctx: PassContext) -> None:
    operand = node.operands[0].tensor
    last = is_row_reduction(node)
    owner = walk.owner.get(node.operands[0].name)
    if owner is not None and owner.family == "loop" and owner.space == operand.shape:
        join = _join_row_reduction if last else _join_column_reduction
        if not owner.closed and join(walk, owner, node, position, ctx):
            owner.has_reduction = True
            return
    space = operand.shape if last else _shape(node)
    walk.start("loop", space, node, position).has_reduction = True


def _join_row_reduction(
    walk: Grouping, owner: Group, node: Node, position: int, ctx: PassContext
) -> bool:
    return _offer(walk, owner, node, position, ctx)


def _join_column_reduction(
    walk: Grouping, owner: Group, node: Node, position: int, ctx: PassContext
) -> bool:
    """A reduction over another axis than the last takes its elementwise producer in."""
    if owner.has_reduction or not walk.only_reader(owner, node):
        return False
    if not _offer(walk, owner, node, position, ctx):
        return False
    owner.space = _shape(node)
    return True


def _refuse(walk: Grouping, group: Group, node: Node, ctx: PassContext, reason: str) -> None:
    rule = "fuse_epilogue" if group.family != "loop" else "fuse_loop"
    anchor = node.results[0].name
    ctx.log.refused(rule, walk.graph.name, anchor, f"not into {group.anchor.name}: {reason}")


def _saved(join: Join, node: Node) -> int:
    names = join.group.names
    return sum(2 * most_bytes(o.type) for o in node.operands if o.name in names)


def _shape(node: Node) -> Shape:
    type_ = node.results[0].type
    return type_.shape if isinstance(type_, TensorType) else ()


def _wrap(walk: Grouping) -> Graph:
    """The graph with one node per group; dead lazy nodes are dropped."""
    read = {v.name for v in walk.graph.output_values}
    read.update(o.name for node in walk.alone.values() for o in node.operands)
    read.update(v.name for group in walk.groups for v in group.externals())
    placed = [(position, node) for position, node in walk.alone.items()]
    placed.extend((group.first, _region(walk, group, read)) for group in walk.groups)
    nodes = tuple(node for _, node in sorted(placed, key=lambda entry: entry[0]))
    graph = walk.graph
    return Graph(graph.name, graph.inputs, nodes, graph.outputs)


def _region(walk: Grouping, group: Group, read: set[Ident]) -> Node:
    outputs: list[Value] = [
        r
        for node in group.ordered()
        for r in node.results
        if r.name in read and walk.owner.get(r.name) is group
    ]
    body = extract(Ident("body"), group.ordered(), outputs)
    attrs = Attrs({"family": group.family, "body": body})
    return Node("fused", body.input_values, tuple(outputs), attrs)
