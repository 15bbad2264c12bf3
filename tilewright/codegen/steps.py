"""From a partitioned graph and its memory plan to slots and steps of the runtime.

Kernels in a row form one span. A barrier stands before a kernel that touches what an earlier kernel
since the last barrier has written, or writes what one has read. A collective is posted where it
stands, and waited for before the first step that touches its result or its memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from msgspec import structs

from tilewright.codegen.hazards import Bytes, Since, bytes_of
from tilewright.codegen.kernels import Kernel, KernelSet, as_graph
from tilewright.codegen.mesh import for_lowering
from tilewright.dsl.dims import Dim, to_text
from tilewright.dsl.errors import CompilerBug
from tilewright.dsl.graph import Graph, Node, Value
from tilewright.dsl.hashing import structural_hash
from tilewright.dsl.op import get
from tilewright.dsl.ops.state import requirements
from tilewright.dsl.symbols import graph_symbols
from tilewright.dsl.text.printer import print_graph
from tilewright.dsl.types import TensorType
from tilewright.passes.joins import joined_at
from tilewright.passes.kinds import kind_of
from tilewright.passes.memory import Location, MemoryPlan, parts, plan_memory
from tilewright.runtime.schema import (
    CollectiveStep,
    CopyStep,
    GraphPlan,
    HostStep,
    Port,
    ReferenceStep,
    Slot,
    SpanStep,
    Step,
)


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel with its slots, in a span under construction."""

    kernel: Kernel
    slots: tuple[int, ...]
    barrier: bool


@dataclass(frozen=True, slots=True)
class SpanPlan:
    """A native function that runs these launches, and the table of dims it is given."""

    symbol: str
    launches: tuple[Launch, ...]
    dims: tuple[Dim, ...]
    slots: tuple[int, ...]


@dataclass
class GraphLowering:
    """The steps of one graph while they are collected."""

    graph: Graph
    kernels: KernelSet
    memory: MemoryPlan
    interprets: Callable[[Node], bool] = lambda node: False
    """Whether a region is run by its meaning instead of by a kernel."""
    regions: dict[str, str] = field(default_factory=dict[str, str])
    """The texts of such regions, by file name."""
    slots: list[Slot] = field(default_factory=list[Slot])
    steps: list[Step] = field(default_factory=list[Step])
    spans: list[SpanPlan] = field(default_factory=list[SpanPlan])
    launched: list[tuple[str, Node]] = field(default_factory=list[tuple[str, Node]])
    """Every region that was lowered, in order, with the name of what runs it."""
    copied: list[Value] = field(default_factory=list[Value])
    """What each copy step copies."""
    _numbers: dict[Slot, int] = field(default_factory=dict[Slot, int])
    _posted: dict[int, tuple[CollectiveStep, Bytes, Bytes]] = field(
        default_factory=dict[int, "tuple[CollectiveStep, Bytes, Bytes]"]
    )
    """Collectives that nobody has waited for, with the bytes they read and write."""
    _open: list[Launch] = field(default_factory=list[Launch])
    _since: Since = field(default_factory=Since)

    def slot(self, location: Location) -> int:
        """The number of an address, entered once."""
        entry = Slot(location.place, location.name, _text(location.offset))
        if entry not in self._numbers:
            self._numbers[entry] = len(self.slots)
            self.slots.append(entry)
        return self._numbers[entry]

    def node(self, node: Node) -> None:
        """Adds what one node does."""
        if kind_of(node.op) == "alias":
            return
        self._wait_for(node)
        if get(node.op).is_collective:
            self._close()
            self._collective(node)
            return
        if kind_of(node.op) == "join":
            self._join(node)
            return
        if kind_of(node.op) == "host":
            self._close()
            self._host(node)
            return
        if self.interprets(node):
            self._close()
            self._reference(node)
            return
        self._launch(node)

    def _launch(self, node: Node) -> None:
        kernel = self.kernels.of(node)
        places: list[Location] = []
        touched: dict[str, set[Bytes]] = {"x": set(), "y": self._consumed(node)}
        for argument in kernel.arguments:
            value = (node.operands if argument.role == "x" else node.results)[argument.place]
            places.append(self.memory.locations[value.name, argument.component])
            touched[argument.role].add(self._area(value, argument.component))
        reads, writes = touched["x"], touched["y"]
        barrier = self._since.next(reads, writes)
        slots = tuple(map(self.slot, places))
        self._open.append(Launch(kernel, slots, barrier))
        self.launched.append((kernel.name, node))

    def _consumed(self, node: Node) -> set[Bytes]:
        """What a state operation writes in place."""
        return {
            self._area(node.operands[place], part)
            for place in get(node.op).consumes
            for part in parts(node.operands[place].type)
        }

    def _area(self, value: Value, part: str) -> Bytes:
        return bytes_of(value, part, self.memory)

    def _close(self) -> None:
        """Ends the span under construction."""
        if not self._open:
            return
        launches = tuple(self._open)
        dims = tuple(dict.fromkeys(d for launch in launches for d in launch.kernel.dims))
        slots = tuple(dict.fromkeys(s for launch in launches for s in launch.slots))
        symbol = f"tw_{self.graph.name}_{len(self.spans)}"
        self.spans.append(SpanPlan(symbol, launches, dims, slots))
        names = [launch.kernel.name for launch in launches]
        texts = [_text(d) for d in dims]
        self.steps.append(SpanStep(self.kernels.library, symbol, texts, list(slots), names))
        self._open = []
        self._since = Since()

    def _reference(self, node: Node) -> None:
        region = as_graph(node)
        name = f"reference/{structural_hash(region)[:16]}.tw"
        self.regions.setdefault(name, print_graph(region))
        self.launched.append((name, node))
        inputs = self._component_slots(region.input_values)
        outputs = self._component_slots(region.output_values)
        self.steps.append(ReferenceStep(name, inputs, outputs))

    def _join(self, node: Node) -> None:
        """Copies what is not made where it is joined."""
        whole = self.memory.locations[node.result.name, "data"]
        for operand, offset in joined_at(node):
            there = replace(whole, offset=whole.offset + offset)
            if self.memory.locations[operand.name, "data"] != there:
                self._close()
                self._copy(operand, there)

    def _copy(self, value: Value, there: Location) -> None:
        source = self.slot(self.memory.locations[value.name, "data"])
        self.steps.append(CopyStep(source, self.slot(there), _text(value.tensor.nbytes)))
        self.copied.append(value)

    def _host(self, node: Node) -> None:
        """One operation that NumPy runs."""
        (x,) = node.operands
        (source,) = self._component_slots([x])
        shape = [_text(size) for size in x.tensor.shape]
        targets = self._component_slots(node.results)
        self.steps.append(HostStep(node.op, x.tensor.dtype.name, shape, source, targets))
        self.launched.append((f"host_{node.op}", node))

    def _component_slots(self, values: Sequence[Value]) -> list[int]:
        return [
            self.slot(self.memory.locations[value.name, part])
            for value in values
            for part in parts(value.type)
        ]

    def _collective(self, node: Node) -> None:
        """Posts; `_wait_for` waits."""
        (x,), (result,) = node.operands, node.results
        if not node.attrs.int("size"):
            raise CompilerBug(f"%{result.name}: {node.op} of the global view has no step: localize")
        source, target = (self.memory.locations[v.name, "data"] for v in (x, result))
        post = CollectiveStep(
            "post",
            len(self.steps),
            node.op,
            node.attrs.str("axis"),
            node.attrs.str("reduction") if "reduction" in node.attrs else "",
            x.tensor.dtype.name,
            self.slot(source),
            self.slot(target),
            _text(x.tensor.numel),
        )
        self.steps.append(post)
        self._posted[post.handle] = post, self._area(x, "data"), self._area(result, "data")

    def _wait_for(self, node: Node) -> None:
        """Waits for collectives whose result the node reads, or whose memory it writes."""
        if not self._posted:
            return
        reads, writes = (
            {self._area(v, part) for v in values for part in parts(v.type)}
            for values in (node.operands, node.results)
        )
        writes |= self._consumed(node)
        for handle, (_, source, target) in [*self._posted.items()]:
            if target.meets(reads | writes) or source.meets(writes):
                self._wait(handle)

    def _wait(self, handle: int) -> None:
        self._close()
        post, _, _ = self._posted.pop(handle)
        self.steps.append(structs.replace(post, phase="wait"))

    def finish(self) -> GraphPlan:
        """The plan of the whole graph."""
        self._close()
        for handle in [*self._posted]:
            self._wait(handle)
        for each in self.memory.copies:
            self._copy(each.value, Location("output", each.output))
        graph = self.graph
        return GraphPlan(
            name=graph.name,
            inputs=[port(i.path, i.value.tensor) for i in graph.by_role("input")],
            bound=[i.path for i in graph.by_role("symbol")],
            outputs=[port(o.name, o.value.tensor) for o in graph.outputs if o.replaces is None],
            states=[i.path for i in graph.by_role("state")],
            symbols=[s.name for s in graph_symbols(graph)],
            slots=self.slots,
            steps=self.steps,
            arena=_text(self.memory.arena),
            arena_bound=self.memory.bound,
            requires=[_text(d) for d in call_requirements(graph)],
        )


def lower_graph(
    graph: Graph, kernels: KernelSet, interprets: Callable[[Node], bool] = lambda node: False
) -> GraphLowering:
    """Slots, steps and spans of one partitioned graph; `interprets`: what gets no kernel."""
    ready = for_lowering(graph)
    lowering = GraphLowering(ready, kernels, plan_memory(ready), interprets)
    for node in ready.nodes:
        lowering.node(node)
    return lowering


def call_requirements(graph: Graph) -> Sequence[Dim]:
    """What must not be negative for the state operations to stay inside their caches."""
    found: dict[Dim, None] = {}
    for node in graph.nodes:
        inner = node.attrs.graph("body").nodes if node.op == "fused" else (node,)
        for each in inner:
            for size in requirements(each.op, [o.type for o in each.operands], each.attrs):
                found.setdefault(size)
    return [*found]


def port(name: str, type_: TensorType) -> Port:
    """A dense array as the caller sees it."""
    return Port(name, type_.dtype.name, [_text(d) for d in type_.shape])


def _text(size: Dim) -> str:
    return str(size) if isinstance(size, int) else to_text(size)
