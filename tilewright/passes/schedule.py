"""Rewrites of communication by hand, one at a time and by name."""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.dsl.errors import IllegalRewrite, ProgramError
from tilewright.dsl.graph import Graph, Node, producers
from tilewright.dsl.ident import Ident
from tilewright.dsl.program import Program
from tilewright.passes.base import Rewrite
from tilewright.passes.editor import Editor
from tilewright.passes.reorder_all_gather import ReorderAllGather
from tilewright.passes.split_all_reduce import ANY_DIM, SplitAllReduce
from tilewright.passes.subgraph import sides
from tilewright.passes.validate import validate

_WANTS = {
    SplitAllReduce.name: "is no all-reduce",
    ReorderAllGather.name: "reads no all-gather",
}


@dataclass(frozen=True, slots=True)
class Schedule:
    """A program in the global view, and the rewrites that the user orders.

    `Schedule(program).split("sum").reorder("biased", "out").program`: values keep their names. Each
    method returns a new schedule, checks the rewrite as a pass does, and raises IllegalRewrite with
    the side condition that does not hold. `graph` is needed where several graphs have the value.
    """

    program: Program

    def split(self, value: str, dim: int = ANY_DIM, graph: str | None = None) -> Schedule:
        """The all-reduce that makes `value` as a reduce-scatter and an all-gather along `dim`."""
        return self._applied(SplitAllReduce(dim), value, graph)

    def reorder(self, *values: str, graph: str | None = None) -> Schedule:
        """The elementwise operations that make `values`, in order, before the gathers they read."""
        found = self
        for value in values:
            found = found._applied(ReorderAllGather(), value, graph)
        return found

    def _applied(
        self, step: SplitAllReduce | ReorderAllGather, value: str, graph: str | None
    ) -> Schedule:
        owner, node = self._find(value, graph)
        editor = Editor(owner, self.program.mesh)
        found = step.at(node, editor)
        if not isinstance(found, Rewrite):
            reason = f"{node.op} {_WANTS[step.name]}" if found is None else found.reason
            raise IllegalRewrite(
                f"{step.name} does not apply to %{value} of graph {owner.name}: {reason}"
            )
        validate(step.name, step.preserves, sides(found, editor), self.program.mesh)
        editor.apply(found)
        graphs = [editor.freeze() if g is owner else g for g in self.program.graphs]
        return Schedule(self.program.with_graphs(graphs))

    def _find(self, value: str, graph: str | None) -> tuple[Graph, Node]:
        owners = self.program.graphs if graph is None else (self.program.graph(graph),)
        found = [(g, node) for g in owners if (node := producers(g).get(Ident(value))) is not None]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(g.name for g, _ in found)
            raise ProgramError(
                f"%{value} stands in several graphs: {names}", fix="pass graph= as well"
            )
        names = ", ".join(g.name for g in owners)
        raise ProgramError(f"no operation of graph {names} makes %{value}")
