"""From the global view to the program of one rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from tilewright.dsl.errors import PlacementError
from tilewright.dsl.graph import Graph, Input, Node, Output, Value
from tilewright.dsl.ident import Ident
from tilewright.dsl.op import checked_attrs, get
from tilewright.dsl.placement import At, Local, Mesh, Partial, Placement
from tilewright.dsl.program import Program
from tilewright.dsl.shards import even_share
from tilewright.dsl.symbols import graph_symbols, lone_symbol
from tilewright.dsl.types import CacheType, TensorType, Type
from tilewright.passes.base import Pass, PassContext, Stage
from tilewright.passes.claim import EXACT, Claim
from tilewright.passes.expand_composites import ExpandComposites
from tilewright.passes.local_collectives import LocalCollectives


@dataclass(frozen=True, slots=True)
class Localize(Pass):
    """y: T @ placement = f(x) -> y: T of one rank's shape @ local = f(x), for the context's rank

    if every shard is even and no value lies on single coordinates only. Sharded dimensions are
    divided, attributes follow through `OpDef.localize`, collectives get their group's size and
    exchange dimension 0 (as the runtime does), `shard_slice` becomes a slice at the rank's place,
    and collectives over one rank vanish. Composites are opened first: their bodies may count
    elements of the global value. Inputs, outputs and parameters are the rank's: a caller passes
    shards, and the artifact of a rank stores its slices of the parameters. Exact: what the ranks
    hold is what the placements say. Programs over no mesh stay as they are.

    It runs before layout and fuse (see `STAGES`). Ranks' programs differ in the offsets of slices
    alone; `codegen.mesh` checks that their collectives agree.
    """

    name: ClassVar[str] = "localize"
    stage: ClassVar[Stage] = "localize"
    preserves: ClassVar[Claim] = EXACT

    def run(self, program: Program, ctx: PassContext) -> Program:
        mesh = program.mesh
        if not mesh.axes:
            return program
        if not 0 <= ctx.rank < mesh.ranks:
            raise PlacementError(
                f"the mesh {mesh} has no rank {ctx.rank}", fix=f"use 0..{mesh.ranks - 1}"
            )
        opened = ExpandComposites().run(program, ctx)
        at = mesh.coordinates(ctx.rank)
        graphs = [_LocalGraph(graph, mesh, at).build() for graph in opened.graphs]
        for graph in graphs:
            ctx.log.fired(self.name, graph.name, graph.name, f"for rank {ctx.rank} of {mesh}")
        return opened.with_graphs(graphs)


class _LocalGraph:
    """One graph under rewriting."""

    def __init__(self, graph: Graph, mesh: Mesh, at: Mapping[str, int]) -> None:
        self.graph = graph
        self.mesh = mesh
        self.nodes: list[Node] = []
        self.values: dict[Ident, Value] = {}
        self.collectives = LocalCollectives(graph, mesh, at)

    def build(self) -> Graph:
        graph = self.graph
        inputs = [self._input(entry) for entry in graph.inputs]
        for node in graph.nodes:
            if get(node.op).is_collective:
                (x,) = node.operands
                _check_even(node.result, self.mesh)
                made, local = self.collectives.lower(node, self.values[x.name])
                self.nodes.extend(made)
                self.values[node.result.name] = local
            else:
                self._node(node)
        outputs = tuple(
            Output(o.name, self.values[o.value.name], o.replaces) for o in graph.outputs
        )
        found = Graph(graph.name, tuple(inputs), tuple(self.nodes), outputs)
        _check_bound(found)
        return found

    def _input(self, entry: Input) -> Input:
        type_ = entry.value.type
        places = type_.placement.entries if isinstance(type_, TensorType) else ()
        if entry.role == "param" and any(isinstance(p, Partial | Local) for _, p in places):
            raise PlacementError(
                f"parameter {entry.path} is {type_}: the store holds one value, and cannot tell "
                "what each rank's is",
                fix="store it replicated or sharded",
            )
        own = type_ if entry.role == "symbol" else local_type(entry.value, self.mesh)
        value = Value(entry.value.name, own)
        self.values[value.name] = value
        return replace(entry, value=value)

    def _node(self, node: Node) -> None:
        op = get(node.op)
        wanted = [local_type(r, self.mesh) for r in node.results]
        operands = tuple(self.values[o.name] for o in node.operands)
        attrs = checked_attrs(op, op.localize(node.attrs, wanted))
        types = op.infer([o.type for o in operands], attrs, self.mesh)
        results: list[Value] = []
        for result, type_, expected in zip(node.results, types, wanted, strict=True):
            if _shape(type_) != _shape(expected):
                raise PlacementError(
                    f"%{result.name}: {node.op} makes {type_} of its shards, where {expected} is "
                    "one rank's part of the result",
                    fix="all_gather its operands first",
                )
            results.append(Value(result.name, type_))
            self.values[result.name] = results[-1]
        self.nodes.append(Node(node.op, operands, tuple(results), attrs))


def local_type(value: Value, mesh: Mesh) -> Type:
    """One rank's part of a value: its shape divided, and Local on every axis, which claims least.

    Raises PlacementError where ranks would differ in shape, or hold nothing.
    """
    type_ = value.type
    if isinstance(type_, CacheType):
        return type_
    _check_even(value, mesh)
    shape = tuple(even_share(type_, dim, mesh) for dim in range(type_.rank))
    places = tuple((axis, Local()) for axis, _ in mesh.axes)
    sizes = [size for size in shape if size is not None]
    return type_.with_shape(tuple(sizes)).with_placement(Placement(places))


def _check_even(value: Value, mesh: Mesh) -> None:
    """Raises PlacementError where a value has uneven shards or lies on single coordinates."""
    type_ = value.tensor
    for axis, place in type_.placement.entries:
        if isinstance(place, At):
            raise PlacementError(
                f"%{value.name} lies at coordinate {place.index} of mesh axis {axis} alone; so far "
                "every rank runs every operation",
                fix="broadcast it, or wait for pipeline stages, which give ranks programs of their "
                "own",
            )
    for dim, size in enumerate(type_.shape):
        if even_share(type_, dim, mesh) is None:
            axes = ", ".join(f"{a}={mesh.size(a)}" for a in type_.placement.sharding(dim))
            raise PlacementError(
                f"dimension {dim} of %{value.name}, of size {size}, is sharded over {axes}, which "
                "does not divide it",
                fix="pad it to a multiple, or declare its symbol with multiple_of; a later version "
                "will pad the last shards itself",
            )


def _check_bound(graph: Graph) -> None:
    """Raises PlacementError where a symbol was bound by a dimension that is now divided."""
    bound = {entry.path for entry in graph.by_role("symbol")}
    for entry in graph.by_role("input"):
        lone = (lone_symbol(size) for size in entry.value.tensor.shape)
        bound.update(symbol.name for symbol in lone if symbol is not None)
    for symbol in graph_symbols(graph):
        if symbol.name not in bound:
            raise PlacementError(
                f"symbol {symbol.name} of graph {graph.name} is bound by sharded dimensions alone: "
                "no rank sees its value",
                fix=f"make it an argument of the graph: {symbol.name}={symbol.name}",
            )


def _shape(type_: Type) -> object:
    return type_.shape if isinstance(type_, TensorType) else type_
