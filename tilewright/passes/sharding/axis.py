"""All graphs of a program on one axis of its mesh: what is asked, chosen, and made of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tilewright.dsl.errors import PlacementError
from tilewright.dsl.graph import Graph, Input, Value
from tilewright.dsl.ident import Ident
from tilewright.dsl.placement import REPLICATE, AxisPlacement, Shard
from tilewright.dsl.program import Program
from tilewright.dsl.types import TensorType
from tilewright.passes.base import PassContext
from tilewright.passes.sharding.hints import Hint, Hints, Open, Role
from tilewright.passes.sharding.options import Along, Option, is_even, movable, options
from tilewright.passes.sharding.prices import prices_of
from tilewright.passes.sharding.problem import Key, Problem, Site
from tilewright.passes.sharding.rebuild import Moved, Rebuilt

_DIGITS = re.compile("[0-9]+")
"""The numbers of layers in a path: what differs in them alone is alike."""


@dataclass
class _Sites:
    """The numbers of one graph's sites."""

    inputs: list[int]
    nodes: list[int]
    outputs: list[int]


class AxisSharding:
    """The placements on one axis, and the graphs with them."""

    def __init__(self, program: Program, axis: Ident, hints: Hints, ctx: PassContext) -> None:
        self._program = program
        self._mesh = program.mesh
        self._axis = axis
        self._along = Along(program.mesh, axis)
        self._hints = hints
        self._ctx = ctx
        self._prices = prices_of(ctx.target)
        self._problem = Problem()
        self._shared: dict[tuple[str, str], int] = {}
        """Sites of parameters and states, which lie alike in all graphs."""
        self._open: dict[Key, Open] = {}
        """Inputs whose place is left to the solver, and how."""
        self._types: dict[Key, TensorType] = {}
        self.moves: list[tuple[Ident, Moved]] = []

    def graphs(self) -> list[Graph]:
        """The placed graphs. Raises PlacementError where the hints cannot be met."""
        sites = [self._add(graph) for graph in self._program.graphs]
        taken = self._problem.solve(self._seconds)
        if taken is None:
            raise self._impossible()
        chosen = [site.options[n] for site, n in zip(self._problem.sites, taken, strict=True)]
        return [
            self._rebuilt(graph, of, chosen)
            for graph, of in zip(self._program.graphs, sites, strict=True)
        ]

    def _add(self, graph: Graph) -> _Sites:
        inputs = [self._input(graph, entry) for entry in graph.inputs]
        nodes: list[int] = []
        for node in graph.nodes:
            found = options(node, self._along)
            work = self._prices.work(node, self._mesh, self._axis)
            ranks = self._mesh.size(self._axis)
            seconds = tuple(work / ranks if option.divides else work for option in found)
            reads = tuple(self._key(graph, v) for v in node.operands)
            makes = tuple(self._key(graph, v) for v in node.results)
            kind = node.op, node.attrs, *(v.type for v in (*node.operands, *node.results))
            nodes.append(self._problem.add(Site(found, seconds, reads, makes, kind)))
        states = {e.path: n for e, n in zip(graph.inputs, inputs, strict=True) if e.role == "state"}
        outputs = [
            self._output(graph, o.name, o.value, states.get(o.replaces or ""))
            for o in graph.outputs
        ]
        return _Sites(inputs, nodes, outputs)

    def _key(self, graph: Graph, value: Value) -> Key:
        key = graph.name, value.name
        if isinstance(value.type, TensorType):
            self._types[key] = value.type
        return key

    def _input(self, graph: Graph, entry: Input) -> int:
        key = self._key(graph, entry.value)
        if (left := self._left_open(entry)) is not None:
            self._open[key] = left
        shared = entry.role, entry.path
        known = self._shared.get(shared)
        if known is not None:
            self._share(known, key)
            return known
        places = self._places(entry)
        made = tuple(Option((), (place,)) for place in places)
        seconds = tuple(self._stored(entry, place) for place in places)
        kind = entry.role, _DIGITS.sub("*", entry.path), entry.value.type
        number = self._problem.add(Site(made, seconds, makes=(key,), kind=kind))
        if entry.role in ("param", "state"):
            self._shared[shared] = number
        return number

    def _share(self, number: int, key: Key) -> None:
        """One more graph has the value of a site."""
        site = self._problem.sites[number]
        wider = tuple(Option((), (*o.results, o.results[0])) for o in site.options)
        self._problem.sites[number] = replace(site, options=wider, makes=(*site.makes, key))

    def _stored(self, entry: Input, place: AxisPlacement) -> float:
        if entry.role != "param":
            return 0.0
        type_, cut = entry.value.tensor, isinstance(place, Shard)
        seconds = self._prices.store(type_, self._mesh, self._axis, cut=cut)
        if self._left_open(entry) == "kept" and not cut:
            seconds += self._prices.agree(type_, self._mesh, self._axis)
        return seconds

    def _left_open(self, entry: Input) -> Open | None:
        if entry.role == "symbol":
            return None
        hint = self._hints.find(entry.role, entry.path, self._axis)
        return hint.place if hint is not None and isinstance(hint.place, str) else None

    def _places(self, entry: Input) -> list[AxisPlacement]:
        """Where an input may lie."""
        if entry.role == "symbol":
            return [REPLICATE]
        found = self._hinted(entry.role, entry.path, entry.value)
        if entry.role != "param" or len(found) == 1:
            return found
        texts = ["solve", *map(str, found)]
        taken = self._ctx.choose(f"shard:{self._axis}.{entry.path}", texts, "solve")
        return found if taken == "solve" else [found[texts.index(taken) - 1]]

    def _hinted(self, role: Role, path: str, value: Value) -> list[AxisPlacement]:
        hint = self._hints.find(role, path, self._axis)
        if hint is None or not isinstance(value.type, TensorType):
            return [REPLICATE]
        if isinstance(hint.place, str):
            sharded = self._along.cuts(value.type)
            is_cut = hint.place in ("cut", "gathered") and sharded
            return sharded if is_cut else [REPLICATE, *sharded]
        if self._fits(hint, path, value.type):
            return [hint.place]
        return [REPLICATE]

    def _fits(self, hint: Hint, path: str, type_: TensorType) -> bool:
        """Whether a placement is possible. Raises PlacementError where a hint names the very path,
        or where the dimension is there and the ranks do not divide it.
        """
        place = hint.place
        if not isinstance(place, Shard):
            return True
        if place.dim >= type_.rank:
            if hint.is_exact:
                raise PlacementError(f"{path} is {type_}: it has no dimension {place.dim} to shard")
            return False
        if is_even(self._along.placed(type_, place), self._mesh):
            return True
        raise PlacementError(
            f"the {self._mesh.size(self._axis)} ranks of mesh axis {self._axis} do not divide "
            f"dimension {place.dim} of {path}, which is {type_}",
            fix="pad it to a multiple (or declare its symbol with multiple_of), or shard another "
            "dimension: uneven shards, the last ranks holding less or nothing, cannot be lowered "
            "yet",
        )

    def _output(self, graph: Graph, name: str, value: Value, state: int | None) -> int:
        key = self._key(graph, value)
        if state is None:
            places = self._hinted("output", name, value)
        else:  # what takes a state's place lies where the state lies
            places = [option.results[0] for option in self._problem.sites[state].options]
        wanted = tuple(Option((place,), ()) for place in places)
        number = self._problem.add(Site(wanted, (0.0,) * len(wanted), reads=(key,)))
        if state is not None:
            self._problem.ties.append((state, number))
        return number

    def _seconds(self, key: Key, source: AxisPlacement, target: AxisPlacement) -> float | None:
        collective = movable(source, target)
        type_ = self._types.get(key)
        left = self._open.get(key)
        if collective is None or (collective and left == "kept"):
            return None
        if left == "gathered" and target != REPLICATE:
            return None
        if type_ is None:
            return 0.0
        return self._prices.move(collective, type_, self._mesh, self._axis)

    def _rebuilt(self, graph: Graph, sites: _Sites, chosen: Sequence[Option]) -> Graph:
        rebuilt = Rebuilt(graph, self._mesh, self._axis)
        inputs = {
            entry.value.name: chosen[n].results[0]
            for entry, n in zip(graph.inputs, sites.inputs, strict=True)
        }
        nodes = [chosen[n] for n in sites.nodes]
        outputs = [chosen[n].operands[0] for n in sites.outputs]
        found = rebuilt.build(inputs, nodes, outputs)
        self.moves += [(graph.name, move) for move in rebuilt.moves]
        return found

    def _impossible(self) -> PlacementError:
        said = [
            f"{h.role or 'any'}/{h.pattern} = {h.place}"
            for h in self._hints.hints
            if h.axis == self._axis
        ]
        return PlacementError(
            f"no placement of all values on mesh axis {self._axis} meets the hints: "
            f"{'; '.join(said)}",
            fix="leave more of them free: a partial output, for one, must be made by a sum",
        )
