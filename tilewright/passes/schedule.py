"""Rewrites of communication by hand, one at a time and by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tilewright.dsl.errors import IllegalRewrite, ProgramError
from tilewright.dsl.graph import Graph, Node, producers
from tilewright.dsl.ident import Ident
from tilewright.dsl.program import Program
from tilewright.passes.as_slice import as_slice
from tilewright.passes.base import Refusal, Rewrite
from tilewright.passes.claim import Claim
from tilewright.passes.dce import without_dead
from tilewright.passes.editor import Editor
from tilewright.passes.overlap import Overlap
from tilewright.passes.reorder_all_gather import ReorderAllGather
from tilewright.passes.split_all_reduce import ANY_DIM, SplitAllReduce
from tilewright.passes.subgraph import sides
from tilewright.passes.validate import validate

_Found = Rewrite | Refusal | None


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
        step = SplitAllReduce(dim)
        owner, (node,) = self._find((value,), graph)
        return self._applied(
            step.name, step.preserves, owner, value, lambda editor: step.at(node, editor),
            f"{node.op} is no all-reduce",
        )  # fmt: skip

    def reorder(self, *values: str, graph: str | None = None) -> Schedule:
        """The operations that make `values`, in order, before the gathers they read."""
        step, found = ReorderAllGather(), self
        for value in values:
            owner, (node,) = found._find((value,), graph)
            found = found._applied(
                step.name, step.preserves, owner, value, _at(step, node),
                f"{node.op} reads no all-gather",
            )  # fmt: skip
        return found

    def overlap(
        self, *values: str, parts: int, dim: int | None = None, graph: str | None = None
    ) -> Schedule:
        """The operations that make `values` in so many parts, each part's collectives beside the
        next part's computation; the last value is cut along `dim`.
        """
        step = Overlap()
        owner, nodes = self._find(values, graph)
        return self._applied(
            step.name, step.preserves, owner, values[-1],
            lambda editor: step.at(nodes, editor, parts, dim), "",
        )  # fmt: skip

    def as_slice(self, state: str, axis: str) -> Schedule:
        """The state stored in slices along the mesh axis, where nobody reads more of it."""
        return Schedule(as_slice(self.program, state, axis))

    def dead(self, output: str, graph: str | None = None) -> Schedule:
        """Without an output that the caller does not need, and without what only it needed."""
        owners = [g for g in self._owners(graph) if any(o.name == output for o in g.outputs)]
        if len(owners) != 1:
            raise ProgramError(
                f"{len(owners) or 'no'} graphs return {output}", fix="name an output, and its graph"
            )
        (owner,) = owners
        kept = tuple(o for o in owner.outputs if o.name != output)
        if not kept:
            raise IllegalRewrite(f"dead: {output} is all that graph {owner.name} returns")
        if any(o.name == output and o.replaces is not None for o in owner.outputs):
            raise IllegalRewrite(f"dead: {output} takes the place of a state")
        return self._with(owner, without_dead(replace(owner, outputs=kept)))

    def _applied(
        self,
        rule: str,
        claim: Claim,
        owner: Graph,
        value: str,
        at: Callable[[Editor], _Found],
        nothing: str,
    ) -> Schedule:
        editor = Editor(owner, self.program.mesh)
        found = at(editor)
        if not isinstance(found, Rewrite):
            reason = nothing if found is None else found.reason
            raise IllegalRewrite(
                f"{rule} does not apply to %{value} of graph {owner.name}: {reason}"
            )
        validate(rule, claim, sides(found, editor), self.program.mesh)
        editor.apply(found)
        return self._with(owner, editor.freeze())

    def _with(self, owner: Graph, graph: Graph) -> Schedule:
        graphs = [graph if g is owner else g for g in self.program.graphs]
        return Schedule(self.program.with_graphs(graphs))

    def _owners(self, graph: str | None) -> tuple[Graph, ...]:
        return self.program.graphs if graph is None else (self.program.graph(graph),)

    def _find(self, values: tuple[str, ...], graph: str | None) -> tuple[Graph, list[Node]]:
        """The graph that has all values, and the nodes that make them, in its order."""
        if not values:
            raise ProgramError("no value was named")
        owners = self._owners(graph)
        found = [g for g in owners if all(Ident(v) in producers(g) for v in values)]
        names = ", ".join(g.name for g in owners)
        if len(found) == 1:
            makers = producers(found[0])
            wanted = {id(makers[Ident(v)]) for v in values}
            return found[0], [node for node in found[0].nodes if id(node) in wanted]
        if found:
            raise ProgramError(
                f"%{values[0]} stands in several graphs: {names}", fix="pass graph= as well"
            )
        missing = next(
            (v for v in values if all(Ident(v) not in producers(g) for g in owners)), values[0]
        )
        raise ProgramError(f"no operation of graph {names} makes %{missing}")


def _at(step: ReorderAllGather, node: Node) -> Callable[[Editor], _Found]:
    return lambda editor: step.at(node, editor)
