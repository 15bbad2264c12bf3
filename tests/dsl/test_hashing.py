"""What the hashes see and what they do not."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings

from tests.depth import count
from tests.strategies import graphs
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import f32
from tilewright.dsl.graph import Graph, Input, Output, Value, map_values
from tilewright.dsl.hashing import structural_hash, text_hash
from tilewright.dsl.ident import Ident, value_name
from tilewright.dsl.text import parse_graph, parse_program, print_graph, print_program

TEXT = """\
symbol n = 1..64
graph g(x: f32[n, 3], @a.w as w: f32[3], $s as s: f32[3]) -> (out: b, $s <- d) {
  a: f32[n, 3] = add(x, w)
  b: f32[n, 3] = clamp(a, high=1.0, low=-1.0)
  d: f32[3] = add(w, s)
}
"""
GRAPH = parse_graph(TEXT)


def renamed(graph: Graph) -> Graph:
    """The same structure with every name that the structural hash leaves out changed."""
    other = map_values(graph, lambda v: Value(value_name(f"other_{v.name}"), v.type))
    inputs = [
        i
        if i.role == "symbol"
        else replace(i, path=f"other_{i.path}" if i.path[0].isalpha() else "o")
        for i in other.inputs
    ]
    places = {old.path: new.path for old, new in zip(other.inputs, inputs, strict=True)}
    return Graph(
        Ident("other"),
        tuple(inputs),
        other.nodes,
        tuple(
            Output(f"o{i}", o.value, None if o.replaces is None else places[o.replaces])
            for i, o in enumerate(other.outputs)
        ),
    )


@settings(max_examples=count(ci=50, deep=1000))
@given(graphs())
def test_names_are_left_out_of_the_structural_hash(graph: Graph) -> None:
    assert structural_hash(renamed(graph)) == structural_hash(graph)
    assert text_hash(renamed(graph)) != text_hash(graph)


def test_names_inside_a_body_are_left_out() -> None:
    text = (
        "graph g(x: f32[4]) -> (y: y) {\n"
        '  y: f32[4] = fused(x, family="loop", body=graph b(p: f32[4]) -> (q: q) {\n'
        "    q: f32[4] = neg(p)\n"
        "  })\n"
        "}\n"
    )
    one = parse_graph(text)
    other = parse_graph(text.replace("p:", "p2:").replace("(p)", "(p2)").replace("b(", "c("))
    assert text_hash(one) != text_hash(other)
    assert structural_hash(one) == structural_hash(other)
    assert structural_hash(parse_graph(text.replace("neg", "abs"))) != structural_hash(one)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("clamp(a, high=1.0", "clamp(a, high=2.0"),
        ("add(x, w)", "mul(x, w)"),
        ("add(x, w)", "add(w, x)"),
        ("add(w, s)", "add(s, w)"),
        ("(out: b", "(out: a"),
        ("$s <- d", "other: d"),
        ("1..64", "1..32"),
        ("@a.w as w", "w"),
        ("high=1.0, low=-1.0", "high=1.0, low=-1"),
    ],
)
def test_everything_else_counts(old: str, new: str) -> None:
    assert TEXT.count(old) == 1
    other = parse_graph(TEXT.replace(old, new))
    assert structural_hash(other) != structural_hash(GRAPH)
    assert text_hash(other) != text_hash(GRAPH)


def test_the_order_of_inputs_and_types_count() -> None:
    swapped = replace(GRAPH, inputs=(GRAPH.inputs[1], GRAPH.inputs[0], GRAPH.inputs[2]))
    assert structural_hash(swapped) != structural_hash(GRAPH)
    graphs_of_types = [
        Graph(Ident("g"), (Input(Value(Ident("x"), t), "input", "x"),), (), ())
        for t in (f32[3], f32[4], f32[dim("n", 1, 4)], f32[dim("n", 1, 5)], f32[dim("m", 1, 4)])
    ]
    assert len({structural_hash(g) for g in graphs_of_types}) == len(graphs_of_types)


def test_the_range_of_a_symbol_that_nothing_mentions_counts() -> None:
    text = "symbol past = 0..7\ngraph g(past: symbol) -> () {\n}\n"
    one = parse_graph(text)
    for old, new in (("0..7", "0..6"), ("0..7", "1..7"), ("0..7", "0..7 % 2"), ("past", "last")):
        other = parse_graph(text.replace(old, new))
        assert structural_hash(other) != structural_hash(one)
        assert text_hash(other) != text_hash(one)
    named = parse_graph(text.replace("past: symbol", "past as p: symbol"))
    assert structural_hash(named) == structural_hash(one)
    assert text_hash(named) != text_hash(one)


def test_the_types_of_results_count() -> None:
    node = GRAPH.nodes[2]
    other = replace(node, results=(Value(node.result.name, f32[4]),))
    changed = replace(GRAPH, nodes=(*GRAPH.nodes[:2], other))
    assert structural_hash(changed) != structural_hash(GRAPH)


def test_equal_texts_have_equal_hashes() -> None:
    assert text_hash(parse_graph(TEXT.replace("\n", "\n\n"))) == text_hash(GRAPH)
    text = "program p {\n  graph g(x: f32[2]) -> (out: x) {\n  }\n}\n"
    program = parse_program(text)
    assert print_program(program) == text
    assert text_hash(program) != text_hash(program.graphs[0])


SCRIPT = """
import sys
from tilewright.dsl.hashing import structural_hash, text_hash
from tilewright.dsl.text import parse_graph, print_graph
graph = parse_graph(sys.stdin.read())
print(text_hash(graph), structural_hash(graph))
"""


@pytest.mark.parametrize("seed", ["0", "1", "4242"])
def test_another_process_finds_the_same(seed: str) -> None:
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=print_graph(GRAPH),
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == [text_hash(GRAPH), structural_hash(GRAPH)]
