"""A program: named graphs over one parameter store, one state declaration, one mesh."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from tilewright.dsl.builder import Location, TracedFunction
from tilewright.dsl.dims import Symbol
from tilewright.dsl.errors import InvalidModelFunction, ProgramError
from tilewright.dsl.graph import Graph
from tilewright.dsl.ident import Ident, Path, ident, path
from tilewright.dsl.placement import Mesh
from tilewright.dsl.symbols import agreed_symbols, graph_symbols
from tilewright.dsl.types import TensorType, Type


@dataclass(frozen=True, slots=True)
class Declared:
    """A parameter or a state: its path and its type."""

    path: Path
    type: Type


@dataclass(frozen=True, slots=True)
class Program:
    """Graphs that share parameters, states, mesh and symbols. Equality is that of the text form."""

    name: Ident
    graphs: tuple[Graph, ...]
    params: tuple[Declared, ...] = ()
    states: tuple[Declared, ...] = ()
    mesh: Mesh = field(default_factory=Mesh)

    @property
    def symbols(self) -> tuple[Symbol, ...]:
        """All symbols of all graphs, by name. Raises ProgramError where one name has two ranges."""
        return agreed_symbols(map(graph_symbols, self.graphs))

    def graph(self, name: str) -> Graph:
        """One graph. Raises ProgramError for an unknown name."""
        for graph in self.graphs:
            if graph.name == name:
                return graph
        known = ", ".join(g.name for g in self.graphs)
        raise ProgramError(f"program {self.name} has no graph {name!r}", fix=f"it has: {known}")

    def param(self, name: str) -> TensorType:
        """The type of a parameter. Raises ProgramError for an unknown path."""
        for declared in self.params:
            if declared.path == name and isinstance(declared.type, TensorType):
                return declared.type
        raise ProgramError(f"program {self.name} has no parameter {name!r}")

    def with_graphs(self, graphs: Sequence[Graph]) -> Program:
        """The same program over rewritten graphs; tables are collected anew."""
        return collect(self.name, graphs, self.mesh)


@dataclass(frozen=True)
class Traced:
    """A program with what lies beside it: where each value of each graph was written."""

    program: Program
    locations: Mapping[str, Mapping[Ident, Location]]


def collect(name: str, graphs: Iterable[Graph], mesh: Mesh | None = None) -> Program:
    """A program whose tables are what its graphs declare.

    Raises ProgramError where graphs disagree about a path or share a name.
    """
    kept = tuple(graphs)
    if len({g.name for g in kept}) != len(kept):
        raise ProgramError(f"program {name} has two graphs of one name")
    tables: dict[str, dict[str, Type]] = {"param": {}, "state": {}}
    for graph in kept:
        for entry in graph.inputs:
            table = tables.get(entry.role)
            if table is None:
                continue
            if table.setdefault(entry.path, entry.value.type) != entry.value.type:
                raise ProgramError(
                    f"{entry.role} {entry.path} is {table[entry.path]} in one graph and "
                    f"{entry.value.type} in {graph.name}"
                )
    params, states = (
        tuple(Declared(path(p), t) for p, t in tables[role].items()) for role in ("param", "state")
    )
    return Program(ident(name), kept, params, states, mesh or Mesh())


def program(name: str, *functions: TracedFunction, mesh: Mesh | None = None) -> Traced:
    """Traces several decorated functions into one program.

    Raises InvalidModelFunction for what is no decorated function, and what tracing raises.
    """
    for found in cast("tuple[object, ...]", functions):
        if not isinstance(found, TracedFunction):
            raise InvalidModelFunction(
                f"a program is made of functions decorated with @graph, not of a "
                f"{type(found).__name__}"
            )
    if not functions:
        raise ProgramError(f"program {name} has no graph", fix="program(name, function, ...)")
    built = [function.build(mesh) for function in functions]
    traced = collect(name, (graph for graph, _ in built), mesh)
    return Traced(traced, {graph.name: b.locations for graph, b in built})
