"""What lies in what: views on parts of values, and values that are put together where they lie.

A join (`bundle`, `stack`) lays its operands one after the other. An operand that a kernel makes can
be made there: it then shares the join's bytes, some way into them, and nothing is copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tilewright.dsl.dims import Dim
from tilewright.dsl.encoding import components
from tilewright.dsl.graph import Graph, Node, Value
from tilewright.dsl.ident import Ident
from tilewright.dsl.op import get
from tilewright.dsl.types import CacheType, TensorType
from tilewright.passes.kinds import kind_of


@dataclass(frozen=True, slots=True)
class Place:
    """Whose bytes a value shares, and how far into each of their components it begins.

    `shifts` is empty for a value that is all of its root.
    """

    root: Ident
    shifts: Mapping[str, Dim]

    def shift(self, part: str) -> Dim:
        """Bytes into the root's component."""
        return self.shifts.get(part, 0)

    def moved(self, by: Mapping[str, Dim]) -> Place:
        """Further into the same root."""
        if not by:
            return self
        names = dict.fromkeys((*self.shifts, *by))
        return replace(self, shifts={n: self.shift(n) + by.get(n, 0) for n in names})


def places(graph: Graph) -> dict[Ident, Place]:
    """The place of every value: its own, unless a view, a state's successor or part of a join."""
    found = {v.name: Place(v.name, {}) for v in graph.input_values}
    for node in graph.nodes:
        shared = _shared_operand(node)
        for result in node.results:
            own = Place(result.name, {})
            found[result.name] = own if shared is None else found[shared.name]
        if kind_of(node.op) == "alias":
            found[node.result.name] = found[node.result.name].moved(view_shifts(node))
    claims = _claims(graph, found)
    return {name: _settled(place, claims) for name, place in found.items()}


def view_shifts(node: Node) -> dict[str, Dim]:
    """Of a view on less than its operand: how many bytes into each component it begins."""
    if node.op == "part":
        x = node.operands[0].tensor
        return {"data": node.attrs.dim("start") * x.dtype.itemsize}
    if node.op != "row":
        return {}
    whole = components(node.operands[0].tensor)
    return {
        part: node.attrs.dim("at") * type_.nbytes
        for part, type_ in components(node.result.tensor).items()
        if whole[part].shape != type_.shape  # a table that all rows share is no row
    }


def joined_at(join: Node) -> list[tuple[Value, Dim]]:
    """The operands of a join, each with where it begins, in bytes."""
    found: list[tuple[Value, Dim]] = []
    offset: Dim = 0
    for operand in join.operands:
        found.append((operand, offset))
        offset = offset + operand.tensor.nbytes
    return found


def _shared_operand(node: Node) -> Value | None:
    if kind_of(node.op) == "alias":
        return node.operands[0]
    consumed = get(node.op).consumes
    return node.operands[min(consumed)] if consumed else None


def _claims(graph: Graph, found: Mapping[Ident, Place]) -> dict[Ident, tuple[Ident, Dim]]:
    """Values that are made inside a join, each in the first that wants it: where in which."""
    free = {r.name for node in graph.nodes if _is_placed_freely(node) for r in node.results}
    claims: dict[Ident, tuple[Ident, Dim]] = {}
    for node in graph.nodes:
        if kind_of(node.op) != "join":
            continue
        for operand, offset in joined_at(node):
            place = found[operand.name]
            if place.root in free and not place.shifts and place.root not in claims:
                claims[place.root] = node.result.name, offset
    return claims


def _is_placed_freely(node: Node) -> bool:
    """Whether the results go wherever they are told: a collective's memory is its own."""
    values = (*node.operands, *node.results)
    plain = all(isinstance(v.type, TensorType) and v.type.is_dense for v in node.results)
    caches = any(isinstance(v.type, CacheType) for v in values)
    return plain and not caches and not get(node.op).is_collective and kind_of(node.op) != "alias"


def _settled(place: Place, claims: Mapping[Ident, tuple[Ident, Dim]]) -> Place:
    """The place inside the join that holds the root, and the join that holds that one."""
    while place.root in claims:
        root, offset = claims[place.root]
        place = replace(place, root=root).moved({"data": offset})
    return place
