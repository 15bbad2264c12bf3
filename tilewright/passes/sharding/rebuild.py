"""A graph with the chosen placements on one axis, and the collectives between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tilewright.dsl.attrs import Attr
from tilewright.dsl.errors import CompilerBug
from tilewright.dsl.graph import Graph, Node, Output, Value
from tilewright.dsl.ident import Ident
from tilewright.dsl.op import checked_attrs, get
from tilewright.dsl.placement import AxisPlacement, Mesh, Partial, Shard
from tilewright.dsl.types import TensorType
from tilewright.passes.sharding.options import Option, movable, place_on


@dataclass(frozen=True, slots=True)
class Moved:
    """A collective that was put in: what it makes."""

    node: Node

    def __str__(self) -> str:
        (x,) = self.node.operands
        return f"{self.node.op} over {self.node.attrs.str('axis')} of {x.type}"


class Rebuilt:
    """One graph under construction."""

    def __init__(self, graph: Graph, mesh: Mesh, axis: str) -> None:
        self._graph = graph
        self._mesh = mesh
        self._axis = axis
        self._values: dict[Ident, Value] = {}
        self._moved: dict[tuple[Ident, AxisPlacement], Value] = {}
        self._taken = {v.name for v in graph.input_values}
        self._taken.update(r.name for node in graph.nodes for r in node.results)
        self._nodes: list[Node] = []
        self.moves: list[Moved] = []

    def build(
        self,
        inputs: Mapping[Ident, AxisPlacement],
        nodes: Sequence[Option],
        outputs: Sequence[AxisPlacement],
    ) -> Graph:
        """The graph with inputs, nodes and outputs as chosen."""
        graph = self._graph
        entries = [
            replace(e, value=self._placed(e.value, inputs.get(e.value.name))) for e in graph.inputs
        ]
        for node, option in zip(graph.nodes, nodes, strict=True):
            self._node(node, option)
        returned = [
            Output(o.name, self._brought(o.value, place), o.replaces)
            for o, place in zip(graph.outputs, outputs, strict=True)
        ]
        return Graph(graph.name, tuple(entries), tuple(self._nodes), tuple(returned))

    def _placed(self, value: Value, place: AxisPlacement | None) -> Value:
        if place is not None and isinstance(value.type, TensorType):
            placement = value.type.placement.replace(self._axis, place)
            value = Value(value.name, value.type.with_placement(placement))
        self._values[value.name] = value
        return value

    def _node(self, node: Node, option: Option) -> None:
        operands = tuple(map(self._brought, node.operands, option.operands))
        types = get(node.op).infer([o.type for o in operands], node.attrs, self._mesh)
        results = tuple(Value(r.name, t) for r, t in zip(node.results, types, strict=True))
        for result, place in zip(results, option.results, strict=True):
            if place_on(result.type, self._axis) != place:
                raise CompilerBug(f"%{result.name} should be {place}, and is {result.type}")
            self._values[result.name] = result
        self._nodes.append(Node(node.op, operands, results, node.attrs))

    def _brought(self, value: Value, place: AxisPlacement) -> Value:
        """The value in a placement, moved there once."""
        made = self._values[value.name]
        if not isinstance(made.type, TensorType):
            return made
        source = made.type.placement.on(self._axis)
        op = movable(source, place)
        if op is None:
            raise CompilerBug(f"%{value.name} cannot be brought from {source} to {place}")
        if not op:
            return made
        key = value.name, place
        if key not in self._moved:
            self._moved[key] = self._move(op, made, source, place)
        return self._moved[key]

    def _move(self, op: str, x: Value, source: AxisPlacement, target: AxisPlacement) -> Value:
        attrs: dict[str, Attr] = {"axis": self._axis}
        if isinstance(source, Partial):
            attrs["reduction"] = source.op
        match op, source, target:
            case "all_to_all", Shard(before), Shard(after):
                attrs |= {"from_dim": before, "to_dim": after}
            case (("reduce_scatter" | "shard_slice"), _, Shard(dim)):
                attrs["dim"] = dim
            case "all_gather", Shard(dim), _:
                attrs["dim"] = dim
            case _:
                pass
        checked = checked_attrs(get(op), attrs)
        (type_,) = get(op).infer([x.type], checked, self._mesh)
        node = Node(op, (x,), (Value(self._fresh(x.name), type_),), checked)
        self._nodes.append(node)
        self.moves.append(Moved(node))
        return node.result

    def _fresh(self, like: Ident) -> Ident:
        number = 0
        while (name := f"{like}_{self._axis}{number or ''}") in self._taken:
            number += 1
        self._taken.add(Ident(name))
        return Ident(name)
