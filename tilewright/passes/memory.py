"""Where every value lies while a graph runs: the memory plan.

Inputs, outputs, weights and states lie where they are; everything else in one arena. Values whose
lifetimes do not meet share a slot of the arena, whose size is the largest of theirs for every value
of the symbols: sound without comparing symbolic sizes. A state's successor lies where the state
does, a view where its operand does, and what is joined lies in the join (`joins`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from tilewright.dsl.dims import Dim, bounds, ceil_div, dim_max
from tilewright.dsl.encoding import components
from tilewright.dsl.errors import StateAliasError
from tilewright.dsl.graph import Graph, Input, Value
from tilewright.dsl.ident import Ident
from tilewright.dsl.op import get
from tilewright.dsl.types import CacheType, TensorType, Type
from tilewright.passes.joins import Place, places
from tilewright.passes.kinds import kind_of

Area = Literal["input", "output", "weight", "state", "arena"]
_LINE = 64


@dataclass(frozen=True, slots=True)
class Location:
    """The start of a component's bytes: a named thing outside, or an offset into the arena."""

    place: Area
    name: str
    offset: Dim = 0


@dataclass(frozen=True, slots=True)
class Copied:
    """An output that is no kernel's own result: its bytes are copied there at the end."""

    value: Value
    output: str


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Locations by value and component; the arena's size as a formula and at its bound.

    places: for each value whose bytes it shares, and where in them it lies.
    """

    locations: Mapping[tuple[Ident, str], Location]
    places: Mapping[Ident, Place]
    copies: tuple[Copied, ...]
    arena: Dim
    bound: int


def parts(type_: Type) -> dict[str, TensorType]:
    """The component arrays of a value: `data` of a dense one, `k` and `v` of a cache."""
    if isinstance(type_, TensorType):
        return components(type_)
    inner = components(type_.part)
    dense = type_.part.is_dense
    return {
        side if dense else f"{side}_{name}": part
        for side in ("k", "v")
        for name, part in inner.items()
    }


def plan_memory(graph: Graph) -> MemoryPlan:
    """The memory plan of a partitioned graph.

    Raises StateAliasError where a returned state cannot lie where the one it replaces does.
    """
    found = places(graph)
    locations: dict[tuple[Ident, str], Location] = {}
    for entry in graph.inputs:
        for part, location in _outside(entry):
            locations[entry.value.name, part] = location
    copies = _place_outputs(graph, found, locations)
    slots = _arena(graph, {name: place.root for name, place in found.items()}, locations)
    offset: Dim = 0
    starts: list[Dim] = []
    for slot in slots:
        starts.append(offset)
        offset = offset + slot.size
    for slot, start in zip(slots, starts, strict=True):
        for key in slot.tenants:
            locations[key] = Location("arena", "", start)
    for node in graph.nodes:
        for result in node.results:
            for part in parts(result.type):
                place = found[result.name]
                shared = locations[place.root, part]
                shift = place.shift(part)
                locations[result.name, part] = replace(shared, offset=shared.offset + shift)
    return MemoryPlan(locations, found, copies, offset, bounds(offset)[1])


def _outside(entry: Input) -> Iterator[tuple[str, Location]]:
    place: Area = {"param": "weight", "state": "state"}.get(entry.role, "input")  # pyright: ignore[reportAssignmentType]  # a literal table
    for part in parts(entry.value.type):
        name = entry.path if part == "data" else f"{entry.path}:{part}"
        yield part, Location(place, name)


def _place_outputs(
    graph: Graph,
    found: Mapping[Ident, Place],
    locations: dict[tuple[Ident, str], Location],
) -> tuple[Copied, ...]:
    """Puts results straight into outputs where nothing else claims them, and they are whole."""
    copies: list[Copied] = []
    made = {r.name for node in graph.nodes for r in node.results}
    states = {i.path: i.value for i in graph.by_role("state")}
    for output in graph.outputs:
        place = found[output.value.name]
        name = place.root
        if output.replaces is not None:
            if name != states[output.replaces].name:
                raise StateAliasError(
                    f"graph {graph.name} returns {output.name} in place of {output.replaces}, but "
                    f"%{output.value.name} is not made from it by state operations",
                    fix="write it with append, or return it as a plain output",
                )
        elif name in made and (name, "data") not in locations and not place.shifts:
            locations[name, "data"] = Location("output", output.name)
        else:
            copies.append(Copied(output.value, output.name))
    return tuple(copies)


@dataclass
class _Slot:
    size: Dim
    free_at: int
    tenants: list[tuple[Ident, str]] = field(default_factory=list[tuple[Ident, str]])


def _arena(
    graph: Graph, root: Mapping[Ident, Ident], locations: Mapping[tuple[Ident, str], Location]
) -> list[_Slot]:
    last = _last_uses(graph, root)
    types = {result.name: result.type for node in graph.nodes for result in node.results}
    slots: list[_Slot] = []
    taken: set[Ident] = set()
    for position, node in enumerate(graph.nodes):
        for result in node.results:
            name = root[result.name]  # of what is made inside a join: the join, which comes later
            if name in taken or name not in types or isinstance(types[name], CacheType):
                continue
            taken.add(name)
            for part, type_ in parts(types[name]).items():
                if (name, part) not in locations:
                    size = ceil_div(type_.nbytes, _LINE) * _LINE
                    slot = _choose(slots, size, position)
                    slot.tenants.append((name, part))
                    slot.free_at = last[name]
    return slots


def _choose(slots: list[_Slot], size: Dim, now: int) -> _Slot:
    """The free slot that wastes least at the bounds, grown if need be; else a new one."""
    wanted = bounds(size)[1]
    free = [slot for slot in slots if slot.free_at < now]
    if not free:
        slots.append(_Slot(size, now))
        return slots[-1]
    best = min(free, key=lambda slot: abs(bounds(slot.size)[1] - wanted))
    best.size = dim_max(best.size, size)
    return best


def _last_uses(graph: Graph, root: Mapping[Ident, Ident]) -> dict[Ident, int]:
    last: dict[Ident, int] = {}
    sent: dict[Ident, Ident] = {}
    for position, node in enumerate(graph.nodes):
        for value in node.operands:
            last[root[value.name]] = position
            source = sent.pop(root[value.name], None) if kind_of(node.op) != "alias" else None
            if source is not None:  # waited for here: until now its operand is being read
                last[source] = max(last[source], position)
        for value in node.results:
            last[root[value.name]] = position
        if get(node.op).is_collective:
            sent[node.result.name] = root[node.operands[0].name]
    for source in sent.values():
        last[source] = len(graph.nodes)
    for value in graph.output_values:
        last[root[value.name]] = len(graph.nodes)
    return last
