"""A state of which every rank needs its slice only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tilewright.dsl.errors import CompilerBug, IllegalRewrite
from tilewright.dsl.graph import Graph, Node, Output, Value, producers, uses
from tilewright.dsl.ident import Ident
from tilewright.dsl.placement import Replicate, Shard
from tilewright.dsl.program import Program
from tilewright.dsl.types import TensorType
from tilewright.passes.dce import without_dead
from tilewright.passes.sharding.erase import erased


def as_slice(program: Program, state: str, axis: str) -> Program:
    """s' = all_gather(f(shard_slice(s, dim)), dim) -> s' = f(s), for a state s that is now sharded

    if, in all graphs, every use of the state is its slice along one dimension of the mesh axis, and
    what takes its place is gathered along that dimension. A rank stores its part alone, and nothing
    is gathered. Exact: collectives and placements are all that changes, which is checked.

    Source: CoCoNet's asSlice (Jangda et al., ASPLOS 2022); ZeRO-1 (Rajbhandari et al., 2020).
    Raises IllegalRewrite with the condition that does not hold.
    """
    dims = {dim for graph in program.graphs for dim in _dims(graph, state, axis)}
    if len(dims) != 1:
        reason = "is cut along several dimensions" if dims else "is used nowhere"
        raise IllegalRewrite(f"as_slice does not apply: state {state} {reason}")
    (dim,) = dims
    graphs = [_sliced(graph, state, axis, dim) for graph in program.graphs]
    for before, after in zip(program.graphs, graphs, strict=True):
        if erased(without_dead(before), axis) != erased(after, axis):
            raise CompilerBug(f"as_slice changed graph {before.name} beyond its placements")
    return program.with_graphs(graphs)


def _dims(graph: Graph, state: str, axis: str) -> Iterator[int]:
    """The dimensions along which the state is cut in a graph."""
    for entry in graph.by_role("state"):
        if entry.path == state:
            yield from _cuts(graph, entry.value, state, axis)


def _cuts(graph: Graph, value: Value, state: str, axis: str) -> Iterator[int]:
    place = value.tensor.placement.on(axis) if isinstance(value.type, TensorType) else None
    if not isinstance(place, Replicate):
        raise _refused(state, f"it is not replicated on mesh axis {axis}, but {place}")
    for node in uses(graph).get(value.name, []):
        if node.op != "shard_slice" or node.attrs.str("axis") != axis:
            raise _refused(state, f"{node.op} of graph {graph.name} reads all of it")
        yield node.attrs.int("dim")
    for output in graph.outputs:
        if output.replaces == state and output.value != value:
            yield _gathered(graph, output, state, axis).attrs.int("dim")
        elif output.value == value and output.replaces != state:
            raise _refused(state, f"graph {graph.name} returns it")


def _gathered(graph: Graph, output: Output, state: str, axis: str) -> Node:
    node = producers(graph).get(output.value.name)
    if node is None or node.op != "all_gather" or node.attrs.str("axis") != axis:
        made = "an input" if node is None else node.op
        raise _refused(state, f"what takes its place in {graph.name} is made by {made}")
    return node


def _refused(state: str, reason: str) -> IllegalRewrite:
    return IllegalRewrite(f"as_slice does not apply to state {state}: {reason}")


def _sliced(graph: Graph, state: str, axis: str, dim: int) -> Graph:
    """The graph over the sharded state; gathers stay where others read them."""
    forward: dict[Ident, Value] = {}
    inputs = list(graph.inputs)
    for index, entry in enumerate(inputs):
        if entry.role == "state" and entry.path == state:
            type_ = entry.value.tensor
            placed = type_.with_placement(type_.placement.replace(axis, Shard(dim)))
            value = Value(entry.value.name, placed)
            inputs[index] = replace(entry, value=value)
            for node in uses(graph).get(value.name, []):
                forward[node.result.name] = value
            forward[value.name] = value
    nodes = [_rewired(n, forward) for n in graph.nodes if n.results[0].name not in forward]
    outputs = [
        replace(o, value=_gathered(graph, o, state, axis).operands[0])
        if o.replaces == state and o.value.name not in forward
        else replace(o, value=forward.get(o.value.name, o.value))
        for o in graph.outputs
    ]
    return without_dead(Graph(graph.name, tuple(inputs), tuple(nodes), tuple(outputs)))


def _rewired(node: Node, forward: dict[Ident, Value]) -> Node:
    return replace(node, operands=tuple(forward.get(v.name, v) for v in node.operands))
