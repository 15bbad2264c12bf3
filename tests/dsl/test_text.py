"""The canonical text: what is printed is read back, and what is wrong is refused with its place."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.depth import count
from tests.strategies import graphs, mesh_programs, programs
from tilewright.dsl.attrs import Attr, AttrKind, Attrs, AttrSpec, Data, attr_text
from tilewright.dsl.builder import graph
from tilewright.dsl.dims import DimExpr, Symbol, dim, dim_min
from tilewright.dsl.dtypes import bf16, f32
from tilewright.dsl.encoding import (
    CSR,
    DENSE,
    NM,
    BlockFloat,
    Blocks,
    Codebook,
    Columns,
    Encoding,
    FloatFormat,
    IntFormat,
    LowRank,
    Quantized,
    Sparse,
    Sum,
    Tiled,
)
from tilewright.dsl.errors import (
    ArityError,
    AttributeError_,
    CompilerBug,
    ConstantTooLarge,
    DimError,
    DTypeError,
    EncodingError,
    GraphError,
    InvalidName,
    PlacementError,
    ProgramError,
    RankError,
    ShapeError,
    TextSyntaxError,
    TilewrightError,
    UnknownOp,
)
from tilewright.dsl.graph import SYMBOL_TYPE, Graph, Input, Node, Output, Value, symbol_input
from tilewright.dsl.ident import Ident, ident
from tilewright.dsl.mask import EVERYTHING, K, Mask, Q, causal, sinks, window
from tilewright.dsl.ops.region import Fused
from tilewright.dsl.placement import At, Local, Mesh, Partial, Placement, Shard
from tilewright.dsl.program import Program
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.text import parse_graph, parse_program, print_graph, print_program
from tilewright.dsl.text.syntax import MAX_BODIES, MAX_TEXT, Source
from tilewright.dsl.text.type_reader import TypeReader
from tilewright.dsl.text.value_reader import ValueReader
from tilewright.dsl.types import CacheType, TensorType, Type

T = TypeVar("T")

PROGRAM = """\
program toy {
  mesh (dp=2, tp=4)
  symbol past = 0..2047 % 8
  symbol seq = 1..2048
  param layers.0.q.weight: bf16[640, 640]
  state layers.0.cache: kv<bf16[1, 4095, 1, 640], page=16, window=512>
  graph prefill(
    x: bf16[seq, 640],
    past: symbol,
    @layers.0.q.weight as v1,
    $layers.0.cache as v2
  ) -> (logits: v5, $layers.0.cache <- v4) {
    v3: bf16[1, seq, 1, 640] = reshape(x, shape=[1, seq, 1, 640])
    v4: kv<bf16[1, 4095, 1, 640], page=16, window=512> = append(v2, v3, v3, at=past)
    v5: bf16[seq, 640] = matmul(x, v1, out_dtype=none, transpose_a=false, transpose_b=true)
  }
}
"""


@settings(max_examples=count(ci=200, deep=5000))
@given(graphs())
def test_a_graph_is_read_back(graph: Graph) -> None:
    text = print_graph(graph)
    again = parse_graph(text)
    assert again == graph
    assert print_graph(again) == text


@settings(max_examples=count(ci=100, deep=5000))
@given(programs())
def test_a_program_is_read_back(program: Program) -> None:
    text = print_program(program)
    assert parse_program(text) == program
    assert print_program(parse_program(text)) == text


@settings(max_examples=count(ci=100, deep=1000))
@given(mesh_programs())
def test_a_program_on_a_mesh_is_read_back(program: Program) -> None:
    assert parse_program(print_program(program)) == program


def test_a_program_by_hand_is_canonical() -> None:
    assert print_program(parse_program(PROGRAM)) == PROGRAM


def test_white_space_comments_order_and_defaults_do_not_matter() -> None:
    sloppy = (
        PROGRAM.replace("  ", "\t\r\n ")
        .replace("page=16, window=512", "window = 512 ,page=16")
        .replace("out_dtype=none, transpose_a=false, ", " # defaults\n")
        .replace("v1,", "v1: bf16[640,640],", 1)
    )
    assert print_program(parse_program(sloppy)) == PROGRAM


def test_a_lone_graph_states_its_symbols_and_types() -> None:
    graph = parse_program(PROGRAM).graph("prefill")
    text = print_graph(graph)
    assert text.startswith("symbol past = 0..2047 % 8\nsymbol seq = 1..2048\ngraph prefill(\n")
    assert "  @layers.0.q.weight as v1: bf16[640, 640],\n" in text
    assert parse_graph(text) == graph


LOOSE = """\
symbol past = 0..6 % 2
graph g(past as p: symbol) -> (out: p) {
}
"""


def test_a_symbol_that_nothing_mentions_keeps_its_range() -> None:
    graph = parse_graph(LOOSE)
    (entry,) = graph.inputs
    assert entry == symbol_input(Ident("p"), Symbol(Ident("past"), 0, 6, 2))
    assert print_graph(graph) == LOOSE
    wider = replace(graph, inputs=(symbol_input(Ident("p"), Symbol(Ident("past"), 0, 8, 2)),))
    assert wider != graph
    assert parse_graph(print_graph(wider)) == wider
    program = f"program p {{\n  {LOOSE.strip().replace(chr(10), chr(10) + '  ')}\n}}\n"
    assert print_program(parse_program(program)) == program
    assert parse_program(program).symbols == (entry.symbol,)


def test_a_traced_symbol_keeps_its_range() -> None:
    @graph(x=f32[2], past=dim("past", 0, 6, multiple_of=2))
    def unused(x: Tensor, past: DimExpr) -> Tensor:
        return x

    made = unused.graph()
    assert made.inputs[1] == symbol_input(Ident("past"), Symbol(Ident("past"), 0, 6, 2))
    assert parse_graph(print_graph(made)) == made


def test_a_body_that_binds_a_symbol_is_read_back() -> None:
    loose = parse_graph(LOOSE)
    x, y = Value(Ident("x"), SYMBOL_TYPE), Value(Ident("y"), SYMBOL_TYPE)
    node = Node(Fused.name, (x,), (y,), Attrs({"body": loose, "family": "loop"}))
    inputs = (symbol_input(Ident("x"), Symbol(Ident("past"), 0, 6, 2)),)
    graph = Graph(Ident("around"), inputs, (node,), (Output("y", y),))
    for around in (graph, replace(graph, inputs=(Input(x, "input", "x"),))):
        assert parse_graph(print_graph(around)) == around


def test_a_type_that_differs_from_its_declaration_is_printed() -> None:
    program = parse_program(PROGRAM)
    odd = replace(program, params=(replace(program.params[0], type=bf16[640, 641]),))
    assert "as v1: bf16[640, 640]" in print_program(odd)
    assert parse_program(print_program(odd)) == odd


def test_ten_thousand_nodes_in_a_chain() -> None:
    lines = "".join(f"  v{i + 1}: f32[4] = neg(v{i})\n" for i in range(10_000))
    text = f"graph g(v0: f32[4]) -> (out: v10000) {{\n{lines}}}\n"
    assert print_graph(parse_graph(text)) == text


# --- types ----------------------------------------------------------------------------------------

ENCODINGS: list[Encoding] = [
    DENSE,
    Quantized(IntFormat(8), 0),
    Quantized(IntFormat(4), 1, 32, symmetric=False, packing="nibbles"),
    Quantized(FloatFormat(4, 3), 1),
    Quantized(FloatFormat(2, 1), 1, 16, packing="nibbles"),
    Quantized(FloatFormat(4, 7), 1, packing="split"),
    Tiled(16, 2, Quantized(FloatFormat(4, 7), 1, packing="split")),
    Quantized(BlockFloat(6), 0, 16),
    Quantized(Codebook(4), 1),
    Sparse(NM(2, 4), 1),
    Sparse(NM(2, 4), 1, Quantized(IntFormat(4), 1, 8)),
    Sparse(Blocks(8, 16, 5), 0),
    Sparse(CSR(100), 1),
    Sparse(Columns(7), 1),
    LowRank(4),
    Sum((DENSE, LowRank(4), Sparse(CSR(9), 1))),
    Sum((Quantized(IntFormat(8), 0), Sum((LowRank(1), LowRank(2))))),
    Tiled(16),
    Tiled(16, 2, Quantized(IntFormat(8), 1)),
]
_N, _M = dim("n", 1, 64), dim("m", 2, 64, multiple_of=2)
TYPES: list[Type] = [
    *(TensorType((32, 64), bf16, encoding=e) for e in ENCODINGS),
    *(TensorType((32, 64), f32, Placement.of(tp=Shard(1)), e) for e in ENCODINGS),
    f32[()],
    f32[_N, _N + _M, (_N * _M + 7) // 8, dim_min(_N, _M), _M // 2, 0],
    TensorType((8, 8), f32, Placement.of(tp=Shard(0), dp=Shard(0))),
    TensorType((8, 8), f32, Placement.of(dp=Shard(0), tp=Shard(0))),
    TensorType((8,), f32, Placement.of(a=Partial("max"), b=Local(), c=At(3), d=Shard(0))),
    CacheType(2, 128, 4, 64, bf16),
    CacheType(_N, 128, 4, 64, bf16, page=16),
    CacheType(2, _M, 4, 64, bf16, window=512, encoding=Quantized(IntFormat(8), 3)),
]


@pytest.mark.parametrize("type_", TYPES, ids=str)
def test_a_type_is_read_back(type_: Type) -> None:
    x = Value(Ident("x"), type_)
    graph = Graph(Ident("g"), (Input(x, "input", "x"),), (), (Output("out", x),))
    assert parse_graph(print_graph(graph), mesh=Mesh.of(tp=2, dp=2)) == graph


# --- attributes -----------------------------------------------------------------------------------

_WORDS = {
    str(s.name): s for s in (Symbol(ident(n), 1, 9) for n in ("graph", "mask", "kv", "none", "n"))
}


def read_attr(text: str, spec: AttrSpec) -> Attr:
    """An attribute's value, read where it stands in a graph."""
    source = Source(f"graph g() -> () {{ v: f32[] = op(a={text}) }}", "<test>")
    (attr,) = source.parse("alone").find_data("attr")
    tree: Any = attr.children[1]
    return ValueReader(TypeReader(source, _WORDS), lambda _: pytest.fail("a body")).read(tree, spec)


def assert_read_back(value: Attr, kind: AttrKind, *, optional: bool = False) -> None:
    found = read_attr(attr_text(value), AttrSpec(kind, optional=optional))
    assert type(found) is type(value)
    assert Attrs({"a": found}) == Attrs({"a": value})


@given(st.floats())
def test_a_float_is_read_back(value: float) -> None:
    found = read_attr(attr_text(value), AttrSpec("float"))
    assert isinstance(found, float)
    assert math.isnan(value) if math.isnan(found) else found.hex() == value.hex()
    assert_read_back(value, "scalar")


@given(st.integers(-(2**63), 2**64 - 1))
def test_an_int_is_read_back(value: int) -> None:
    assert_read_back(value, "int")


@given(st.text())
def test_a_string_is_read_back(value: str) -> None:
    assert_read_back(value, "str")
    assert attr_text(value).isascii()


@given(st.binary(max_size=64))
def test_data_is_read_back(value: bytes) -> None:
    assert read_attr(attr_text(Data(value)), AttrSpec("data")) == Data(value)


@pytest.mark.parametrize(
    "mask",
    [
        EVERYTHING,
        causal(),
        causal() & window(7),
        (causal() & window(7)) | sinks(4),
        Mask(((),)),
        Mask(((), (Q - K, K - 3))),
    ],
    ids=str,
)
def test_a_mask_is_read_back(mask: Mask) -> None:
    assert read_attr(attr_text(mask), AttrSpec("mask")) == mask


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_an_encoding_is_read_back(encoding: Encoding) -> None:
    assert read_attr(attr_text(encoding), AttrSpec("encoding")) == encoding


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("true", "bool", True),
        ("true", "scalar", True),
        ("none", "int", None),
        ("inf", "scalar", math.inf),
        ("-inf", "float", -math.inf),
        ("1", "scalar", 1),
        ("1.0", "scalar", 1.0),
        ("[]", "ints", ()),
        ("[1, -2]", "ints", (1, -2)),
        ('["a", "b"]', "strs", ("a", "b")),
        ("bf16", "dtype", bf16),
    ],
)
def test_the_kind_decides_what_a_word_means(text: str, kind: AttrKind, value: Attr) -> None:
    found = read_attr(text, AttrSpec(kind, optional=True))
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("name", ["graph", "mask", "kv"])
def test_a_symbol_may_have_the_name_of_a_word(name: str) -> None:
    assert isinstance(read_attr(name, AttrSpec("dim")), DimExpr)


def test_attributes_of_one_text_differ_in_the_range_of_a_symbol() -> None:
    assert Attrs({"at": dim("n", 1, 4)}) != Attrs({"at": dim("n", 1, 8)})
    assert Attrs({"at": (dim("n", 1, 4),)}) == Attrs({"at": (dim("n", 1, 4),)})


# --- bodies ---------------------------------------------------------------------------------------


def nested(depth: int) -> Graph:
    """A graph of a region of a region ... of a negation."""
    x, y = Value(Ident("x"), f32[_N]), Value(Ident("y"), f32[_N])
    inputs, outputs = (Input(x, "input", "x"),), (Output("y", y),)
    graph = Graph(Ident("body0"), inputs, (Node("neg", (x,), (y,)),), outputs)
    for level in range(1, depth + 1):
        attrs = Attrs({"body": graph, "family": "loop"})
        node = Node(Fused.name, (x,), (y,), attrs)
        graph = Graph(ident(f"body{level}"), inputs, (node,), outputs)
    return graph


def test_a_body_is_printed_inside_its_node() -> None:
    assert print_graph(nested(1)) == (
        "symbol n = 1..64\n"
        "graph body1(x: f32[n]) -> (y: y) {\n"
        "  y: f32[n] = fused(x, body=graph body0(x: f32[n]) -> (y: y) {\n"
        "    y: f32[n] = neg(x)\n"
        '  }, family="loop")\n'
        "}\n"
    )


@pytest.mark.parametrize("depth", [1, 2, MAX_BODIES])
def test_bodies_are_read_back(depth: int) -> None:
    assert parse_graph(print_graph(nested(depth))) == nested(depth)


def test_bodies_nested_too_deeply_are_refused() -> None:
    with pytest.raises(TextSyntaxError, match="nested too deeply"):
        parse_graph(print_graph(nested(MAX_BODIES + 3)))


def test_a_body_sees_no_value_of_the_graph_around_it() -> None:
    text = print_graph(nested(1)).replace("f32[n]) -> (y: y)", "f32[n], z: f32[n]) -> (y: y)", 1)
    with pytest.raises(GraphError, match="%z is not defined") as caught:
        parse_graph(text.replace("neg(x)", "neg(z)"))
    assert caught.value.where == "<text>:4:21"


# --- mistakes -------------------------------------------------------------------------------------

GRAPH = """\
symbol n = 1..64
graph g(x: f32[n, 3], @a.w as w: f32[3]) -> (out: b) {
  a: f32[n, 3] = add(x, w)
  b: f32[n, 3] = clamp(a, high=1.0, low=-1.0)
}
"""

MISTAKES: list[tuple[str, str, type[TilewrightError], str]] = [
    ("(out: b)", "(out: c)", GraphError, "2:51"),
    ("add(x", "add(b", GraphError, "3:22"),
    ("add(x", "add(a", GraphError, "3:22"),
    ("  b: f32", "  a: f32", GraphError, "4:3"),
    ("x: f32", "w: f32", GraphError, "2:31"),
    ("= add", "= ad", UnknownOp, "3:18"),
    ("add(x, w)", "add(x)", ArityError, "3:18"),
    ("  a: f32[n, 3]", "  a: f32[n, 4]", GraphError, "3:6"),
    ("  a: f32[n, 3]", "  a: f32[n, 3], c: f32[3]", GraphError, "3:3"),
    ("w: f32[3]", "w: f32[4]", ShapeError, "3:18"),
    ("w: f32[3]", "w: i32[3]", DTypeError, "3:18"),
    ("w: f32[3]", "w: f33[3]", DTypeError, "2:34"),
    ("w: f32[3]", "w: f32[m]", DimError, "2:34"),
    ("w: f32[3]", f"w: f32[{'1, ' * 32}3]", RankError, "2:34"),
    ("w: f32[3]", "w: f32[3 +]", TextSyntaxError, "2:41"),
    ("w: f32[3]", "w: f32[-3]", ShapeError, "2:34"),
    ("w: f32[3]", "w: f32[3] as int9<axis=0, group=all, symmetric, plain>", EncodingError, "2:44"),
    ("w: f32[3]", "w: f32[3] as sum<dense>", EncodingError, "2:44"),
    ("w: f32[3]", "w: f32[3] as lowrank<axis=1>", EncodingError, "2:44"),
    ("w: f32[3]", "w: f32[3] @ (tp: shard(1))", ShapeError, "2:44"),
    ("w: f32[3]", "w: f32[3] @ (tp: partial(1))", PlacementError, "2:48"),
    ("w: f32[3]", "w: f32[3] @ (tp: local, tp: local)", PlacementError, "2:44"),
    ("w: f32[3]", "w: kv<f32[3]>", TextSyntaxError, "2:37"),
    ("w: f32[3]", "w", ProgramError, "2:23"),
    ("@a.w", "@a..w", InvalidName, "2:23"),
    ("(out:", "(out.:", InvalidName, "2:46"),
    ("high=1.0", "height=1.0", AttributeError_, "4:27"),
    ("high=1.0, ", "", AttributeError_, "4:18"),
    ("high=1.0", 'high="1"', AttributeError_, "4:18"),
    ("high=1.0", "high=none", AttributeError_, "4:32"),
    ("high=1.0", "low=1.0", AttributeError_, "4:36"),
    ("clamp(a, high=1.0", "clamp(high=1.0, a", TextSyntaxError, "4:34"),
    ("1..64", "64..1", DimError, "1:8"),
    ("1..64", "1..100000000000000000000", TextSyntaxError, "1:8"),
    ("1..64", "1..64 % 0", DimError, "1:8"),
    ("1..64", "1..64 % 65", DimError, "1:8"),
    ("1..64", "1..1099511627776", DimError, "1:8"),
    ("1..64", "-1..64", TextSyntaxError, "1:12"),
    ("1..64", "1", TextSyntaxError, "2:1"),
    ("symbol n", "symbol true", ProgramError, "1:8"),
    ("symbol n = 1..64", "symbol n = 1..64 symbol n = 1..64", ProgramError, "1:25"),
    ("symbol n = 1..64", "symbol n = 1..64 symbol n = 1..32", ProgramError, "1:25"),
    ("x: f32[n, 3]", "x: f32[n, 3], past as p: symbol", ProgramError, "2:23"),
    ("x: f32[n, 3]", "x: f32[n, 3], n: symbol % 2", TextSyntaxError, "2:33"),
    ("graph g", "graph " + "g" * 129, InvalidName, "2:7"),
    ("graph g", "graph 1", TextSyntaxError, "2:1"),
    ("x: f32", "x\u202e: f32", TextSyntaxError, "2:10"),
    ("x: f32", "x\0: f32", TextSyntaxError, "2:10"),
    ("add(x", "add(" + "(" * 100, TextSyntaxError, "3:85"),
    ("}\n", "", TextSyntaxError, "5:1"),
]


@pytest.mark.parametrize(("old", "new", "mistake", "place"), MISTAKES)
def test_a_mistake_is_named_with_its_place(
    old: str, new: str, mistake: type[TilewrightError], place: str
) -> None:
    assert GRAPH.count(old) >= 1
    with pytest.raises(mistake) as caught:
        parse_graph(GRAPH.replace(old, new, 1), source="model.tw")
    assert caught.type is mistake
    assert caught.value.where == f"model.tw:{place}"
    assert caught.value.excerpt is not None
    assert "^" in str(caught.value)


def test_a_long_word_is_shown_in_part() -> None:
    with pytest.raises(TextSyntaxError) as caught:
        parse_graph(GRAPH.replace("add(x", f'add("{"y" * 10_000}"'))
    assert caught.value.message.startswith(f"unexpected '\"{'y' * 47}'..., expected ")
    assert len(str(caught.value)) < 500


def test_carets_stand_below_the_mistake() -> None:
    with pytest.raises(UnknownOp) as caught:
        parse_graph(GRAPH.replace("clamp", "clmp"), source="model.tw")
    assert str(caught.value) == (
        "there is no operation 'clmp' (at model.tw:4:18)\n"
        "    4 |   b: f32[n, 3] = clmp(a, high=1.0, low=-1.0)\n"
        "                         ^^^^\n"
        "  fix: did you mean: clamp"
    )


@pytest.mark.parametrize(
    ("old", "new", "mistake"),
    [
        ("state layers", "param layers.0.q.weight: f32[2]\n  state layers", ProgramError),
        ("mesh (dp=2, tp=4)", "mesh (dp=2) mesh (tp=4)", ProgramError),
        ("mesh (dp=2", "mesh (dp=0", PlacementError),
        ("  param layers.0.q.weight: bf16[640, 640]\n", "", ProgramError),
        ("program toy", "program 7", TextSyntaxError),
        ("window=512>", "window=512, window=512>", TextSyntaxError),
        ("window=512>", "height=512>", TextSyntaxError),
        (" prefill(", " prefill(y: bf16[2] @ (pp: local), ", PlacementError),
    ],
)
def test_a_mistake_of_a_program_is_named(
    old: str, new: str, mistake: type[TilewrightError]
) -> None:
    from tilewright.dsl.verify import verify_program

    with pytest.raises(mistake):
        verify_program(parse_program(PROGRAM.replace(old, new, 1)))


def test_large_texts_are_refused() -> None:
    with pytest.raises(TextSyntaxError, match="characters"):
        parse_graph(" " * (MAX_TEXT + 1))
    with pytest.raises(TextSyntaxError, match="dimension of more than"):
        parse_graph(GRAPH.replace("f32[3]", f"f32[{'n + ' * 10_000}3]"))
    with pytest.raises(ConstantTooLarge):
        read_attr("0x" + "00" * 65_537, AttrSpec("data"))
    symbols = "".join(f"symbol s{i} = 1..2\n" for i in range(300))
    with pytest.raises(ProgramError, match="at most 256 symbols"):
        parse_graph(symbols + GRAPH)


# --- malformed texts ------------------------------------------------------------------------------

HOSTILE = (
    '"', "'", "\n", "\r", "*/", "/*", "{}", "%s", "{0}", "\\", "\0", "\u202e", "\u2066", "\ufeff",
    "\udc80", "é", "\U0001d7d9", "graph", "program", "symbol", "as", "kv<", "mask(", "none", "0x",
    "0xf", "nan", "-inf", "..", "<-", "->", ">=", "//", "%", "@", "$", "@a", "$a", "#", "1e999",
    "1.", "9" * 30, "9" * 5000, "x" * 200, "x" * 100_000, "(" * 100_000, "[" * 100_000,
    "{" * 100_000, "sum<" * 100_000, "-" * 1000, "min(" * 100, "n*n*" * 20, "n//2//" * 20,
    ";rm -rf /", "__import__", "${HOME}", "../..", "a.b", "a..b", "1" * 19, "[]", "()", "[1, 2",
    'f="', "int8<", "2:4", "f32[",
)  # fmt: skip


def damaged(text: str, rng: Random) -> str:
    """One to three pieces of a text deleted, doubled, swapped or replaced."""
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(text) + 1)
        stop = min(len(text), start + rng.choice((0, 1, 1, 2, 5, 20, 200)))
        piece, rest = text[start:stop], text[stop:]
        match rng.randrange(5):
            case 0:
                text = text[:start] + rest
            case 1:
                text = text[:start] + piece * 2 + rest
            case 2:
                far = rng.randrange(len(rest) + 1)
                text = text[:start] + rest[:far] + piece + rest[far:]
            case 3:
                text = text[:start] + rng.choice(HOSTILE) + rest
            case _:
                text = _other_word(text, rng)
    return text


def read_or_refused(parse: Callable[[str], T], text: str) -> T | None:
    """What was read, or None where the text was refused as it should be."""
    found: TilewrightError | None = None
    try:
        return parse(text)
    except TilewrightError as mistake:
        found = mistake
    assert not isinstance(found, CompilerBug)
    assert found.where is not None
    assert str(found).isascii()
    return None


def _other_word(text: str, rng: Random) -> str:
    """A word of the text in the place of another."""
    words = text.split(" ")
    words[rng.randrange(len(words))] = rng.choice([*words, *HOSTILE])
    return " ".join(words)


@settings(max_examples=count(ci=100, deep=1000))
@given(programs(), st.integers(0, 2**32 - 1))
def test_a_damaged_text_is_refused_or_read(program: Program, seed: int) -> None:
    text = damaged(print_program(program), Random(seed))
    found = read_or_refused(parse_program, text)
    assert found is None or parse_program(print_program(found)) == found


@pytest.mark.parametrize("seed", range(count(ci=300, deep=3000)))
def test_a_damaged_text_by_hand_is_refused_or_read(seed: int) -> None:
    rng = Random(seed)
    text = damaged(rng.choice((PROGRAM, GRAPH)), rng)
    read_or_refused(parse_program, text)
    read_or_refused(parse_graph, text)
