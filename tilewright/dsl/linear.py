"""The law of linear state.

A cache is used up by the operation that consumes it (an append): no other use stands behind, and
what the operation returns takes its place. A plain tensor state is used up by the operation that
computes the value returned in its place. No cache is lost: each is consumed, or returned, or is an
input that nobody consumes. A state's last value is returned in its own place and in no other.
"""

from __future__ import annotations

from tilewright.dsl.errors import GraphError, LinearStateError
from tilewright.dsl.graph import Graph, Node, Value
from tilewright.dsl.ident import Ident
from tilewright.dsl.op import OpDef, get
from tilewright.dsl.types import CacheType


def consumed_operands(node: Node, op: OpDef) -> frozenset[int]:
    """Operands that a node uses up: its own, and those that its body uses up."""
    found = op.consumes
    for body in node.attrs.values():
        if isinstance(body, Graph) and len(body.inputs) == len(node.operands):
            names = {
                inner.operands[index].name
                for inner in body.nodes
                if _touches_cache(inner)
                for index in consumed_operands(inner, get(inner.op))
            }
            found |= {i for i, entry in enumerate(body.inputs) if entry.value.name in names}
    return found


def _touches_cache(node: Node) -> bool:
    return any(isinstance(operand.type, CacheType) for operand in node.operands)


class LinearState:
    """Follows the states of one graph through its nodes, in order."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.states = {entry.path: entry.value for entry in graph.by_role("state")}
        self._owner: dict[Ident, str] = {v.name: place for place, v in self.states.items()}
        self._consumer: dict[Ident, int] = {}
        self._made: dict[Ident, Value] = {}
        """Caches that an operation returned, and which therefore must not be lost."""

    def visit(self, position: int, node: Node, op: OpDef) -> None:
        """Takes the next node. Raises LinearStateError for a use behind the consumer."""
        if op.consumes or _touches_cache(node):
            self._uses(position, node, op)
        for result in node.results:
            if isinstance(result.type, CacheType):
                self._made[result.name] = result

    def _uses(self, position: int, node: Node, op: OpDef) -> None:
        for operand in node.operands:
            if operand.name in self._consumer:
                raise LinearStateError(
                    f"{node.op} (node {position}) uses %{operand.name}, which "
                    f"{self._consumer_text(operand)} consumed before",
                    fix="use its result instead, or move this use before it",
                )
        waiting = list(node.results)
        names = [operand.name for operand in node.operands]
        for index in sorted(consumed_operands(node, op)):
            state = node.operands[index]
            if names.count(state.name) > 1:
                raise LinearStateError(
                    f"{node.op} (node {position}) consumes %{state.name} as operand {index} and "
                    f"uses it as operand {_other(names, index)} too"
                )
            self._consumer[state.name] = position
            successor = next((r for r in waiting if r.type == state.type), None)
            if successor is None:
                raise LinearStateError(
                    f"{node.op} (node {position}) consumes %{state.name} and returns nothing in "
                    "its place: the state is lost"
                )
            waiting.remove(successor)
            if state.name in self._owner:
                self._owner[successor.name] = self._owner[state.name]

    def _consumer_text(self, value: Value) -> str:
        position = self._consumer[value.name]
        return f"{self.graph.nodes[position].op} (node {position})"

    def finish(self) -> None:
        """Takes the outputs. Raises LinearStateError for a state that is lost or misplaced."""
        returned: set[Ident] = set()
        placed: dict[Ident, str] = {}
        replaced: set[str] = set()
        for output in self.graph.outputs:
            value = output.value
            if value.name in self._consumer:
                raise LinearStateError(
                    f"output {output.name} returns %{value.name}, which "
                    f"{self._consumer_text(value)} consumed before",
                    fix="return its result instead",
                )
            returned.add(value.name)
            if output.replaces is not None:
                self._replace(output.replaces, value, placed, replaced)
        for name, value in self._made.items():
            owner = self._owner.get(name)
            if name in self._consumer or (name in placed if owner else name in returned):
                continue
            what = f"the successor of state {owner}" if owner else "a cache"
            raise LinearStateError(
                f"%{value.name} is {what}, but nobody consumes or returns it: it is lost",
                fix=f"return it: ${owner} <- {name}" if owner else "return it",
            )
        self._plain_states()

    def _replace(
        self, target: str, value: Value, placed: dict[Ident, str], replaced: set[str]
    ) -> None:
        state = self.states.get(target)
        if state is None:
            raise GraphError(f"an output replaces ${target}, which is no state of the graph")
        if state.type != value.type:
            raise GraphError(f"${target} is {state.type}, what replaces it is {value.type}")
        owner = self._owner.get(value.name, target)
        if owner != target:
            raise LinearStateError(f"%{value.name} belongs to state {owner}, not to {target}")
        if target in replaced or value.name in placed:
            raise LinearStateError(
                f"%{value.name} replaces ${target}, but one value replaces one state, once"
            )
        placed[value.name] = target
        replaced.add(target)

    def _plain_states(self) -> None:
        """No use of a tensor state stands behind the node that computes its successor."""
        successors = {
            output.value.name: self.states[output.replaces]
            for output in self.graph.outputs
            if output.replaces is not None
            and self.states[output.replaces] != output.value
            and not isinstance(output.value.type, CacheType)
        }
        if not successors:
            return
        inputs = {entry.value.name for entry in self.graph.inputs}
        gone: dict[Ident, int] = {}
        for name, state in successors.items():
            if name in inputs:
                raise LinearStateError(f"%{name} is an input and cannot replace %{state.name}")
        for position, node in enumerate(self.graph.nodes):
            for operand in node.operands:
                if operand.name in gone:
                    writer = gone[operand.name]
                    raise LinearStateError(
                        f"{node.op} (node {position}) uses %{operand.name}, which was replaced by "
                        f"{self.graph.nodes[writer].op} (node {writer})",
                        fix="move this use before it, or copy the state",
                    )
            for result in node.results:
                if result.name in successors:
                    gone[successors[result.name].name] = position
        for output in self.graph.outputs:
            if output.value.name in gone:
                raise LinearStateError(
                    f"output {output.name} returns %{output.value.name}, which was replaced by "
                    f"node {gone[output.value.name]}",
                    fix="copy the state",
                )


def _other(names: list[Ident], index: int) -> int:
    return next(i for i, name in enumerate(names) if i != index and name == names[index])
