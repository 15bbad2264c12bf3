"""The text form read back: every node is rebuilt through its operation and checked against it.

A mistake is raised as the class that names it, with line, column and carets. What needs more than
one place to be seen (bound symbols, linear state, agreement with the program) is `verify`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from tilewright.dsl import ops as ops  # fills the registry
from tilewright.dsl.attrs import Attr
from tilewright.dsl.dims import Symbol
from tilewright.dsl.errors import (
    AttributeError_,
    GraphError,
    ProgramError,
    TextSyntaxError,
)
from tilewright.dsl.graph import SYMBOL_TYPE, Graph, Input, Node, Output, Value, symbol_input
from tilewright.dsl.ident import Ident, ident, path, value_name
from tilewright.dsl.op import OpDef, checked_attrs, get
from tilewright.dsl.placement import Mesh
from tilewright.dsl.program import Declared, Program
from tilewright.dsl.text.syntax import MAX_SYMBOLS, Source
from tilewright.dsl.text.type_reader import TypeReader, number, tokens, trees
from tilewright.dsl.text.value_reader import RESERVED, ValueReader
from tilewright.dsl.types import Type

if TYPE_CHECKING:
    from lark import Token, Tree


def parse_program(text: str, source: str = "<text>") -> Program:
    """Reads `print_program`'s text; `source` names it in messages. Raises TilewrightError."""
    return _Reader(Source(text, source), Mesh()).program()


def parse_graph(text: str, source: str = "<text>", mesh: Mesh | None = None) -> Graph:
    """Reads `print_graph`'s text, over a mesh if types name its axes. Raises TilewrightError."""
    return _Reader(Source(text, source), mesh or Mesh()).alone()


class _Reader:
    """What the declarations of one text have said so far."""

    def __init__(self, source: Source, mesh: Mesh) -> None:
        self.source = source
        self.mesh = mesh
        self.symbols: dict[str, Symbol] = {}
        self.params: dict[str, Type] = {}
        self.states: dict[str, Type] = {}
        self.types = TypeReader(source, self.symbols)

    def alone(self) -> Graph:
        *declared, graph = trees(self.source.parse("alone"))
        for part in declared:
            self._symbol(part)
        return GraphReader(self).read(graph)

    def program(self) -> Program:
        name, *items = self.source.parse("program").children
        parts = cast("list[Tree[Token]]", items)
        for part in parts:
            self._declaration(part)
        graphs = [GraphReader(self).read(p) for p in parts if p.data == "graph"]
        with self.source.at(cast("Token", name)):
            found = ident(str(name))
        return Program(
            found,
            tuple(graphs),
            tuple(Declared(path(p), t) for p, t in self.params.items()),
            tuple(Declared(path(p), t) for p, t in self.states.items()),
            self.mesh,
        )

    def _declaration(self, part: Tree[Token]) -> None:
        match part.data:
            case "mesh":
                self._mesh(part)
            case "symbol":
                self._symbol(part)
            case "param" | "state":
                self._declared(part)
            case _:
                pass

    def _mesh(self, tree: Tree[Token]) -> None:
        with self.source.at(tree):
            if self.mesh.axes:
                raise ProgramError("a program has one mesh")
            axes = [tokens(axis) for axis in trees(tree)]
            self.mesh = Mesh(tuple((ident(str(name)), number(size)) for name, size in axes))

    def _symbol(self, tree: Tree[Token]) -> None:
        name, *numbers = tokens(tree)
        with self.source.at(name):
            if name in self.symbols:
                raise ProgramError(f"symbol {name} is declared twice")
            if name in RESERVED:
                raise ProgramError(f"{name} is a constant", fix="name the symbol otherwise")
            if len(self.symbols) == MAX_SYMBOLS:
                raise ProgramError(f"a text declares at most {MAX_SYMBOLS} symbols")
            self.symbols[str(name)] = Symbol(ident(str(name)), *map(number, numbers))

    def _declared(self, tree: Tree[Token]) -> None:
        table = self.params if tree.data == "param" else self.states
        place, type_ = cast("tuple[Token, Tree[Token]]", tuple(tree.children))
        with self.source.at(place):
            if place in table:
                raise ProgramError(f"{tree.data} {place} is declared twice")
            table[path(str(place))] = self.types.type(type_)


class GraphReader:
    """One graph: the values defined so far, in order."""

    def __init__(self, outer: _Reader) -> None:
        self._outer = outer
        self._at = outer.source.at
        self._values: dict[str, Value] = {}
        self._attrs = ValueReader(outer.types, lambda tree: GraphReader(outer).read(tree))

    def read(self, tree: Tree[Token]) -> Graph:
        """The graph. Raises the first mistake."""
        _, name, inputs, outputs, nodes = tree.children
        with self._at(name):
            found = ident(str(name))
        return Graph(
            found,
            tuple(map(self._input, trees(cast("Tree[Token]", inputs)))),
            tuple(map(self._node, trees(cast("Tree[Token]", nodes)))),
            tuple(map(self._output, trees(cast("Tree[Token]", outputs)))),
        )

    def _define(self, name: Token, type_: Type) -> Value:
        with self._at(name):
            if name in self._values:
                raise GraphError(f"%{name} is defined twice", fix="give every value its own name")
            value = Value(value_name(str(name)), type_)
        self._values[value.name] = value
        return value

    def _use(self, name: Token) -> Value:
        found = self._values.get(name)
        if found is None:
            with self._at(name):
                raise GraphError(
                    f"%{value_name(str(name))} is not defined here",
                    fix="a value is defined above its uses, and in the same graph",
                )
        return found

    def _input(self, tree: Tree[Token]) -> Input:
        parts = [child for child in tree.children if isinstance(child, str)]
        outside, name = parts[0], parts[-1]
        types = [child for child in tree.children if not isinstance(child, str)]
        match tree.data:
            case "plain_input":
                value = self._define(name, self._outer.types.type(types[0]))
                return Input(value, "input", self._name(outside))
            case "symbol_input":
                symbol = self._symbol(outside)
                return symbol_input(self._define(name, SYMBOL_TYPE).name, symbol)
            case "param_input":
                type_ = self._stored(outside, types, self._outer.params)
                return Input(self._define(name, type_), "param", self._path(outside))
            case _:
                type_ = self._stored(outside, types, self._outer.states)
                return Input(self._define(name, type_), "state", self._path(outside))

    def _symbol(self, token: Token) -> Symbol:
        found = self._outer.symbols.get(self._name(token))
        if found is None:
            with self._at(token):
                raise ProgramError(
                    f"symbol {token} is not declared",
                    fix=f"state its range above all graphs: symbol {token} = 0..2047",
                )
        return found

    def _stored(self, place: Token, types: list[Tree[Token]], table: dict[str, Type]) -> Type:
        if types:
            return self._outer.types.type(types[0])
        found = table.get(place[1:])
        if found is None:
            with self._at(place):
                raise ProgramError(
                    f"{place} is not declared", fix="declare it in the program, or write its type"
                )
        return found

    def _name(self, token: Token) -> Ident:
        with self._at(token):
            return ident(str(token))

    def _path(self, token: Token) -> str:
        """A path, without the mark that may stand before it."""
        with self._at(token):
            return path(str(token).lstrip("@$"))

    def _output(self, tree: Tree[Token]) -> Output:
        *names, value = tokens(tree)
        replaces = self._path(names[-1]) if tree.data == "state_output" else None
        return Output(self._path(names[0]), self._use(value), replaces)

    def _node(self, tree: Tree[Token]) -> Node:
        results, op_name, arguments = tree.children
        with self._at(op_name):
            op = get(str(op_name))
        operands: list[Value] = []
        given: dict[str, Attr] = {}
        for argument in trees(cast("Tree[Token]", arguments)):
            if argument.data == "attr":
                self._attr(op, argument, given)
            elif given:
                with self._at(argument):
                    raise TextSyntaxError("an operand stands before all attributes")
            else:
                operands.append(self._use(tokens(argument)[0]))
        with self._at(op_name):
            attrs = checked_attrs(op, given)
            types = op.infer([o.type for o in operands], attrs, self._outer.mesh)
        made = self._results(cast("Tree[Token]", results), types, op)
        return Node(op.name, tuple(operands), made, attrs)

    def _attr(self, op: OpDef, tree: Tree[Token], given: dict[str, Attr]) -> None:
        name, value = cast("tuple[Token, Tree[Token]]", tuple(tree.children))
        with self._at(name):
            if name in given:
                raise AttributeError_(f"attribute {name} is given twice")
            if name not in op.attrs:
                known = ", ".join(op.attrs) or "none"
                raise AttributeError_(f"{op.name} has no attribute {name}", fix=f"it has: {known}")
        with self._at(value):
            given[str(name)] = self._attrs.read(value, op.attrs[name])

    def _results(self, tree: Tree[Token], types: tuple[Type, ...], op: OpDef) -> tuple[Value, ...]:
        parts = trees(tree)
        if len(parts) != len(types):
            with self._at(tree):
                raise GraphError(f"{op.name} has {len(types)} results, the text {len(parts)}")
        made: list[Value] = []
        for part, wanted in zip(parts, types, strict=True):
            name, written = cast("tuple[Token, Tree[Token]]", tuple(part.children))
            found = self._outer.types.type(written)
            if found != wanted:
                with self._at(written):
                    raise GraphError(
                        f"%{name} is written as {found}, but {op.name} gives {wanted}",
                        fix=f"write {wanted}",
                    )
            made.append(self._define(name, found))
        return tuple(made)
