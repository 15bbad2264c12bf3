"""The all-ranks reference: a mesh program on every rank, in one process.

Every operation runs on what each rank holds, collectives exchange, and after every node the claimed
placement is checked: what the ranks hold together must be what the operation makes of the global
operands. All in the ideal reading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilewright.dsl.composite import Composite
from tilewright.dsl.errors import CompilerBug, PlacementClaimError
from tilewright.dsl.graph import Graph, Node, Value, substitute_graph
from tilewright.dsl.held import (
    Coordinates,
    Held,
    Table,
    assemble,
    build,
    close,
    flatten,
    largest,
    leaf_types,
    shard,
    unshard,
)
from tilewright.dsl.ident import Ident
from tilewright.dsl.inputs import bind, load
from tilewright.dsl.meaning import Evaluation
from tilewright.dsl.op import OpDef, get
from tilewright.dsl.ops.collective import Permute
from tilewright.dsl.ops.exchange import Collective
from tilewright.dsl.placement import Local, Mesh, Placement
from tilewright.dsl.shards import local_type
from tilewright.dsl.types import TensorType, Type

__all__ = ["run_ranks", "shard", "unshard"]


def run_ranks(
    graph: Graph,
    mesh: Mesh,
    inputs: Mapping[str, Any],
    *,
    symbols: Mapping[str, int] | None = None,
    checked: bool = True,
) -> dict[str, Any]:
    """The outputs by name: global values, or lists of what each rank holds where that is Local.

    inputs: global values, as for `evaluate`; `shard` spreads them. Raises PlacementClaimError,
    naming node, axis and rank, where a claim is false, and IndexOutOfRange if `checked`.
    """
    bound = substitute_graph(graph, bind(graph, inputs, symbols or {}))
    operands: list[Held] = []
    for entry in bound.inputs:
        value = load(entry, inputs[entry.path], exact=True)
        leaves = [_wide(leaf) for leaf in flatten(value, entry.value.type)]
        operands.append(shard(build(leaves, entry.value.type), entry.value.type, mesh))
    with np.errstate(all="ignore"):
        found = _Ranks(mesh, Evaluation("ideal", checked)).graph(bound, operands)
        return {
            output.name: held
            if _local_axes(output.value.type)
            else unshard(held, output.value.type, mesh)
            for output, held in zip(bound.outputs, found, strict=True)
        }


def _wide(x: Any) -> Any:
    return x if x.dtype.kind in "biu" else x.astype(np.float64, copy=False)


def _local_axes(type_: Type) -> frozenset[str]:
    if not isinstance(type_, TensorType):
        return frozenset()
    return frozenset(axis for axis, p in type_.placement.entries if isinstance(p, Local))


@dataclass(frozen=True, slots=True)
class _Ranks:
    mesh: Mesh
    evaluation: Evaluation

    def graph(self, graph: Graph, operands: Sequence[Held]) -> list[Held]:
        """What the ranks hold of the outputs; bodies of composites run likewise."""
        values: dict[Ident, Held] = dict(
            zip((i.value.name for i in graph.inputs), operands, strict=True)
        )
        for node in graph.nodes:
            results = self.node(node, [values[operand.name] for operand in node.operands])
            values.update(zip((r.name for r in node.results), results, strict=True))
        return [values[value.name] for value in graph.output_values]

    def node(self, node: Node, operands: Sequence[Held]) -> list[Held]:
        """What the ranks hold of the results, after their claims were checked."""
        op = get(node.op)
        if isinstance(op, Composite):
            types = [operand.type for operand in node.operands]
            body = op.expand(types, node.attrs, self.mesh)
            for made, result in zip(body.output_values, node.results, strict=True):
                if made.type != result.type:
                    raise _false(node, result, f"its body makes a value of {made.type}")
            return self.graph(body, operands)
        if isinstance(op, Collective):
            results = [self._exchange(op, node, operands[0])]
            if node.attrs.int("size") or isinstance(op, Permute):
                return results
        else:
            results = self._each_rank(op, node, operands)
        self._check(node, operands, results)
        return results

    def _each_rank(self, op: OpDef, node: Node, operands: Sequence[Held]) -> list[Held]:
        results: list[Held] = [[] for _ in node.results]
        for rank in range(self.mesh.ranks):
            xs = [held[rank] for held in operands]
            if any(x is None for x in xs):
                made: Sequence[Any] = [None] * len(results)
            else:
                made = self._on_rank(op, node, xs, rank)
            for held, x in zip(results, made, strict=True):
                held.append(x)
        return results

    def _on_rank(self, op: OpDef, node: Node, xs: Sequence[Any], rank: int) -> Sequence[Any]:
        at = self.mesh.coordinates(rank)
        types = [
            local_type(r.type, self.mesh, at) if isinstance(r.type, TensorType) else r.type
            for r in node.results
        ]
        values = tuple(Value(r.name, t) for r, t in zip(node.results, types, strict=True))
        local = Node(node.op, node.operands, values, op.localize(node.attrs, types))
        try:
            return self.evaluation.node(local, xs)
        except (CompilerBug, ValueError) as mistake:
            raise _false(
                node, node.results[0], f"on its shards rank {rank} fails: {mistake}"
            ) from mistake

    def _exchange(self, op: Collective, node: Node, held: Held) -> Held:
        """Every group of ranks that differ on the axis alone exchanges what it holds."""
        axis = node.attrs.str("axis")
        before, after = node.operands[0].type, node.result.type
        flat = [flatten(value, before) for value in held]
        kinds = zip(leaf_types(before), leaf_types(after), strict=True)
        moved: list[list[Any]] = [[] for _ in held]
        for index, (old, new) in enumerate(kinds):
            column = [leaves[index] for leaves in flat]
            if old.placement != new.placement or isinstance(old.placement.on(axis), Local):
                column = self._exchange_array(op, node, column, axis)
            for leaves, x in zip(moved, column, strict=True):
                leaves.append(x)
        return [build(leaves, after) for leaves in moved]

    def _exchange_array(
        self, op: Collective, node: Node, column: list[Any], axis: str
    ) -> list[Any]:
        result = list(column)
        for ranks in self._groups(axis):
            held = [column[rank] for rank in ranks]
            if all(x is None for x in held):
                continue
            for rank, x in zip(ranks, op.exchange(held, node.attrs), strict=True):
                result[rank] = x
        return result

    def _groups(self, axis: str) -> list[list[int]]:
        groups: dict[Coordinates, list[int]] = {}
        for rank in range(self.mesh.ranks):
            at = self.mesh.coordinates(rank)
            rest = tuple((name, i) for name, i in at.items() if name != axis)
            groups.setdefault(rest, []).append(rank)
        return list(groups.values())

    def _check(self, node: Node, operands: Sequence[Held], results: Sequence[Held]) -> None:
        """Raises PlacementClaimError unless the results together are the meaning's."""
        whole = [
            assemble(held, operand.type, self.mesh)
            for held, operand in zip(operands, node.operands, strict=True)
        ]
        size = max([largest(leaf) for leaf in _leaves(node.operands, operands)], default=0.0)
        found: list[Table] = []
        for held, result in zip(results, node.results, strict=True):
            try:
                found.append(assemble(held, result.type, self.mesh))
            except PlacementClaimError as mistake:
                raise _false(node, result, mistake.message) from mistake
        private: set[str] = set()
        for value in (*node.operands, *node.results):
            private |= _local_axes(value.type)
        for at in _combinations(private, self.mesh):
            wanted = self.evaluation.node(node, [_at(table, at) for table in whole])
            for result, table, held, x in zip(node.results, found, results, wanted, strict=True):
                scale = max([size, *(largest(leaf) for leaf in _leaves([result], [held]))])
                self._compare(node, result, _at(table, at), x, scale, at)

    def _compare(
        self, node: Node, result: Value, got: Any, wanted: Any, scale: float, at: Coordinates
    ) -> None:
        type_ = result.type
        pairs = list(zip(flatten(got, type_), flatten(wanted, type_), strict=True))
        if any(
            (x is None) != (y is None) or not (x is None or close(x, y, scale)) for x, y in pairs
        ):
            raise _false(node, result, self._first_difference(type_, got, wanted, scale, at))

    def _first_difference(
        self, type_: Type, got: Any, wanted: Any, scale: float, at: Coordinates
    ) -> str:
        """The first rank whose piece is wrong, and the axes that were to make it right."""
        placement = type_.placement if isinstance(type_, TensorType) else Placement()
        axes = ", ".join(placement.axes) or "none"
        if got is None or wanted is None:
            return f"nobody holds it (mesh axes: {axes})"
        ours, theirs = (shard(x, type_, self.mesh) for x in (got, wanted))
        for rank, (x, y) in enumerate(zip(ours, theirs, strict=True)):
            leaves = zip(flatten(x, type_), flatten(y, type_), strict=True)
            if any(a is not None and not close(a, b, scale) for a, b in leaves):
                where = "".join(f", {name} = {i}" for name, i in at)
                return f"rank {rank} holds another value (mesh axes: {axes}{where})"
        return f"the ranks together hold another value (mesh axes: {axes})"


def _leaves(values: Sequence[Value], held: Sequence[Held]) -> list[Any]:
    return [
        leaf
        for value, ranks in zip(values, held, strict=True)
        for x in ranks
        for leaf in flatten(x, value.type)
    ]


def _combinations(axes: set[str], mesh: Mesh) -> list[Coordinates]:
    found: list[Coordinates] = [()]
    for name, size in mesh.axes:
        if name in axes:
            found = [(*at, (name, i)) for at in found for i in range(size)]
    return found


def _at(table: Table, at: Coordinates) -> Any:
    """The entry of a table that may know fewer axes."""
    known = {name for key in table for name, _ in key}
    return table[tuple((name, i) for name, i in at if name in known)]


def _false(node: Node, result: Value, what: str) -> PlacementClaimError:
    return PlacementClaimError(
        f"{node.op} claims that %{result.name} is {result.type}, but {what}",
        fix="correct the operation's placement rule",
    )
