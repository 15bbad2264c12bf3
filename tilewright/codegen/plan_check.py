"""The steps of a graph, walked before anything is written: does each read what it means to?

It knows the planner's results and nothing of how they came about:

    a step reads bytes while they hold the value that its node names
    threads meet between two launches of which one writes what the other touches
    what a collective reads and writes is let alone until its wait
    everything in the arena ends inside it
    outputs and states end up holding what the graph returns

with all symbols at their least, all at their largest, and each alone at its largest, where a call
may have them so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tilewright.codegen.steps import GraphLowering, Launch, call_requirements
from tilewright.dsl.dims import Dim, Symbol
from tilewright.dsl.dims import evaluate as value_of
from tilewright.dsl.errors import BrokenPlan
from tilewright.dsl.graph import Node, Value
from tilewright.dsl.ident import Ident
from tilewright.dsl.op import get
from tilewright.dsl.symbols import graph_symbols
from tilewright.dsl.types import TensorType
from tilewright.passes.kinds import kind_of
from tilewright.passes.memory import Location, parts
from tilewright.runtime.dim_table import read_dim
from tilewright.runtime.schema import CollectiveStep, CopyStep, HostStep, ReferenceStep, SpanStep

_Area = tuple[str, str]
"""Place and name: bytes that never meet those of another area."""
_Part = tuple[Ident, str]
"""A component of a value."""


@dataclass(frozen=True, slots=True)
class _Bytes:
    """A piece of an area."""

    area: _Area
    start: int
    end: int

    def meets(self, other: _Bytes) -> bool:
        """True where some byte belongs to both."""
        return self.area == other.area and max(self.start, other.start) < min(self.end, other.end)

    def __str__(self) -> str:
        place, name = self.area
        return f"{f'{place} {name}'.strip()}[{self.start}:{self.end}]"


_Held = tuple[_Part, _Bytes]


def check_plan(lowering: GraphLowering) -> None:
    """Holds the finished steps of a graph to the laws above. Raises BrokenPlan."""
    found = graph_symbols(lowering.graph)
    required = call_requirements(lowering.graph)
    symbols: dict[str, Symbol] = {s.name: s for s in found}
    least = {name: _least(s) for name, s in symbols.items()}
    largest = {name: _largest(s) for name, s in symbols.items()}
    alone = [{**least, name: size} for name, size in largest.items()]
    corners = {tuple(env.items()): env for env in (least, largest, *alone)}  # each but once
    for env in corners.values():
        if all(_number(size, env) >= 0 for size in required):
            _Walk(lowering, symbols, env).run()


def _least(symbol: Symbol) -> int:
    return -(-symbol.lo // symbol.multiple_of) * symbol.multiple_of


def _largest(symbol: Symbol) -> int:
    return symbol.hi // symbol.multiple_of * symbol.multiple_of


def _number(size: Dim, env: Mapping[str, int]) -> int:
    return size if isinstance(size, int) else value_of(size, env)


@dataclass
class _Walk:
    """What lies where, step after step, at one set of values of the symbols."""

    lowering: GraphLowering
    symbols: Mapping[str, Symbol]
    env: Mapping[str, int]
    holds: dict[_Area, dict[_Bytes, _Part]] = field(
        default_factory=dict[_Area, "dict[_Bytes, _Part]"]
    )
    reads: list[tuple[_Bytes, str]] = field(default_factory=list[tuple[_Bytes, str]])
    """What launches since the last barrier read, and their names."""
    writes: list[tuple[_Bytes, str]] = field(default_factory=list[tuple[_Bytes, str]])
    transfers: dict[int, tuple[_Bytes, _Bytes, Value]] = field(
        default_factory=dict[int, tuple[_Bytes, _Bytes, Value]]
    )
    """Operand and result of every collective under way."""
    views: dict[Ident, Node] = field(default_factory=dict[Ident, Node])
    """What is made by no step: aliases and joins, by their results."""
    _sizes: dict[Dim | str, int] = field(default_factory=dict["Dim | str", int])

    def run(self) -> None:
        """Every step in order, then what is left."""
        graph = self.lowering.graph
        for entry in graph.inputs:
            for part, type_ in parts(entry.value.type).items():
                at = self.lowering.memory.locations[entry.value.name, part]
                self._put(self._at(at, type_), (entry.value.name, part))
        for node in graph.nodes:
            if kind_of(node.op) in ("alias", "join"):
                self.views[node.result.name] = node
        spans, copies = iter(self.lowering.spans), iter(self.lowering.copied)
        launched = iter(self.lowering.launched)
        collectives = (node for node in graph.nodes if get(node.op).is_collective)
        for step in self.lowering.steps:
            match step:
                case SpanStep():
                    self._meet()
                    for launch in next(spans).launches:
                        self._launch(launch, next(launched)[1])
                    self._meet()
                case ReferenceStep():
                    self._reference(step, next(launched)[1])
                case HostStep():
                    self._host(step, next(launched)[1])
                case CollectiveStep(phase="post"):
                    self._post(step, next(collectives))
                case CollectiveStep():
                    self._wait(step)
                case CopyStep():
                    self._copy(step, next(copies))
        self._returned()

    # --- steps ---

    def _launch(self, launch: Launch, node: Node) -> None:
        if launch.barrier:
            self._meet()
        name, read, made = launch.kernel.name, list[_Held](), self._consumed(node)
        own = [piece for _, piece in made]
        for argument, slot in zip(launch.kernel.arguments, launch.slots, strict=True):
            is_operand = argument.role == "x"
            value = (node.operands if is_operand else node.results)[argument.place]
            piece = self._slot(slot, parts(value.type)[argument.component])
            (read if is_operand else made).append(((value.name, argument.component), piece))
        for part, piece in read:
            self._read(part, piece, f"kernel {name}")
            self._apart(piece, self.writes, name)
        for _, piece in made:
            self._apart(piece, [*self.reads, *self.writes], name)
            mixed = next((r for _, r in read if r not in own and piece.meets(r)), None)
            if mixed is not None:
                raise self._broken(f"kernel {name} reads {mixed} while it writes to {piece}")
        self.reads += [(piece, name) for _, piece in read]
        self.writes += [(piece, name) for _, piece in made]
        for part, piece in made:
            self._write(part, piece, f"kernel {name}")

    def _reference(self, step: ReferenceStep, node: Node) -> None:
        inputs = [part for v in dict.fromkeys(node.operands) for part in self._parts(v)]
        outputs = [part for v in node.results for part in self._parts(v)]
        who = f"the reference of {node.op}"
        for (part, type_), slot in zip(inputs, step.inputs, strict=True):
            self._read(part, self._slot(slot, type_), who)
        for (part, type_), slot in zip(outputs, step.outputs, strict=True):
            self._write(part, self._slot(slot, type_), who)

    def _host(self, step: HostStep, node: Node) -> None:
        (x,), who = node.operands, f"the host's {node.op}"
        source = self._slot(step.source, x.tensor)
        self._read((x.name, "data"), source, who)
        for result, number in zip(node.results, step.targets, strict=True):
            target = self._slot(number, result.tensor)
            if target.meets(source):
                raise self._broken(f"{who} writes to {target} while it reads {source}")
            self._write((result.name, "data"), target, who)

    def _post(self, step: CollectiveStep, node: Node) -> None:
        x, result = node.operands[0], node.result
        source = self._slot(step.source, x.tensor)
        target = self._slot(step.target, result.tensor)
        self._read((x.name, "data"), source, node.op)
        self._write((result.name, "data"), target, node.op)
        self.transfers[step.handle] = source, target, result

    def _wait(self, step: CollectiveStep) -> None:
        _, target, result = self.transfers.pop(step.handle)
        self._put(target, (result.name, "data"))

    def _copy(self, step: CopyStep, value: Value) -> None:
        who = f"the copy of %{value.name}"
        self._read((value.name, "data"), self._slot(step.source, value.tensor), who)
        self._write((value.name, "data"), self._slot(step.target, value.tensor), who)

    def _returned(self) -> None:
        graph = self.lowering.graph
        states = {entry.path: entry.value for entry in graph.by_role("state")}
        if self.transfers:
            raise self._broken(f"nobody waits for %{next(iter(self.transfers.values()))[2].name}")
        for output in graph.outputs:
            for part, type_ in parts(output.value.type).items():
                at = Location("output", output.name)
                if output.replaces is not None:
                    at = self.lowering.memory.locations[states[output.replaces].name, part]
                self._read((output.value.name, part), self._at(at, type_), "the caller")

    # --- laws ---

    def _read(self, part: _Part, piece: _Bytes, who: str) -> None:
        for _, target, value in self.transfers.values():
            if piece.meets(target):
                raise self._broken(f"{who} reads {piece} before %{value.name} has come there")
        if piece.start < piece.end and not self._shows(part, piece):
            raise self._broken(f"{who} reads %{part[0]} at {piece}, {self._instead(piece)}")

    def _shows(self, part: _Part, piece: _Bytes) -> bool:
        """Whether a value was put there, or is a view or a join of what was."""
        name, component = part
        if self.holds.get(piece.area, {}).get(piece) == part:
            return True
        node = self.views.get(name)
        if node is None:
            return False
        if kind_of(node.op) == "join":
            return self._shows_all(node, piece)
        (x,) = node.operands
        whole = parts(x.type)[component]
        start = piece.start
        if node.op == "row" and whole.shape != parts(node.result.type)[component].shape:
            start -= self._size(node.attrs.dim("at")) * (piece.end - piece.start)
        elif node.op == "part":
            start -= self._size(node.attrs.dim("start")) * x.tensor.dtype.itemsize
        return self._shows((x.name, component), self._piece(piece.area, start, whole))

    def _shows_all(self, join: Node, piece: _Bytes) -> bool:
        """Whether a join's operands lie one after the other, and fill a piece."""
        start = piece.start
        for operand in join.operands:
            inner = self._piece(piece.area, start, operand.tensor)
            if inner.start < inner.end and not self._shows((operand.name, "data"), inner):
                return False
            start = inner.end
        return start == piece.end

    def _write(self, part: _Part, piece: _Bytes, who: str) -> None:
        for source, target, value in self.transfers.values():
            if piece.meets(source) or piece.meets(target):
                raise self._broken(f"{who} writes to {piece} while %{value.name} is on its way")
        arena = self._size(self.lowering.memory.arena)
        if piece.area[0] == "arena" and piece.end > arena:
            raise self._broken(f"{who} writes to {piece}, and the arena has {arena} bytes")
        if piece.area[0] in ("input", "weight"):
            raise self._broken(f"{who} writes to {piece}, which is not ours to change")
        self._put(piece, part)

    def _apart(self, piece: _Bytes, others: list[tuple[_Bytes, str]], name: str) -> None:
        for other, by in others:
            if piece.meets(other):
                raise self._broken(
                    f"kernels {by} and {name} touch {piece}, one of them writes, and no barrier "
                    "stands between them"
                )

    def _put(self, piece: _Bytes, part: _Part) -> None:
        tenants = self.holds.setdefault(piece.area, {})
        for gone in [other for other in tenants if piece.meets(other)]:
            del tenants[gone]
        tenants[piece] = part

    def _meet(self) -> None:
        self.reads, self.writes = [], []

    # --- what stands where ---

    def _consumed(self, node: Node) -> list[_Held]:
        """What takes a state's place without a pointer of its own, and where that is."""
        found: list[_Held] = []
        for place, result in zip(sorted(get(node.op).consumes), node.results, strict=False):
            operand = node.operands[place]
            for part, type_ in parts(operand.type).items():
                at = self.lowering.memory.locations[operand.name, part]
                found.append(((result.name, part), self._at(at, type_)))
        return found

    def _parts(self, value: Value) -> list[tuple[_Part, TensorType]]:
        return [((value.name, part), type_) for part, type_ in parts(value.type).items()]

    def _slot(self, number: int, type_: TensorType) -> _Bytes:
        slot = self.lowering.slots[number]
        return self._piece((slot.place, slot.name), self._size(slot.offset), type_)

    def _at(self, location: Location, type_: TensorType) -> _Bytes:
        area = location.place, location.name
        return self._piece(area, self._size(location.offset), type_)

    def _piece(self, area: _Area, start: int, type_: TensorType) -> _Bytes:
        return _Bytes(area, start, start + self._size(type_.nbytes))

    def _size(self, size: Dim | str) -> int:
        if size not in self._sizes:
            dim = read_dim(size, self.symbols) if isinstance(size, str) else size
            self._sizes[size] = _number(dim, self.env)
        return self._sizes[size]

    def _instead(self, piece: _Bytes) -> str:
        lies = [v for at, (v, _) in self.holds.get(piece.area, {}).items() if at.meets(piece)]
        return f"where %{lies[0]} lies by then" if lies else "which nothing has written"

    def _broken(self, what: str) -> BrokenPlan:
        at = f" at {dict(self.env)}" if self.env else ""
        return BrokenPlan(f"graph {self.lowering.graph.name}{at}: {what}")
