"""The kernels of a compilation: one for each distinct region, however often it occurs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tilewright.dsl.dims import Dim
from tilewright.dsl.graph import Graph, Input, Node, Output
from tilewright.dsl.hashing import structural_hash
from tilewright.dsl.ident import Ident
from tilewright.dsl.symbols import graph_symbols


class Argument(Protocol):
    """A pointer of a kernel: component of operand (`x`) or result (`y`) number `place`."""

    @property
    def role(self) -> str: ...
    @property
    def place(self) -> int: ...
    @property
    def component(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Table:
    """A schedule table: up to `limit` of `rows` the kernel of that name, else the main one."""

    rows: Dim
    cases: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Lowered:
    """What a backend says of a region it has lowered.

    scratch: bytes on the stack of each thread, by shape class (`space.shape_class`).
    """

    arguments: Sequence[Argument]
    symbols: Sequence[str]
    table: Table | None = None
    scratch: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True)
class Kernel:
    """A lowered region: its name, what its pointers stand for, the dims it is given."""

    name: str
    arguments: Sequence[Argument]
    symbols: tuple[Dim, ...]
    region: Node
    table: Table | None = None
    scratch: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def dims(self) -> tuple[Dim, ...]:
        """Everything that a span computes for it."""
        return self.symbols if self.table is None else (*self.symbols, self.table.rows)


class Lowering(Protocol):
    """Lowers one region; the backend keeps the code."""

    def __call__(self, name: str, region: Node) -> Lowered:
        """Arguments, symbols and schedule table of the region's kernel."""
        ...


class KernelSet:
    """Kernels by the structure of their region."""

    def __init__(self, lower: Lowering, library: str) -> None:
        self.library = library
        self._lower = lower
        self._kernels: dict[str, Kernel] = {}

    def of(self, region: Node) -> Kernel:
        """The kernel of a region, lowered at its first occurrence."""
        graph = as_graph(region)
        key = structural_hash(graph)
        if key not in self._kernels:
            name = f"{stem(region)}_{key[:12]}"
            lowered = self._lower(name, region)
            dims = _dims(graph, lowered.symbols)
            self._kernels[key] = Kernel(
                name, lowered.arguments, dims, region, lowered.table, lowered.scratch
            )
        return self._kernels[key]

    @property
    def kernels(self) -> Mapping[str, Kernel]:
        """All kernels by name."""
        return {kernel.name: kernel for kernel in self._kernels.values()}


def as_graph(region: Node) -> Graph:
    """A region as a graph of one node, which has a structure and a text.

    Inputs and outputs are numbered: an operand's own name may be a path (`layers.3.v7`).
    """
    unique = {o.name: o for o in region.operands}
    inputs = tuple(Input(o, "input", Ident(f"x{i}")) for i, o in enumerate(unique.values()))
    outputs = tuple(Output(Ident(f"y{i}"), r) for i, r in enumerate(region.results))
    return Graph(Ident("region"), inputs, (region,), outputs)


def _dims(graph: Graph, names: Sequence[str]) -> tuple[Dim, ...]:
    from tilewright.dsl.dims import of_symbol

    table = {s.name: of_symbol(s) for s in graph_symbols(graph)}
    return tuple(table[Ident(name)] for name in names)


def stem(region: Node) -> str:
    """A readable name: the family, or the operation that stands alone."""
    return region.attrs.str("family") if region.op == "fused" else region.op
