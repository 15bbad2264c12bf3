"""Which nodes become one kernel: the groups that `fuse_regions` wraps.

Greedy, in graph order. A group grows from an anchor (a matmul, an attention, a reduction, an
elementwise node) by nodes that read its values. Everything a group reads from outside exists before
its first node, so a group can stand at its first node's place and no cycle can arise. Leaves and
data movement are lazy: each consumer recomputes them in its own loops; what no consumer can pull in
is materialised by a loop of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Literal

from tilewright.dsl.graph import Graph, Node, Value, uses
from tilewright.dsl.ident import Ident
from tilewright.dsl.op import get
from tilewright.dsl.types import Shape, TensorType

Family = Literal["loop", "matmul", "grouped", "attention", "scatter"]
MAX_OUTPUTS = 4


@dataclass(eq=False)
class Group:
    """Nodes of one kernel, in graph order, and the index space that they share."""

    family: Family
    space: Shape
    first: int
    nodes: dict[int, Node] = field(default_factory=dict[int, Node])
    names: set[Ident] = field(default_factory=set[Ident])
    """All values made inside."""
    leaving: set[Ident] = field(default_factory=set[Ident])
    """Those of them that the graph returns or a node outside, met so far, reads as they are."""
    has_reduction: bool = False
    closed: bool = False
    """True where nothing may join any more."""

    @property
    def anchor(self) -> Value:
        """The value that names the group in choices and logs."""
        return next(iter(self.nodes.values())).results[0]

    def externals(self) -> Iterator[Value]:
        """Values read from outside."""
        for node in self.nodes.values():
            for operand in node.operands:
                if operand.name not in self.names:
                    yield operand

    def ordered(self) -> list[Node]:
        """The nodes in graph order."""
        return [self.nodes[position] for position in sorted(self.nodes)]


@dataclass(frozen=True, slots=True)
class Join:
    """A node joins a group, together with lazy nodes it needs there and groups it merges."""

    group: Group
    pulled: dict[int, Node]
    merged: tuple[Group, ...] = ()


class Grouping:
    """The state of one greedy walk over a graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.groups: dict[Group, None] = {}
        """In the order in which they were started."""
        self.alone: dict[int, Node] = {}
        self.position: dict[Ident, int] = {v.name: -1 for v in graph.input_values}
        self.owner: dict[Ident, Group] = {}
        self.lazy: dict[Ident, Node] = {}
        self._uses = uses(graph)
        self._returned = {v.name for v in graph.output_values}

    def place(self, node: Node, position: int) -> None:
        """Records where a node's results are defined, and what it reads of other groups."""
        for result in node.results:
            self.position[result.name] = position
        if self._is_lazy(node):
            return
        for operand in node.operands:
            group = self.owner.get(operand.name)
            if group is not None and node.results[0].name not in group.names:
                group.leaving.add(operand.name)

    def start(self, family: Family, space: Shape, node: Node, position: int) -> Group:
        """A new group around `node`, with the lazy nodes that it can pull in."""
        group = Group(family, space, position)
        pulled = self.pull(node, position)
        self._add(group, {**(pulled or {}), position: node})
        self.groups[group] = None
        return group

    def join(self, join: Join, node: Node, position: int) -> None:
        """Carries a join out."""
        group = join.group
        for other in join.merged:
            group.first = min(group.first, other.first)
            group.has_reduction |= other.has_reduction
            del self.groups[other]
            self._add(group, other.nodes)
        self._add(group, {**join.pulled, position: node})
        if join.merged:
            group.leaving = self._still_leaving((group, *join.merged), group.names)

    def _add(self, group: Group, nodes: dict[int, Node]) -> None:
        group.nodes.update(nodes)
        for node in nodes.values():
            for result in node.results:
                group.names.add(result.name)
                if result.name not in self.lazy:
                    self.owner[result.name] = group
                    if result.name in self._returned:
                        group.leaving.add(result.name)

    def pull(
        self, node: Node, before: int, inside: AbstractSet[Ident] = frozenset()
    ) -> dict[int, Node] | None:
        """The lazy nodes that `node` needs, if all else it reads exists before a position.

        `inside` are values of the group it would join. None where something comes too late.
        """
        found: dict[int, Node] = {}
        stack = list(node.operands)
        while stack:
            value = stack.pop()
            lazy = self.lazy.get(value.name)
            if value.name in inside:
                continue
            if lazy is not None:
                found[self.position[value.name]] = lazy
                stack.extend(lazy.operands)
            elif self.position[value.name] >= before:
                return None
        return found

    def candidates(self, node: Node) -> list[Group]:
        """Groups that own an operand, the most valuable to extend first."""
        found = dict.fromkeys(self.owner[o.name] for o in node.operands if o.name in self.owner)
        order = {"matmul": 0, "grouped": 0, "attention": 1, "loop": 2, "scatter": 3}
        return sorted(found, key=lambda g: (order[g.family], -g.first))

    def try_join(self, group: Group, node: Node) -> Join | str:
        """How `node` could join, or why it cannot."""
        if group.closed:
            return "its producer's kernel takes no followers"
        pulled = self.pull(node, group.first, group.names)
        if pulled is not None:
            return self._limited(Join(group, pulled), node)
        return self._try_merge(group, node)

    def _try_merge(self, group: Group, node: Node) -> Join | str:
        """Loops over one space that meet in `node` become one, if nothing comes too late."""
        others = [
            g
            for g in self.candidates(node)
            if g is not group and g.family == "loop" and not g.closed and g.space == group.space
        ]
        late = "an operand is computed after the kernel it would join has begun"
        if group.family != "loop" or not others:
            return late
        first = min(g.first for g in (group, *others))
        inside = group.names.union(*(g.names for g in others))
        pulled = self.pull(node, first, inside)
        outside = (v for g in (group, *others) for v in g.externals() if v.name not in inside)
        if pulled is None or any(self.position[v.name] >= first for v in outside):
            return late
        return self._limited(Join(group, pulled, tuple(others)), node)

    def _limited(self, join: Join, node: Node) -> Join | str:
        leaving = join.group.leaving
        if join.merged:
            groups = (join.group, *join.merged)
            inside = {r.name for r in node.results}.union(*(g.names for g in groups))
            leaving = self._still_leaving(groups, inside)
        returned = [r for r in node.results if r.name in self._returned]
        if len(leaving) + len(returned) > MAX_OUTPUTS:
            return f"the kernel would have more than {MAX_OUTPUTS} results so far"
        return join

    def _still_leaving(self, groups: Sequence[Group], inside: AbstractSet[Ident]) -> set[Ident]:
        """What leaves these groups and is read, of the nodes met so far, by some not `inside`."""
        return {name for g in groups for name in g.leaving if self._leaves(name, inside)}

    def _leaves(self, name: Ident, inside: AbstractSet[Ident]) -> bool:
        if name in self._returned:
            return True
        for reader in self._uses.get(name, ()):
            made = reader.results[0].name
            if made not in self.position:
                return False  # readers come in graph order: none has been met from here on
            if made not in inside and not self._is_lazy(reader):
                return True
        return False

    def _is_lazy(self, node: Node) -> bool:
        return node.results[0].name in self.lazy

    def is_consumed(self, state: Value) -> bool:
        """True where some node takes the state over."""
        return any(
            reader.operands[place].name == state.name
            for reader in self._uses.get(state.name, ())
            for place in get(reader.op).consumes
        )

    def only_reader(self, group: Group, node: Node) -> bool:
        """True where every value that leaves `group` goes to `node` alone."""
        for name in group.names - self.lazy.keys():
            if name in self._returned:
                return False
            for reader in self._uses.get(name, ()):
                if reader is not node and reader.results[0].name not in group.names:
                    return False
        return True

    def finish(self) -> None:
        """Materialises the lazy values that somebody needs as a buffer."""
        stack = [v.name for v in self.graph.output_values]
        stack.extend(o.name for node in self.alone.values() for o in node.operands)
        stack.extend(v.name for group in self.groups for v in group.externals())
        while stack:
            name = stack.pop()
            node = self.lazy.get(name)
            if node is None or self.owner.get(name) is not None:
                continue
            space = _space(node)
            group = self.start("loop", space, node, self.position[name])
            for result in node.results:
                self.owner[result.name] = group
            stack.extend(v.name for v in group.externals())


def _space(node: Node) -> Shape:
    type_ = node.results[0].type
    return type_.shape if isinstance(type_, TensorType) else ()
