"""From a program for one device and a few hints to one whose every value has its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tilewright.dsl.attrs import Attrs
from tilewright.dsl.errors import CompilerBug, PlacementError
from tilewright.dsl.graph import Graph, Value
from tilewright.dsl.ident import Ident
from tilewright.dsl.op import get
from tilewright.dsl.placement import REPLICATE, AxisPlacement, Mesh, Placement
from tilewright.dsl.program import Program
from tilewright.dsl.types import TensorType, Type
from tilewright.passes.base import Pass, PassContext, Stage
from tilewright.passes.claim import REASSOCIATES, Claim
from tilewright.passes.sharding.axis import AxisSharding
from tilewright.passes.sharding.hints import Hints, read_hints
from tilewright.passes.sharding.options import place_on


@dataclass(frozen=True, slots=True)
class Shard(Pass):
    """y = f(x, w) -> y = g(x @ placement, w @ placement) with collectives between

    if the hints (see `sharding.hints`) can be met: each axis of the mesh that they speak of is
    placed in turn, the last first, at least cost of work and messages. Only collectives and
    placements are new, which is checked: without them the old graph is left. Reassociates, since
    sums over ranks are taken in parts. A parameter that a hint leaves free is a choice
    `shard:<axis>.<path>`: `solve`, `replicate` or one of its dimensions, `shard(0)` ...
    """

    hints: str = ""

    name: ClassVar[str] = "shard"
    stage: ClassVar[Stage] = "semantic"
    preserves: ClassVar[Claim] = REASSOCIATES

    def run(self, program: Program, ctx: PassContext) -> Program:
        hints = read_hints(self.hints, program.mesh)
        for axis, _ in reversed(program.mesh.axes):
            if hints.on(axis):
                program = self._on_axis(program, axis, hints, ctx)
        return program

    def _on_axis(self, program: Program, axis: Ident, hints: Hints, ctx: PassContext) -> Program:
        _check_unplaced(program, axis)
        sharding = AxisSharding(program, axis, hints, ctx)
        graphs = sharding.graphs()
        for before, after in zip(program.graphs, graphs, strict=True):
            if _without(after, program.mesh, axis) != _without(before, program.mesh, axis):
                raise CompilerBug(f"shard changed graph {before.name} beyond its placements")
        for graph, move in sharding.moves:
            ctx.log.fired(self.name, graph, move.node.result.name, str(move))
        return program.with_graphs(graphs)


def _check_unplaced(program: Program, axis: Ident) -> None:
    """Raises PlacementError where the program says itself where values lie on an axis."""
    for graph in program.graphs:
        values = [*graph.input_values, *(r for node in graph.nodes for r in node.results)]
        for value in values:
            if (place := place_on(value.type, axis)) != REPLICATE:
                raise PlacementError(
                    f"%{value.name} of graph {graph.name} lies at {place} on mesh axis {axis} "
                    "already",
                    fix=f"drop the placements of the program, or the hints about {axis}",
                )


_Line = tuple[str, tuple[str, ...], tuple[tuple[str, Type], ...], Attrs]


def _without(graph: Graph, mesh: Mesh, axis: str) -> tuple[Sequence[object], Sequence[_Line]]:
    """The graph without collectives and placements on one axis, to be compared."""
    forward: dict[Ident, Ident] = {}

    def name(value: Value) -> Ident:
        return forward.get(value.name, value.name)

    def bare(value: Value) -> tuple[str, Type]:
        return value.name, _bare(value.type, axis)

    lines: list[_Line] = []
    for node in graph.nodes:
        if get(node.op).is_collective and node.attrs.str("axis") == axis:
            forward[node.result.name] = name(node.operands[0])
        else:
            operands = tuple(map(name, node.operands))
            lines.append((node.op, operands, tuple(map(bare, node.results)), node.attrs))
    ends = [*(bare(v) for v in graph.input_values), *(name(v) for v in graph.output_values)]
    return ends, lines


def _bare(type_: Type, axis: str) -> Type:
    if not isinstance(type_, TensorType):
        return type_
    rest: tuple[tuple[Ident, AxisPlacement], ...] = tuple(
        entry for entry in type_.placement.entries if entry[0] != axis
    )
    return type_.with_placement(Placement(rest))
