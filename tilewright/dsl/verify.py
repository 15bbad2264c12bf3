"""The laws of graphs and programs, checked in one sweep over the nodes."""

from __future__ import annotations

from collections.abc import Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tilewright.dsl.attrs import Attrs
from tilewright.dsl.dims import Symbol
from tilewright.dsl.encoding import components
from tilewright.dsl.errors import (
    AttributeError_,
    GraphError,
    PlacementError,
    ProgramError,
    TilewrightError,
)
from tilewright.dsl.graph import SYMBOL_TYPE, Graph, Input, Node, Value
from tilewright.dsl.ident import Ident, ident, path, value_name
from tilewright.dsl.linear import LinearState
from tilewright.dsl.op import OpDef, checked_attrs, get
from tilewright.dsl.placement import At, Mesh
from tilewright.dsl.program import Program
from tilewright.dsl.symbols import agreed_symbols, lone_symbol, symbol_occurrences
from tilewright.dsl.text.printer import node_text
from tilewright.dsl.text.value_reader import RESERVED
from tilewright.dsl.types import CacheType, TensorType, Type

_AROUND = 3
_LINE = 120


Application = tuple[str, tuple[Type, ...], Attrs]
"""An operation, its operands' types and its attributes: what the type rule looks at."""


@dataclass(eq=False, slots=True)
class Verified:
    """What has been verified on one mesh.

    Who verifies a program again and again (a pipeline, after each pass) hands the same object in:
    unchanged nodes are not inferred anew, nor are equal operations on equal types.
    """

    nodes: dict[int, Node] = field(default_factory=dict[int, Node])
    """Nodes, by identity, that obey laws 3 and 4."""
    types: dict[Application, tuple[Type, ...]] = field(
        default_factory=dict[Application, tuple[Type, ...]]
    )
    """What the type rule says."""


def verify(graph: Graph, mesh: Mesh | None = None, verified: Verified | None = None) -> None:
    """Raises the first law that a graph breaks, with the nodes around the fault.

    1. The graph, its inputs and symbols are named by identifiers; parameters, states and outputs
       by paths; values by identifiers or by paths that begin with one. No two values, inputs of
       one role or outputs share a name.
    2. Every operand is defined above its use, as the very value it is used as.
    3. Every operation exists and has its attributes, all of the declared kinds.
    4. Result types are what the operation's type rule says. Types name axes of the mesh, and
       their encodings fit their shapes.
    5. Outputs are defined.
    6. A symbol has one range, and is bound: it is a whole dimension of an input, or it has an
       input of its own, which is an i64 and carries the symbol of its name. Constants of the text
       form name no symbols.
    7. State is linear (see `linear`).
    8. Body graphs obey these laws too, over the symbols of the graph around them.
    """
    _GraphLaws(graph, mesh or Mesh(), verified or Verified()).check()
    _check_symbols(graph)


def verify_program(program: Program, verified: Verified | None = None) -> None:
    """Raises the first law that a program breaks.

    Every graph obeys the laws of `verify` over the program's mesh; names of graphs differ; every
    parameter and state is declared once and has its declared type in every graph; a parameter is
    a tensor; a symbol has one range in all graphs.
    """
    ident(program.name)
    for axis, _ in program.mesh.axes:
        ident(axis)
    if len({graph.name for graph in program.graphs}) != len(program.graphs):
        raise ProgramError(f"program {program.name} has two graphs of one name")
    declared: dict[tuple[str, str], Type] = {}
    for role, table in (("param", program.params), ("state", program.states)):
        for entry in table:
            if (role, path(entry.path)) in declared:
                raise ProgramError(f"{role} {entry.path} is declared twice")
            declared[role, entry.path] = entry.type
            if role == "param" and not isinstance(entry.type, TensorType):
                raise ProgramError(f"param {entry.path} is a cache", fix="declare a state")
    verified = verified or Verified()
    symbols: list[Collection[Symbol]] = []
    for graph in program.graphs:
        _GraphLaws(graph, program.mesh, verified).check()
        symbols.append(_check_symbols(graph))
        for entry in (*graph.by_role("param"), *graph.by_role("state")):
            wanted = declared.get((entry.role, entry.path))
            if wanted != entry.value.type:
                raise ProgramError(
                    f"{entry.role} {entry.path} is {entry.value.type} in graph {graph.name}, but "
                    + ("is not declared" if wanted is None else f"is declared as {wanted}")
                )
    agreed_symbols(symbols)


class _GraphLaws:
    """One graph under check: the values defined so far."""

    def __init__(self, graph: Graph, mesh: Mesh, verified: Verified) -> None:
        self.graph = graph
        self.mesh = mesh
        self.verified = verified
        self.defined: dict[Ident, Value] = {}
        self.position = 0
        """The node at which the sweep stands."""

    def check(self) -> None:
        ident(self.graph.name)
        self._inputs()
        state = LinearState(self.graph)
        with self._context():
            for position, node in enumerate(self.graph.nodes):
                self.position = position
                op = get(node.op)
                self._node(op, node)
                state.visit(position, node, op)
        self.position = len(self.graph.nodes)
        self._outputs()
        state.finish()

    def _inputs(self) -> None:
        seen: set[tuple[str, str]] = set()
        for entry in self.graph.inputs:
            check_name = path if entry.role in ("param", "state") else ident
            if (entry.role, check_name(entry.path)) in seen:
                raise GraphError(f"graph {self.graph.name} has two inputs {entry.path}")
            seen.add((entry.role, entry.path))
            self._symbol(entry)
            self._define(entry.value)

    def _symbol(self, entry: Input) -> None:
        carried = None if entry.symbol is None else entry.symbol.name
        if carried != (entry.path if entry.role == "symbol" else None):
            raise GraphError(
                f"{entry.role} {entry.path} of graph {self.graph.name} carries "
                + ("no symbol" if carried is None else f"symbol {carried}"),
                fix="make inputs that bind a symbol with `symbol_input`",
            )
        if entry.role == "symbol" and entry.value.type != SYMBOL_TYPE:
            raise GraphError(f"the value of symbol {entry.path} is {entry.value.type}, not i64")

    def _define(self, value: Value) -> None:
        value_name(value.name)
        self._type(value.type)
        self._name(value)

    def _name(self, value: Value) -> None:
        if value.name in self.defined:
            raise GraphError(f"%{value.name} is defined twice", fix="give every value its own name")
        self.defined[value.name] = value

    def _type(self, type_: Type) -> None:
        stored = type_.part if isinstance(type_, CacheType) else type_
        if not stored.is_dense:
            components(stored)
        for axis, place in stored.placement.entries:
            size = self.mesh.size(axis)
            if isinstance(place, At) and not 0 <= place.index < size:
                raise PlacementError(f"{type_}: mesh axis {axis} has only {size} coordinates")

    def _node(self, op: OpDef, node: Node) -> None:
        for operand in node.operands:
            self._use(operand)
        if self.verified.nodes.get(id(node)) is not node:
            self._infer(op, node)
            self.verified.nodes[id(node)] = node
        for result in node.results:
            self._name(result)

    def _infer(self, op: OpDef, node: Node) -> None:
        if (node.attrs or op.attrs) and checked_attrs(op, node.attrs) != node.attrs:
            raise AttributeError_(f"{op.name} lacks attributes: it has only ({node.attrs})")
        for value in node.attrs.values():
            if isinstance(value, Graph):
                _GraphLaws(value, self.mesh, self.verified).check()
        types = self._result_types(op, node)
        if not node.results or len(types) != len(node.results):
            raise GraphError(f"{op.name} gives {len(types)} results, not {len(node.results)}")
        for result, type_ in zip(node.results, types, strict=True):
            if result.type != type_:
                raise GraphError(f"%{result.name} is {result.type}, but {op.name} gives {type_}")
            value_name(result.name)
            self._type(type_)

    def _result_types(self, op: OpDef, node: Node) -> tuple[Type, ...]:
        operands = tuple(operand.type for operand in node.operands)
        application = (node.op, operands, node.attrs)
        found = self.verified.types.get(application)
        if found is None:
            found = self.verified.types[application] = op.infer(operands, node.attrs, self.mesh)
        return found

    def _use(self, value: Value) -> None:
        found = self.defined.get(value.name)
        if found is value or found == value:
            return
        if found is None:
            raise GraphError(
                f"%{value.name} is not defined here",
                fix="a value is defined above its uses, and in the same graph",
            )
        raise GraphError(f"%{value.name} is used as {value.type}, but is {found.type}")

    def _outputs(self) -> None:
        seen: set[str] = set()
        for output in self.graph.outputs:
            if path(output.name) in seen:
                raise GraphError(f"graph {self.graph.name} has two outputs {output.name}")
            seen.add(output.name)
            with self._context():
                self._use(output.value)

    @contextmanager
    def _context(self) -> Generator[None]:
        """Shows the nodes around the fault below its sentence."""
        try:
            yield
        except TilewrightError as mistake:
            place = f"node {self.position} of graph {self.graph.name}"
            if mistake.excerpt is None:
                mistake.where, mistake.excerpt = place, _excerpt(self.graph, self.position)
            else:  # the fault is in a body of this node
                mistake.where = f"{mistake.where}, in {place}"
            raise


def _excerpt(graph: Graph, position: int) -> str:
    first = max(0, position - _AROUND)
    lines: list[str] = []
    for index, node in enumerate(graph.nodes[first : position + _AROUND + 1], first):
        text = ascii(node_text(node).partition("\n")[0])[1:-1]
        shown = text if len(text) <= _LINE else f"{text[:_LINE]}..."
        lines.append(f"{'>' if index == position else ' '} {index:>5} | {shown}")
    if position == len(graph.nodes):
        lines.append(f"> {position:>5} | return")
    return "\n".join(lines)


def _check_symbols(graph: Graph) -> Collection[Symbol]:
    """Law 6; the symbols of the graph."""
    bound = {name for entry in graph.inputs for name in _bound(entry)}
    ranges: dict[str, Symbol] = {}
    for symbol in symbol_occurrences(graph):
        known = ranges.setdefault(symbol.name, symbol)
        if known != symbol:
            raise GraphError(
                f"symbol {symbol.name} has two ranges in graph {graph.name}: {known.lo}..{known.hi}"
                f" % {known.multiple_of} and {symbol.lo}..{symbol.hi} % {symbol.multiple_of}",
                fix=f"declare {symbol.name} once, and use it everywhere",
            )
    for name in sorted(ranges):
        if name in RESERVED:
            raise GraphError(f"{name} is a constant", fix="name the symbol otherwise")
        if name not in bound:
            raise GraphError(
                f"symbol {name} of graph {graph.name} has no value",
                fix=f"make {name} a whole dimension of an input, or an argument of the graph",
            )
    return ranges.values()


def _bound(entry: Input) -> list[str]:
    """The symbols whose values an input gives."""
    if entry.role == "symbol":
        return [entry.path]
    if entry.role != "input" or not isinstance(entry.value.type, TensorType):
        return []
    lone = (lone_symbol(size) for size in entry.value.type.shape)
    return [symbol.name for symbol in lone if symbol is not None]
