"""matmul(x, w1), matmul(x, w2) -> y = matmul(x, concat(w1, w2)), two slices of y."""

from collections.abc import Sequence

import pytest

from tests.passes.rewriting import (
    assert_caught,
    assert_same_meaning,
    context,
    decisions,
    names,
    only,
    rewritten,
)
from tilewright.dsl.attrs import Attrs
from tilewright.dsl.builder import TracedFunction, graph, param, scope
from tilewright.dsl.dims import Dim, dim
from tilewright.dsl.dtypes import f32
from tilewright.dsl.graph import Node, Value
from tilewright.dsl.ops.matmul import matmul
from tilewright.dsl.program import Program, collect
from tilewright.dsl.tensor import Tensor
from tilewright.passes import horizontal_matmul
from tilewright.passes.editor import Editor
from tilewright.passes.horizontal_matmul import HorizontalMatmul
from tilewright.passes.pipeline import Pipeline
from tilewright.passes.plan import Choices, Plan

N = dim("n", 1, 64)
X = f32[N, 4]


def linear(x: Tensor, name: str, width: int) -> Tensor:
    """x @ weight.T"""
    return matmul(x, param(f"{name}.weight", f32[width, 4]), transpose_b=True)


def biased(x: Tensor, name: str, width: int) -> Tensor:
    """x @ weight.T + bias"""
    return linear(x, name, width) + param(f"{name}.bias", f32[width])


@graph(x=X)
def qkv(x: Tensor) -> tuple[Tensor, ...]:
    with scope("layers", 0):
        q = linear(x, "q", 6) * 2.0
        return q, linear(x, "k", 2), linear(x, "v", 3)


@graph(x=X)
def qkv_biased(x: Tensor) -> tuple[Tensor, ...]:
    return biased(x, "q", 6), biased(x, "k", 2), biased(x, "v", 6)


@graph(x=X)
def one_bias(x: Tensor) -> tuple[Tensor, ...]:
    return biased(x, "q", 6), linear(x, "k", 6)


def log_of(function: TracedFunction) -> list[str]:
    ctx = context()
    rewritten(function, HorizontalMatmul(), ctx=ctx)
    return [str(d.reason) for d in decisions(ctx, HorizontalMatmul())]


def test_products_of_one_value_become_one() -> None:
    found = rewritten(qkv, HorizontalMatmul())
    assert names(found) == ["concat", "matmul", "slice", "slice", "slice", "full", "mul"]
    assert only(found, "matmul").result.tensor.shape == (N, 11)
    starts = [n.attrs.dims("start")[-1] for n in found.nodes if n.op == "slice"]
    assert starts == [0, 6, 8]


def test_plain_orientation_is_joined_along_columns() -> None:
    @graph(x=X)
    def plain(x: Tensor) -> tuple[Tensor, Tensor]:
        return x @ param("a", f32[4, 5]), x @ param("b", f32[4, 3])

    assert only(rewritten(plain, HorizontalMatmul()), "concat").attrs.int("axis") == 1


def test_biases_are_joined_where_every_product_has_one() -> None:
    found = rewritten(qkv_biased, HorizontalMatmul())
    assert names(found) == ["concat", "matmul", "concat", "add", "slice", "slice", "slice"]


def test_biases_stay_where_one_product_has_none() -> None:
    found = rewritten(one_bias, HorizontalMatmul())
    assert names(found) == ["concat", "matmul", "slice", "slice", "add"]


def test_other_operands_and_attributes_stay_apart() -> None:
    @graph(x=X, y=X)
    def apart(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return linear(x, "a", 4), linear(y, "b", 4), x @ param("c", f32[4, 4])

    assert names(rewritten(apart, HorizontalMatmul())) == ["matmul"] * 3


def test_parameter_with_other_readers_is_refused() -> None:
    @graph(x=X)
    def tied(x: Tensor) -> tuple[Tensor, ...]:
        table = param("a.weight", f32[6, 4])
        return linear(x, "a", 6), linear(x, "b", 6), table * 2.0

    assert log_of(tied) == ["a.weight has other readers, and would be stored twice"]


def two_graphs(decode_reads: Sequence[str]) -> Program:
    @graph(x=X)
    def prefill(x: Tensor) -> tuple[Tensor, ...]:
        return linear(x, "a", 6), linear(x, "b", 6)

    @graph(x=f32[1, 4])
    def decode(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(linear(x, name, 6) for name in decode_reads)

    return collect("p", [prefill.graph(), decode.graph()])


def test_graphs_that_agree_are_both_joined() -> None:
    program = two_graphs(["a", "b"])
    found = Pipeline((HorizontalMatmul(),)).run(program, context())
    for before, after in zip(program.graphs, found.graphs, strict=True):
        assert names(after).count("matmul") == 1
        assert_same_meaning(before, after)


@pytest.mark.parametrize("reads", [["a"], ["a", "b", "c"], ["b", "a"]])
def test_graphs_that_disagree_are_refused(reads: list[str]) -> None:
    program, ctx = two_graphs(reads), context()
    assert Pipeline((HorizontalMatmul(),)).run(program, ctx) is program
    assert "another graph reads" in decisions(ctx, HorizontalMatmul())[0].reason


def test_plan_keeps_products_separate() -> None:
    ctx = context()
    ctx.choices = Choices(Plan.of({"horizontal_matmul:layers.*": "separate"}))
    found = rewritten(qkv, HorizontalMatmul(), ctx=ctx)
    assert names(found).count("matmul") == 3
    assert list(ctx.choices.met) == ["horizontal_matmul:layers.0.q.weight"]
    assert decisions(ctx, HorizontalMatmul())[0].reason == "the plan keeps them separate"


def test_planted_wrong_columns_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(whole: Value, start: Dim, result: Value, editor: Editor) -> Node:
        attrs = Attrs({"start": (0, 0), "size": result.tensor.shape})
        return editor.defining("slice", whole, result=result, attrs=attrs)

    monkeypatch.setattr(horizontal_matmul, "_columns", wrong)
    assert_caught(qkv, HorizontalMatmul())
