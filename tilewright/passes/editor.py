"""A graph under rewriting: linked nodes, fresh names, and splicing."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace

from tilewright.dsl.attrs import EMPTY, Attr
from tilewright.dsl.errors import CompilerBug, TilewrightError
from tilewright.dsl.graph import Graph, Node, Value
from tilewright.dsl.ident import Ident
from tilewright.dsl.op import checked_attrs, get
from tilewright.dsl.placement import Mesh
from tilewright.passes.base import Rewrite


class Editor:
    """A graph being rewritten: who defines and who reads each value, and fresh names."""

    def __init__(self, graph: Graph, mesh: Mesh) -> None:
        self.graph = graph
        self.mesh = mesh
        self.slots: list[list[Node]] = [[node] for node in graph.nodes]
        self._original: list[Node | None] = list(graph.nodes)
        self._slot_of: dict[int, int] = {id(node): i for i, node in enumerate(graph.nodes)}
        self._producer: dict[Ident, Node] = {}
        self._users: dict[Ident, dict[int, Node]] = {}
        self._outputs = {o.value.name for o in graph.outputs}
        self._forward: dict[Ident, Value] = {}
        self._taken = {v.name for v in graph.input_values}
        self._next = 0
        for node in graph.nodes:
            self._link(node)

    def _link(self, node: Node) -> None:
        for result in node.results:
            self._producer[result.name] = node
            self._taken.add(result.name)
        for operand in node.operands:
            read = self.resolve(operand) if self._forward else operand
            readers = self._users.get(read.name)
            if readers is None:
                self._users[read.name] = {id(node): node}
            else:
                readers[id(node)] = node

    def _unlink(self, node: Node) -> None:
        for result in node.results:
            if self._producer.get(result.name) is node:
                del self._producer[result.name]
        for operand in node.operands:
            self._users[self.resolve(operand).name].pop(id(node), None)

    def producer(self, value: Value) -> Node | None:
        """The node that defines a value; None for inputs."""
        return self._producer.get(self.resolve(value).name)

    def users(self, value: Value) -> Sequence[Node]:
        """The nodes that read a value."""
        return tuple(self._users.get(value.name, {}).values())

    def used_outside(self, value: Value, inside: Container[int]) -> bool:
        """True where the graph returns the value, or a node whose id is not `inside` reads it."""
        readers = self._users.get(value.name, {})
        return self.is_output(value) or any(reader not in inside for reader in readers)

    def is_output(self, value: Value) -> bool:
        """True where the graph returns the value."""
        return value.name in self._outputs

    def single_use(self, value: Value) -> bool:
        """True where exactly one node reads the value and the graph does not return it."""
        return len(self._users.get(value.name, {})) == 1 and not self.is_output(value)

    def resolve(self, value: Value) -> Value:
        """What a value has been replaced by."""
        while (found := self._forward.get(value.name)) is not None:
            value = found
        return value

    def fresh(self, like: Value) -> Ident:
        """A new name that tells where it comes from."""
        while (name := f"{like.name}_{self._next}") in self._taken:
            self._next += 1
        self._taken.add(Ident(name))
        return Ident(name)

    def node(
        self, op: str, *operands: Value, like: Value, attrs: Mapping[str, Attr] | None = None
    ) -> Node:
        """A node whose fresh results are named after `like`; types are inferred."""
        checked = checked_attrs(get(op), attrs or EMPTY)
        types = get(op).infer([o.type for o in operands], checked, self.mesh)
        results = tuple(Value(self.fresh(like), type_) for type_ in types)
        return Node(op, operands, results, checked)

    def defining(
        self, op: str, *operands: Value, result: Value, attrs: Mapping[str, Attr] | None = None
    ) -> Node:
        """A node that defines an existing value anew. Raises CompilerBug if the type changes."""
        checked = checked_attrs(get(op), attrs or EMPTY)
        (type_,) = get(op).infer([o.type for o in operands], checked, self.mesh)
        if type_ != result.type:
            raise CompilerBug(f"{op} for %{result.name} gives {type_}, not {result.type}")
        return Node(op, operands, (result,), checked)

    def try_defining(
        self, op: str, *operands: Value, result: Value, attrs: Mapping[str, Attr] | None = None
    ) -> Node | None:
        """As `defining`; None where the operation refuses the operands or gives another type."""
        try:
            return self.defining(op, *operands, result=result, attrs=attrs)
        except TilewrightError:
            return None

    def position(self, node: Node) -> tuple[int, int]:
        """Where a node stands: sorts nodes into the order of evaluation."""
        slot = self._slot_of[id(node)]
        return slot, next(i for i, n in enumerate(self.slots[slot]) if n is node)

    def live(self) -> Iterator[Node]:
        """The nodes of the original order that still stand, with operands resolved.

        Nodes that a rewrite puts in are not visited in the same sweep.
        """
        for index in range(len(self.graph.nodes)):
            node = self._original[index]
            if node is not None:
                yield self._rewire(node, index)

    def _rewire(self, node: Node, index: int) -> Node:
        rewired = self._resolved(node)
        if rewired is node:
            return node
        self._original[index] = rewired
        self._replace(index, node, rewired)
        return rewired

    def _replace(self, index: int, old: Node, new: Node) -> None:
        self.slots[index] = [new if n is old else n for n in self.slots[index]]
        self._unlink(old)
        del self._slot_of[id(old)]
        self._link(new)
        self._slot_of[id(new)] = index

    def apply(self, rewrite: Rewrite) -> None:
        """Splices a rewrite in. Nodes that stand on both sides stay where they are."""
        where = [self._slot_of[id(node)] for node in rewrite.before]
        kept = {id(n) for n in rewrite.after} & {id(n) for n in rewrite.before}
        for node, index in zip(rewrite.before, where, strict=True):
            if id(node) in kept:
                continue
            self.slots[index] = [n for n in self.slots[index] if n is not node]
            self._unlink(node)
            del self._slot_of[id(node)]
            if self._original[index] is node:
                self._original[index] = None
        target = min(where) if rewrite.early else max(where)
        for node in rewrite.after:
            if id(node) not in kept:
                self.slots[target].append(node)
                self._slot_of[id(node)] = target
                self._link(node)
        for name, value in rewrite.forward.items():
            self._move_uses(name, value)

    def _move_uses(self, name: Ident, value: Value) -> None:
        moved = self._users.pop(name, {})
        self._forward[name] = value
        self._users.setdefault(self.resolve(value).name, {}).update(moved)
        if name in self._outputs:
            self._outputs.add(self.resolve(value).name)

    def freeze(self) -> Graph:
        """The rewritten graph; the same object where nothing was done."""
        nodes = tuple(node for slot in self.slots for node in slot)
        if nodes == self.graph.nodes and not self._forward:
            return self.graph
        outputs = tuple(replace(o, value=self.resolve(o.value)) for o in self.graph.outputs)
        return Graph(self.graph.name, self.graph.inputs, tuple(map(self._resolved, nodes)), outputs)

    def _resolved(self, node: Node) -> Node:
        if not self._forward or all(v.name not in self._forward for v in node.operands):
            return node
        return replace(node, operands=tuple(map(self.resolve, node.operands)))
