"""From a program for one device and a few hints to one whose every value has its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tilewright.dsl.errors import CompilerBug, PlacementError
from tilewright.dsl.ident import Ident
from tilewright.dsl.placement import REPLICATE
from tilewright.dsl.program import Program
from tilewright.passes.base import Pass, PassContext, Stage
from tilewright.passes.claim import REASSOCIATES, Claim
from tilewright.passes.sharding.axis import AxisSharding
from tilewright.passes.sharding.erase import erased
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
            if erased(after, axis) != erased(before, axis):
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
