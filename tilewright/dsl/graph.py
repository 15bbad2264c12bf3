"""The IR: immutable graphs in SSA form.

A graph holds inputs, nodes in an order of evaluation, and named outputs. Values are compared by
name and type; a graph's equality is that of its text form. Nothing here recurses over depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from tilewright.dsl.attrs import EMPTY, Attrs, substitute_attrs
from tilewright.dsl.dims import Dim, Symbol, substitute
from tilewright.dsl.dtypes import i64
from tilewright.dsl.errors import GraphError
from tilewright.dsl.ident import Ident
from tilewright.dsl.types import CacheType, TensorType, Type

Role = Literal["input", "param", "state", "symbol"]

SYMBOL_TYPE: Final = TensorType((), i64)
"""The type of the value that binds a symbol."""


@dataclass(frozen=True, slots=True)
class Value:
    """One SSA value."""

    name: Ident
    type: Type

    @property
    def tensor(self) -> TensorType:
        """The type of a tensor value. Raises GraphError for a cache."""
        if isinstance(self.type, TensorType):
            return self.type
        raise GraphError(f"%{self.name} is a cache, not a tensor")

    @property
    def cache(self) -> CacheType:
        """The type of a cache value. Raises GraphError for a tensor."""
        if isinstance(self.type, CacheType):
            return self.type
        raise GraphError(f"%{self.name} is a tensor, not a cache")


@dataclass(frozen=True, slots=True)
class Node:
    """One application of an operation."""

    op: str
    operands: tuple[Value, ...]
    results: tuple[Value, ...]
    attrs: Attrs = EMPTY

    @property
    def result(self) -> Value:
        """The only result. Raises GraphError where there are several."""
        if len(self.results) == 1:
            return self.results[0]
        raise GraphError(f"{self.op} has {len(self.results)} results, not one")


@dataclass(frozen=True, slots=True)
class Input:
    """An argument of a graph: from the caller, a parameter, a state or a symbol's value.

    `path` is its name outside: the signature's name, the parameter's path, the state's path or the
    symbol's name. `symbol`, which an input of that role has and no other, is what the scalar binds,
    with the range that its values must keep whether or not anything else mentions it.
    """

    value: Value
    role: Role
    path: str
    symbol: Symbol | None = None


def symbol_input(name: Ident, symbol: Symbol) -> Input:
    """The input that binds a symbol, its value called `name`."""
    return Input(Value(name, SYMBOL_TYPE), "symbol", symbol.name, symbol)


@dataclass(frozen=True, slots=True)
class Output:
    """A named result; `replaces` names the state input whose storage it takes over."""

    name: str
    value: Value
    replaces: str | None = None


@dataclass(frozen=True, slots=True)
class Graph:
    """A pure function of its inputs."""

    name: Ident
    inputs: tuple[Input, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Output, ...]

    def __str__(self) -> str:
        """The canonical text without the symbols' ranges, as it stands in a program."""
        from tilewright.dsl.text.printer import graph_text

        return graph_text(self)

    def by_role(self, role: Role) -> tuple[Input, ...]:
        """Inputs of one role, in order."""
        return tuple(i for i in self.inputs if i.role == role)

    @property
    def input_values(self) -> tuple[Value, ...]:
        """The values that the inputs define."""
        return tuple(i.value for i in self.inputs)

    @property
    def output_values(self) -> tuple[Value, ...]:
        """The values that are returned."""
        return tuple(o.value for o in self.outputs)


_ValueMap = Callable[[Value], Value]
_AttrsMap = Callable[[Attrs], Attrs]


def producers(graph: Graph) -> dict[Ident, Node]:
    """The node that defines each value (inputs have none)."""
    return {result.name: node for node in graph.nodes for result in node.results}


def uses(graph: Graph) -> dict[Ident, list[Node]]:
    """The nodes that read each value, in order; outputs of the graph do not count."""
    found: dict[Ident, list[Node]] = {}
    for node in graph.nodes:
        for name in dict.fromkeys(operand.name for operand in node.operands):
            found.setdefault(name, []).append(node)
    return found


def substitute_type(type_: Type, env: Mapping[str, Dim]) -> Type:
    """The type with symbols replaced."""
    if isinstance(type_, TensorType):
        return type_.with_shape(tuple(_dim(d, env) for d in type_.shape))
    return replace(type_, batch=_dim(type_.batch, env), capacity=_dim(type_.capacity, env))


def _dim(size: Dim, env: Mapping[str, Dim]) -> Dim:
    return size if isinstance(size, int) else substitute(size, env)


def substitute_graph(graph: Graph, env: Mapping[str, Dim]) -> Graph:
    """The graph with symbols replaced in every type and attribute; inputs still bind them."""
    table: dict[Ident, Value] = {}

    def value(v: Value) -> Value:
        if v.name not in table:
            table[v.name] = Value(v.name, substitute_type(v.type, env))
        return table[v.name]

    return map_values(graph, value, lambda attrs: substitute_attrs(attrs, env))


def map_values(graph: Graph, value: _ValueMap, attrs: _AttrsMap | None = None) -> Graph:
    """The graph with every value (and, if given, every attribute set) passed through a function."""
    return Graph(
        graph.name,
        tuple(replace(i, value=value(i.value)) for i in graph.inputs),
        tuple(
            Node(
                node.op,
                tuple(map(value, node.operands)),
                tuple(map(value, node.results)),
                node.attrs if attrs is None else attrs(node.attrs),
            )
            for node in graph.nodes
        ),
        tuple(Output(o.name, value(o.value), o.replaces) for o in graph.outputs),
    )


def extract(graph_name: Ident, nodes: Sequence[Node], outputs: Iterable[Value]) -> Graph:
    """The sub-graph made of `nodes`; its inputs are the values they read and do not define.

    Inputs are called x0, x1 ..., outputs y0, y1 ...; values keep their names.
    """
    defined = {result.name for node in nodes for result in node.results}
    read: dict[Ident, Value] = {}
    for node in nodes:
        for operand in node.operands:
            if operand.name not in defined:
                read.setdefault(operand.name, operand)
    return Graph(
        graph_name,
        tuple(Input(v, "input", f"x{i}") for i, v in enumerate(read.values())),
        tuple(nodes),
        tuple(Output(f"y{i}", v) for i, v in enumerate(outputs)),
    )
