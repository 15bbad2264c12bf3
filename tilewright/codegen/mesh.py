"""What lowering does for programs of one rank of a mesh: shards of weights, and early posts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilewright.codegen.weights import Reader
from tilewright.dsl.attrs import Attr, Attrs
from tilewright.dsl.errors import WeightShapeMismatch
from tilewright.dsl.graph import Graph, Node, Value, map_values, producers, uses
from tilewright.dsl.ident import Ident
from tilewright.dsl.op import get
from tilewright.dsl.placement import Placement
from tilewright.dsl.program import Program
from tilewright.dsl.shards import pieces
from tilewright.dsl.types import CacheType, TensorType


class ShardReader:
    """The rank's slices of the parameters, out of a reader of whole ones.

    program: in the global view; its parameters are replicated or sharded (`localize` sees to it).
    """

    def __init__(self, reader: Reader, program: Program, rank: int) -> None:
        self._reader = reader
        self._mesh = program.mesh
        self._at: Mapping[str, int] = program.mesh.coordinates(rank)
        self._types = {str(declared.path): declared.type for declared in program.params}

    def read(self, name: str) -> NDArray[Any]:
        """One rank's slice. Raises WeightShapeMismatch where the whole has another shape."""
        whole = self._reader.read(name)
        type_ = self._types[name]
        assert isinstance(type_, TensorType)
        if whole.shape != type_.shape:
            raise WeightShapeMismatch(
                f"the weight {name} has shape {list(whole.shape)}, expected {list(type_.shape)}"
            )
        cut = pieces(type_, self._mesh, self._at)
        return np.ascontiguousarray(whole[tuple(slice(*piece) for piece in cut)])


def for_lowering(graph: Graph) -> Graph:
    """The graph without placements, which mean nothing to kernels, and with collectives early.

    A collective stands right behind what makes its operand: it is posted there, and waited for
    where its result, or the memory it uses, is touched. All ranks keep one order of posts, since it
    follows from the nodes alone.
    """
    if any(get(node.op).is_collective for node in graph.nodes):
        graph = _with_early_posts(graph)
    return _unplaced(graph) if _is_placed(graph) else graph


def _with_early_posts(graph: Graph) -> Graph:
    made = producers(graph)
    moving = _moving(graph, made)
    behind: dict[Ident | None, list[Node]] = {}
    for node in graph.nodes:
        if id(node) in moving:
            source = next((o.name for o in node.operands if o.name in made), None)
            behind.setdefault(source, []).append(node)
    staying = [node for node in graph.nodes if id(node) not in moving]
    ordered: list[Node] = []
    stack = [*reversed(staying), *reversed(behind.get(None, []))]
    while stack:
        node = stack.pop()
        ordered.append(node)
        for result in reversed(node.results):
            stack.extend(reversed(behind.get(result.name, [])))
    return Graph(graph.name, graph.inputs, tuple(ordered), graph.outputs)


def _moving(graph: Graph, made: Mapping[Ident, Node]) -> set[int]:
    """Collectives, and nodes that serve them alone, need one node at most, and wait for none."""
    readers = uses(graph)
    returned = {value.name for value in graph.output_values}
    found: set[int] = set()
    for node in reversed(graph.nodes):
        if get(node.op).is_collective:
            found.add(id(node))
            continue
        names = {result.name for result in node.results}
        serves = not names & returned and all(
            id(reader) in found for name in names for reader in readers.get(name, ())
        )
        sources = {o.name: made[o.name] for o in node.operands if o.name in made}
        waits = any(get(source.op).is_collective for source in sources.values())
        is_pure = not any(isinstance(v.type, CacheType) for v in node.operands)
        if serves and is_pure and not waits and len(sources) <= 1:
            found.add(id(node))
    return found


def _is_placed(graph: Graph) -> bool:
    values = [*graph.input_values, *(r for node in graph.nodes for r in node.results)]
    return any(_place(value) for value in values)


def _place(value: Value) -> Placement | None:
    return value.type.placement if isinstance(value.type, TensorType) else None


def _unplaced(graph: Graph) -> Graph:
    """The graph and its regions' bodies over types without placements."""

    def value(v: Value) -> Value:
        return Value(v.name, v.tensor.with_placement(Placement())) if _place(v) else v

    def attrs(found: Attrs) -> Attrs:
        if not any(isinstance(a, Graph) for a in found.values()):
            return found
        bare: dict[str, Attr] = {
            name: _unplaced(a) if isinstance(a, Graph) else a for name, a in found.items()
        }
        return Attrs(bare)

    return map_values(graph, value, attrs)
