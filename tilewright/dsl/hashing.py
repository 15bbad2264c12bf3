"""Hashes of graphs: of the text, and of the structure without its names."""

from __future__ import annotations

import hashlib

from tilewright.dsl.attrs import Attr, Attrs, attr_text
from tilewright.dsl.graph import Graph
from tilewright.dsl.ident import Ident
from tilewright.dsl.program import Program
from tilewright.dsl.symbols import graph_symbols
from tilewright.dsl.text.printer import print_graph, print_program, symbol_text

_BYTES = 32


def text_hash(of: Program | Graph) -> str:
    """The hash of the canonical text, in hexadecimal: equal for equal programs or graphs."""
    text = print_program(of) if isinstance(of, Program) else print_graph(of)
    return _hash(text)


def structural_hash(graph: Graph) -> str:
    """The hash of everything but names, in hexadecimal.

    Left out are the names of the graph, of values and of outputs, and the paths of inputs. Kept
    are the order and the roles of inputs, which state an output replaces, operations, attributes,
    types, and symbols with their names and ranges.
    """
    return _hash("\n".join([*map(symbol_text, graph_symbols(graph)), *_lines(graph)]))


def _lines(graph: Graph) -> list[str]:
    number: dict[Ident, int] = {}
    lines: list[str] = []
    states: dict[str, int] = {}
    for index, entry in enumerate(graph.inputs):
        number[entry.value.name] = len(number)
        lines.append(f"{entry.role} {entry.value.type}")
        if entry.role == "symbol":
            lines.append(entry.path)  # the name of a symbol, which is kept
        elif entry.role == "state":
            states[entry.path] = index
    for node in graph.nodes:
        read = " ".join(str(number[operand.name]) for operand in node.operands)
        types = ", ".join(str(result.type) for result in node.results)
        lines.append(f"{node.op}({read}; {_attrs(node.attrs)}) -> {types}")
        for result in node.results:
            number[result.name] = len(number)
    for output in graph.outputs:
        target = "" if output.replaces is None else f" <- {states[output.replaces]}"
        lines.append(f"return {number[output.value.name]}{target}")
    return lines


def _attrs(attrs: Attrs) -> str:
    if not any(isinstance(value, Graph) for value in attrs.values()):
        return str(attrs)
    return ", ".join(f"{name}={_attr(value)}" for name, value in attrs.items())


def _attr(value: Attr) -> str:
    return "{" + "; ".join(_lines(value)) + "}" if isinstance(value, Graph) else attr_text(value)


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=_BYTES).hexdigest()
