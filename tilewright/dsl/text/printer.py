"""Programs and graphs as text. There is one text for each, and `parser` reads it back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tilewright.dsl.dims import Symbol
from tilewright.dsl.graph import SYMBOL_TYPE, Graph, Input, Node, Output, Role
from tilewright.dsl.program import Program
from tilewright.dsl.symbols import graph_symbols
from tilewright.dsl.types import Type

Declarations = Mapping[tuple[Role, str], Type]
"""Types of parameters and states that a program states once for all its graphs."""

_WIDTH = 64
_MARKS: Mapping[Role, str] = {"param": "@", "state": "$"}


def print_program(program: Program) -> str:
    """The canonical text of a program."""
    declared: dict[tuple[Role, str], Type] = {}
    lines: list[str] = []
    if program.mesh.axes:
        lines.append("mesh (" + ", ".join(f"{n}={size}" for n, size in program.mesh.axes) + ")")
    lines.extend(map(symbol_text, program.symbols))
    for entry in program.params:
        declared["param", entry.path] = entry.type
        lines.append(f"param {entry.path}: {entry.type}")
    for entry in program.states:
        declared["state", entry.path] = entry.type
        lines.append(f"state {entry.path}: {entry.type}")
    lines.extend(graph_text(graph, declared) for graph in program.graphs)
    return _block(f"program {program.name}", lines) + "\n"


def print_graph(graph: Graph) -> str:
    """The canonical text of a graph that stands alone."""
    return "\n".join([*map(symbol_text, graph_symbols(graph)), graph_text(graph)]) + "\n"


def graph_text(graph: Graph, declared: Declarations | None = None) -> str:
    """A graph without the ranges of its symbols, and without the types that `declared` holds."""
    inputs = _list("graph " + graph.name, [_input_text(i, declared or {}) for i in graph.inputs])
    outputs = _list("", [_output_text(o) for o in graph.outputs])
    return _block(f"{inputs} -> {outputs}", map(node_text, graph.nodes))


def node_text(node: Node) -> str:
    """`v2: f32[4] = add(v0, v1)`; the attributes follow the operands."""
    results = ", ".join(f"{r.name}: {r.type}" for r in node.results)
    arguments: list[str] = [operand.name for operand in node.operands]
    if node.attrs:
        arguments.append(str(node.attrs))
    return f"{results} = {node.op}({', '.join(arguments)})"


def symbol_text(symbol: Symbol) -> str:
    """`symbol past = 0..2047`, and ` % 8` where it is a multiple of that."""
    text = f"symbol {symbol.name} = {symbol.lo}..{symbol.hi}"
    return text if symbol.multiple_of == 1 else f"{text} % {symbol.multiple_of}"


def _input_text(entry: Input, declared: Declarations) -> str:
    name, type_ = entry.value.name, entry.value.type
    mark = _MARKS.get(entry.role)
    if mark is not None:
        text = f"{mark}{entry.path} as {name}"
        return text if declared.get((entry.role, entry.path)) == type_ else f"{text}: {type_}"
    text = name if entry.path == name else f"{entry.path} as {name}"
    if entry.role == "input":
        return f"{text}: {type_}"
    return f"{text}: symbol" if type_ == SYMBOL_TYPE else f"{text}: symbol {type_}"


def _output_text(output: Output) -> str:
    if output.replaces is None:
        return f"{output.name}: {output.value.name}"
    target = f"${output.replaces} <- {output.value.name}"
    return target if output.name == output.replaces else f"{output.name}: {target}"


def _list(head: str, parts: Sequence[str]) -> str:
    line = ", ".join(parts)
    if len(line) <= _WIDTH and "\n" not in line:
        return f"{head}({line})"
    return f"{head}(\n" + ",\n".join(f"  {part}" for part in parts) + "\n)"


def _block(head: str, parts: Iterable[str]) -> str:
    lines = [head + " {"]
    lines.extend("  " + part.replace("\n", "\n  ") for part in parts)
    lines.append("}")
    return "\n".join(lines)
