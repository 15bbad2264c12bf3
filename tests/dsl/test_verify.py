"""Every law of the verifier, broken on its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings

from tests.depth import count
from tests.strategies import graphs, mesh_programs, programs
from tilewright.dsl.attrs import Attrs
from tilewright.dsl.dims import Symbol, dim
from tilewright.dsl.dtypes import f32, i64
from tilewright.dsl.encoding import IntFormat, Quantized
from tilewright.dsl.errors import (
    AttributeError_,
    EncodingError,
    GraphError,
    InvalidName,
    LinearStateError,
    PlacementError,
    ProgramError,
    ShapeError,
    TilewrightError,
    UnknownOp,
)
from tilewright.dsl.graph import Graph, Input, Node, Output, Value, symbol_input
from tilewright.dsl.ident import Ident, Path
from tilewright.dsl.linear import consumed_operands
from tilewright.dsl.op import get
from tilewright.dsl.ops.region import Fused
from tilewright.dsl.placement import At, Local, Mesh, Placement
from tilewright.dsl.program import Declared, Program
from tilewright.dsl.text import parse_graph, parse_program
from tilewright.dsl.types import CacheType, TensorType, Type
from tilewright.dsl.verify import verify, verify_program


@settings(max_examples=count(ci=100, deep=2000))
@given(graphs())
def test_random_graphs_obey_the_laws(graph: Graph) -> None:
    verify(graph)


@settings(max_examples=count(ci=50, deep=1000))
@given(programs())
def test_random_programs_obey_the_laws(program: Program) -> None:
    verify_program(program)


@settings(max_examples=count(ci=50, deep=1000))
@given(mesh_programs())
def test_random_programs_on_a_mesh_obey_the_laws(program: Program) -> None:
    verify_program(program)


# --- graphs ---------------------------------------------------------------------------------------

CHAIN = parse_graph("""
graph g(x: f32[4], y: f32[4]) -> (out: c, other: a) {
  a: f32[4] = add(x, y)
  b: f32[4] = clamp(a, low=0.0, high=1.0)
  c: f32[4] = mul(a, b)
}
""")
X, Y = CHAIN.input_values
SYMBOL = Symbol(Ident("n"), 1, 8)
A, B, C = CHAIN.nodes


def named(name: str, type_: Type = f32[4]) -> Value:
    return Value(Ident(name), type_)


def with_nodes(*nodes: Node) -> Graph:
    return replace(CHAIN, nodes=nodes)


def with_inputs(*inputs: Input) -> Graph:
    return replace(CHAIN, inputs=inputs)


def with_input_type(type_: Type) -> Graph:
    return replace(CHAIN, inputs=(*CHAIN.inputs, Input(named("z", type_), "input", "z")))


def with_input(symbol: str | None, carries: Symbol | None) -> Graph:
    """One input more: what binds the symbol of that name, or a plain one."""
    value = named("z", i64[()])
    plain = Input(value, "input", "z", carries)
    return with_inputs(
        *CHAIN.inputs, plain if symbol is None else Input(value, "symbol", symbol, carries)
    )


BROKEN: list[tuple[Graph, type[TilewrightError], str]] = [
    (replace(CHAIN, name=Ident("g g")), InvalidName, "g g"),
    (with_nodes(replace(A, results=(named("a\n"),)), B, C), InvalidName, "not a name"),
    (with_nodes(A, replace(B, results=(named("x"),)), C), GraphError, "%x is defined twice"),
    (with_nodes(A, A, B, C), GraphError, "%a is defined twice"),
    (with_nodes(B, A, C), GraphError, "%a is not defined"),
    (with_nodes(A, C), GraphError, "%b is not defined"),
    (with_nodes(A, B, replace(C, operands=(A.result, C.result))), GraphError, "%c is not defined"),
    (
        with_nodes(A, B, replace(C, operands=(A.result, named("b", f32[1])))),
        GraphError,
        r"f32\[1\]",
    ),
    (with_nodes(replace(A, op="ad"), B, C), UnknownOp, "ad"),
    (with_nodes(A, replace(B, attrs=Attrs({"low": 0.0})), C), AttributeError_, "high"),
    (with_nodes(A, replace(B, attrs=B.attrs.replace(mid=1)), C), AttributeError_, "mid"),
    (with_nodes(A, replace(B, attrs=B.attrs.replace(low="0")), C), AttributeError_, "low"),
    (with_nodes(A, B, C, replace(C, results=(named("d", f32[5]),))), GraphError, "mul gives f32"),
    (with_nodes(replace(A, results=()), B, C), GraphError, "1 results, not 0"),
    (with_nodes(replace(A, operands=(X, Y, X)), B, C), TilewrightError, "add takes 2"),
    (replace(CHAIN, outputs=(Output("out", named("d")),)), GraphError, "%d is not defined"),
    (replace(CHAIN, outputs=(CHAIN.outputs[0],) * 2), GraphError, "two outputs out"),
    (replace(CHAIN, outputs=(Output("a b", X),)), InvalidName, "a b"),
    (with_inputs(CHAIN.inputs[0], replace(CHAIN.inputs[1], path="x")), GraphError, "two inputs x"),
    (with_inputs(CHAIN.inputs[0], replace(CHAIN.inputs[1], path="a.b")), InvalidName, "a.b"),
    (with_inputs(CHAIN.inputs[0], Input(Y, "symbol", "n", SYMBOL)), GraphError, "not i64"),
    (with_input(symbol="n", carries=None), GraphError, "symbol n of graph g carries no symbol"),
    (with_input(symbol="m", carries=SYMBOL), GraphError, "symbol m of graph g carries symbol n"),
    (with_input(symbol=None, carries=SYMBOL), GraphError, "input z of graph g carries symbol n"),
    (with_input_type(TensorType((4,), f32, Placement.of(tp=Local()))), PlacementError, "tp"),
    (with_input_type(TensorType((4,), f32, Placement.of(dp=At(2)))), PlacementError, "coordinates"),
    (
        with_input_type(TensorType((4,), f32, encoding=Quantized(IntFormat(8), 0, 3))),
        EncodingError,
        "divide",
    ),
]


@pytest.mark.parametrize(("graph", "mistake", "message"), BROKEN)
def test_a_broken_law_is_named(graph: Graph, mistake: type[TilewrightError], message: str) -> None:
    verify(CHAIN, Mesh.of(dp=2))
    with pytest.raises(mistake, match=message):
        verify(graph, Mesh.of(dp=2))


def test_the_message_shows_the_nodes_around() -> None:
    lines = "".join(f"  v{i + 1}: f32[4] = neg(v{i})\n" for i in range(20))
    graph = parse_graph(f"graph g(v0: f32[4]) -> (out: v20) {{\n{lines}}}\n")
    nodes = list(graph.nodes)
    nodes[10] = replace(nodes[10], operands=(nodes[15].result,))
    with pytest.raises(GraphError) as caught:
        verify(replace(graph, nodes=tuple(nodes)))
    assert str(caught.value).splitlines() == [
        "%v16 is not defined here (at node 10 of graph g)",
        "      7 | v8: f32[4] = neg(v7)",
        "      8 | v9: f32[4] = neg(v8)",
        "      9 | v10: f32[4] = neg(v9)",
        ">    10 | v11: f32[4] = neg(v16)",
        "     11 | v12: f32[4] = neg(v11)",
        "     12 | v13: f32[4] = neg(v12)",
        "     13 | v14: f32[4] = neg(v13)",
        "  fix: a value is defined above its uses, and in the same graph",
    ]


def region(body: Graph, *operands: Value) -> Graph:
    """A graph of one region."""
    attrs = Attrs({"body": body, "family": "loop"})
    results = tuple(named(f"r{i}", v.type) for i, v in enumerate(body.output_values))
    node = Node(Fused.name, operands, results, attrs)
    inputs = tuple(Input(v, "input", v.name) for v in operands)
    return Graph(Ident("g"), inputs, (node,), tuple(Output(v.name, v) for v in results))


def test_a_broken_law_in_a_body_is_found() -> None:
    verify(region(CHAIN, X, Y))
    with pytest.raises(GraphError, match="%a is not defined") as caught:
        verify(region(with_nodes(B, A, C), X, Y))
    assert caught.value.where == "node 0 of graph g, in node 0 of graph g"


# --- symbols --------------------------------------------------------------------------------------


def iota_graph(*inputs: Input, attrs: dict[str, object] | None = None) -> Graph:
    n = dim("n", 1, 8)
    given = {"shape": (n,), "axis": 0, "start": 0, "dtype": f32, **(attrs or {})}
    node = Node("iota", (), (named("v", f32[n]),), Attrs(given))  # pyright: ignore[reportArgumentType]  # attributes of several kinds
    return Graph(Ident("g"), inputs, (node,), (Output("out", node.result),))


def test_a_symbol_is_bound_by_a_whole_dimension_or_by_its_own_input() -> None:
    n = dim("n", 1, 8)
    verify(iota_graph(Input(named("x", f32[2, n]), "input", "x")))
    verify(iota_graph(symbol_input(Ident("s"), SYMBOL)))
    for inputs in (
        (),
        (Input(named("x", f32[2 * n]), "input", "x"),),
        (Input(named("x", f32[n]), "param", "x"),),
    ):
        with pytest.raises(GraphError, match="symbol n of graph g has no value"):
            verify(iota_graph(*inputs))


def test_a_symbol_has_one_range() -> None:
    with pytest.raises(GraphError, match="symbol n has two ranges"):
        verify(iota_graph(Input(named("x", f32[dim("n", 1, 9)]), "input", "x")))
    bound = symbol_input(Ident("s"), SYMBOL)
    with pytest.raises(GraphError, match="symbol n has two ranges"):
        verify(iota_graph(bound, attrs={"start": dim("n", 1, 9)}))


def bound_in_a_body(symbol: Symbol) -> Graph:
    """A region whose body binds the symbol of a dimension outside."""
    body = replace(CHAIN, inputs=(*CHAIN.inputs, symbol_input(Ident("s"), symbol)))
    outside = region(body, X, Y, named("s", i64[()]))
    shaped = Input(named("z", f32[dim("n", 1, 8)]), "input", "z")
    return replace(outside, inputs=(*outside.inputs, shaped))


def bound_beside(inputs: str, node: str) -> Callable[[Symbol], Graph]:
    """A graph that mentions n, and binds whatever symbol it is given."""
    text = f"symbol n = 1..8\ngraph g({inputs}n as s: symbol) -> (out: s) {{\n{node}}}\n"
    made = parse_graph(text)
    return lambda symbol: replace(
        made, inputs=(*made.inputs[:-1], symbol_input(Ident("s"), symbol))
    )


@pytest.mark.parametrize("range_", [(1, 9), (0, 8), (1, 8, 2)])
@pytest.mark.parametrize(
    "bind",
    [
        bound_beside("x: f32[n], ", ""),
        bound_beside("x: f32[2*n], ", ""),
        bound_beside("", "  v: i64[] = full(dtype=i64, shape=[], value=n)\n"),
        bound_in_a_body,
    ],
)
def test_an_input_binds_what_types_and_attributes_mention(
    bind: Callable[[Symbol], Graph], range_: tuple[int, ...]
) -> None:
    verify(bind(SYMBOL))
    with pytest.raises(GraphError, match="symbol n has two ranges in graph g: ") as caught:
        verify(bind(Symbol(Ident("n"), *range_)))
    assert caught.value.fix == "declare n once, and use it everywhere"


def test_a_constant_names_no_symbol() -> None:
    graph = with_input_type(f32[dim("true", 1, 4)])
    with pytest.raises(GraphError, match="true is a constant"):
        verify(graph)
    bound = symbol_input(Ident("s"), Symbol(Ident("true"), 1, 4))
    with pytest.raises(GraphError, match="true is a constant"):
        verify(replace(CHAIN, inputs=(*CHAIN.inputs, bound)))


def test_graphs_of_a_program_bind_a_symbol_with_one_range() -> None:
    graphs = [
        Graph(Ident(name), (symbol_input(Ident("s"), Symbol(Ident("past"), 0, hi)),), (), ())
        for name, hi in (("f", 7), ("g", 7), ("h", 9))
    ]
    verify_program(Program(Ident("p"), tuple(graphs[:2])))
    with pytest.raises(ProgramError, match="past is declared with two ranges"):
        verify_program(Program(Ident("p"), tuple(graphs)))


def test_a_symbol_of_a_mask_is_bound() -> None:
    from tilewright.dsl.mask import Mask, Q
    from tilewright.dsl.symbols import graph_symbols

    mask = Mask(((Q - dim("past", 0, 8),),))
    graph = Graph(Ident("g"), (), (Node("attention", (), (), Attrs({"mask": mask})),), ())
    assert [symbol.name for symbol in graph_symbols(graph)] == ["past"]


# --- linear state ---------------------------------------------------------------------------------

CACHE = "kv<f32[1, 16, 2, 4]>"
NEW = "f32[1, 3, 2, 4]"


def state_graph(body: str, outputs: str) -> Graph:
    return parse_graph(
        f"graph g($a.c as c: {CACHE}, $b as d: {CACHE}, x: {NEW}) -> ({outputs}) {{\n{body}}}\n"
    )


def append(result: str, cache: str, at: int = 0) -> str:
    return f"  {result}: {CACHE} = append({cache}, x, x, at={at})\n"


def view(cache: str, name: str = "k") -> str:
    return f"  {name}: {NEW}, {name}2: {NEW} = view({cache}, length=3)\n"


LINEAR: list[tuple[str, str]] = [
    (view("c"), "out: k"),
    (append("e", "c"), "$a.c <- e"),
    (append("e", "c") + append("f", "e", 3) + view("f"), "out: k, $a.c <- f"),
    (view("c") + append("e", "c"), "out: k, cache: $a.c <- e"),
    (append("e", "c") + append("f", "d"), "$b <- f, $a.c <- e"),
    (f"  f: {CACHE} = fork(c)\n" + append("e", "c"), "$a.c <- e, copy: f"),
    (f"  f: {CACHE} = fork(c)\n", "$b <- f"),
    (view("c"), "out: k, $a.c <- c"),
    (f"  e: {CACHE} = rollback(c, length=3)\n" + append("f", "e", 3), "$a.c <- f"),
]


@pytest.mark.parametrize(("body", "outputs"), LINEAR)
def test_linear_uses_are_let_through(body: str, outputs: str) -> None:
    verify(state_graph(body, outputs))


NOT_LINEAR: list[tuple[str, str, str]] = [
    (
        append("e", "c") + append("f", "c"),
        "$a.c <- e, out: f",
        r"append \(node 1\) uses %c, which append \(node 0\) consumed before",
    ),
    (
        append("e", "c") + view("c"),
        "$a.c <- e, out: k",
        r"view \(node 1\) uses %c, which append \(node 0\) consumed before",
    ),
    (append("e", "c"), "out: x", "%e is the successor of state a.c, but nobody consumes or"),
    (append("e", "c"), "out: e", "%e is the successor of state a.c, but nobody consumes or"),
    (append("e", "c"), "$a.c <- e, old: c", r"returns %c, which append \(node 0\) consumed"),
    (append("e", "c"), "$b <- e", "%e belongs to state a.c, not to b"),
    (view("c"), "$b <- c", "%c belongs to state a.c, not to b"),
    (f"  f: {CACHE} = fork(c)\n", "out: x", "%f is a cache, but nobody consumes or returns it"),
    (f"  f: {CACHE} = fork(c)\n", "$b <- f, x: $a.c <- f", "one value replaces one state, once"),
    (append("e", "c"), "$a.c <- e, x: $a.c <- e", "one value replaces one state, once"),
]


@pytest.mark.parametrize(("body", "outputs", "message"), NOT_LINEAR)
def test_a_use_that_is_not_linear_is_named(body: str, outputs: str, message: str) -> None:
    with pytest.raises(LinearStateError, match=message):
        verify(state_graph(body, outputs))


def test_what_replaces_a_state_has_its_type_and_a_target() -> None:
    with pytest.raises(GraphError, match="which is no state"):
        verify(state_graph(append("e", "c"), "$z <- e"))
    with pytest.raises(GraphError, match="what replaces it is"):
        verify(state_graph("", "$a.c <- x"))


def test_a_region_consumes_what_its_body_consumes() -> None:
    cache = CacheType(1, 16, 2, 4, f32)
    c, x, e = named("c", cache), named("x", f32[1, 3, 2, 4]), named("e", cache)
    inputs = tuple(Input(v, "input", v.name) for v in (x, c))
    node = Node("append", (c, x, x), (e,), Attrs({"at": 0}))
    body = Graph(Ident("body"), inputs, (node,), (Output("e", e),))
    graph = region(body, x, c)
    (fused,) = graph.nodes
    assert consumed_operands(fused, get("fused")) == {1}
    verify(graph)
    late = Node("view", (c,), (named("k", x.type), named("v", x.type)), Attrs({"length": 3}))
    with pytest.raises(LinearStateError, match=r"view \(node 1\) uses %c, which fused \(node 0\)"):
        verify(replace(graph, nodes=(fused, late)))
    with pytest.raises(LinearStateError, match="%e is a cache, but nobody"):
        verify(region(replace(body, outputs=(Output("x", x),)), x, c))


MOMENTS = "graph g($m as m: f32[4], $s as s: f32[4], x: f32[4]) -> ({outputs}) {{\n{body}}}\n"


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        ("  a: f32[4] = neg(m)\n  n: f32[4] = add(m, x)\n", "$m <- n, out: a"),
        ("  n: f32[4] = add(m, m)\n", "$m <- n, out: n"),
        ("  a: f32[4] = neg(m)\n", "$m <- m, out: a"),
    ],
)
def test_a_tensor_state_is_read_before_its_successor(body: str, outputs: str) -> None:
    verify(parse_graph(MOMENTS.format(body=body, outputs=outputs)))


@pytest.mark.parametrize(
    ("body", "outputs", "message"),
    [
        (
            "  n: f32[4] = add(m, x)\n  a: f32[4] = neg(m)\n",
            "$m <- n, out: a",
            r"neg \(node 1\) uses %m, which was replaced by add \(node 0\)",
        ),
        ("  n: f32[4] = add(m, x)\n", "$m <- n, old: m", "output old returns %m, which was"),
        ("", "$m <- x", "%x is an input and cannot replace %m"),
        ("", "$m <- s, $s <- m", "%s belongs to state s, not to m"),
        ("  n: f32[4] = add(m, x)\n", "$m <- n, $s <- n", "one value replaces one state"),
    ],
)
def test_a_tensor_state_read_after_its_successor_is_named(
    body: str, outputs: str, message: str
) -> None:
    with pytest.raises(LinearStateError, match=message):
        verify(parse_graph(MOMENTS.format(body=body, outputs=outputs)))


# --- programs -------------------------------------------------------------------------------------

PROGRAM = parse_program("""
program p {
  mesh (tp=2)
  symbol n = 1..8
  param w: f32[4]
  state c: f32[4]
  graph f(x: f32[n, 4], @w as w) -> (out: a) {
    a: f32[n, 4] = add(x, w)
  }
  graph g(x: f32[4], @w as w, $c as c) -> (out: a) {
    a: f32[4] = add(w, c)
  }
}
""")
F, G = PROGRAM.graphs
WIDER = replace(F, inputs=(Input(named("x", f32[dim("n", 1, 9), 4]), "input", "x"),), nodes=())


SECOND = replace(WIDER, name=Ident("h"), outputs=(Output("out", WIDER.inputs[0].value),))
CACHED = Declared(Path("w"), CacheType(1, 2, 3, 4, f32))

BROKEN_PROGRAMS: list[tuple[Program, type[TilewrightError], str]] = [
    (replace(PROGRAM, graphs=(F, F)), ProgramError, "two graphs of one name"),
    (replace(PROGRAM, params=()), ProgramError, "param w .* is not declared"),
    (replace(PROGRAM, states=()), ProgramError, "state c .* is not declared"),
    (replace(PROGRAM, params=PROGRAM.params * 2), ProgramError, "declared twice"),
    (replace(PROGRAM, params=(Declared(Path("w"), f32[5]),)), ProgramError, "declared as"),
    (replace(PROGRAM, params=(CACHED,)), ProgramError, "param w is a cache"),
    (replace(PROGRAM, name=Ident("p;")), InvalidName, "p;"),
    (replace(PROGRAM, params=(Declared(Path("w\n"), f32[4]),)), InvalidName, "w"),
    (replace(PROGRAM, mesh=Mesh(((Ident("a b"), 2),))), InvalidName, "a b"),
    (replace(PROGRAM, graphs=(F, G, SECOND)), ProgramError, "n is declared with two ranges"),
]


@pytest.mark.parametrize(("program", "mistake", "message"), BROKEN_PROGRAMS)
def test_a_broken_law_of_a_program_is_named(
    program: Program, mistake: type[TilewrightError], message: str
) -> None:
    verify_program(PROGRAM)
    with pytest.raises(mistake, match=message):
        verify_program(program)


def test_a_shape_that_does_not_fit_is_found_again() -> None:
    bad = replace(A, operands=(X, named("y", f32[3])))
    graph = replace(with_nodes(bad), inputs=(CHAIN.inputs[0], Input(bad.operands[1], "input", "y")))
    with pytest.raises(ShapeError):
        verify(replace(graph, outputs=(Output("out", A.result),)))
