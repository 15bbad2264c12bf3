"""y = f(x) -> the nodes of f's body, with x and y for its input and output."""

import pytest

from tests.passes.rewriting import (
    assert_caught,
    assert_same_meaning,
    context,
    names,
    of_x,
    rewritten,
)
from tilewright.dsl.builder import graph
from tilewright.dsl.composite import Composite
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import bf16, f32
from tilewright.dsl.op import OpDef, get, registry
from tilewright.dsl.ops.activation import gated_mlp, gelu, gelu_tanh
from tilewright.dsl.ops.attention import attention
from tilewright.dsl.ops.norm import rms_norm, softmax
from tilewright.dsl.program import collect
from tilewright.dsl.sampling import sample_graph
from tilewright.dsl.tensor import Tensor
from tilewright.passes import expand_composites
from tilewright.passes.expand_composites import ExpandComposites
from tilewright.passes.open_layers import OpenLayers
from tilewright.passes.pipeline import Pipeline

N = dim("n", 1, 64)


@graph(x=bf16[N, 4], gate=bf16[6, 4], up=bf16[6, 4], down=bf16[4, 6])
def mlp(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return gated_mlp(x, gate, up, down, activation="gelu_tanh")


@graph(q=f32[1, N, 4, 8], k=f32[1, N, 2, 8], v=f32[1, N, 2, 8])
def attends(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    return attention(q, k, v)


@graph(x=f32[512, 256], weight=f32[256])
def normed(x: Tensor, weight: Tensor) -> Tensor:
    return rms_norm(x, weight)


def composites() -> list[str]:
    return [n for n, op in registry().items() if isinstance(op, Composite) and n != "fused"]


@pytest.mark.parametrize("name", composites())
def test_every_composite_is_its_body(name: str) -> None:
    for sample in get(name).samples():
        if sample.error is not None:
            continue
        program = collect("p", [sample_graph(name, sample)])
        found = ExpandComposites(keep="").run(program, context()).graphs[0]
        assert not any(isinstance(get(node.op), Composite) for node in found.nodes)
        assert_same_meaning(program.graphs[0], found)


def test_a_constant_that_stands_for_a_large_dim_breaks_no_claim() -> None:
    """The divisor of a mean does not shrink with the row, where a rewrite is checked in small."""
    assert "rms_norm" not in names(rewritten(normed, ExpandComposites(keep="")))


def test_composites_in_composites_are_opened_too() -> None:
    found = names(rewritten(mlp, ExpandComposites()))
    assert "gelu_tanh" not in found
    assert "tanh" in found


def test_kept_composites_stay() -> None:
    assert names(rewritten(attends, ExpandComposites())) == ["attention"]
    assert "softmax" in names(
        rewritten(of_x(lambda x: softmax(gelu(x))), ExpandComposites(keep="softmax"))
    )


def test_layers_are_opened_early_and_activations_are_not() -> None:
    found = names(rewritten(mlp, OpenLayers()))
    assert found.count("matmul") == 3
    assert "gelu_tanh" in found


def test_deep_chain_needs_no_recursion() -> None:
    def chain(x: Tensor) -> Tensor:
        for _ in range(3000):
            x = gelu(x)
        return x

    program = collect("p", [of_x(chain).graph()])
    found = Pipeline((ExpandComposites(),)).run(program, context())
    assert names(found.graphs[0]).count("erf") == 3000


def test_planted_wrong_body_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(name: str) -> OpDef:
        return get("silu" if name == "gelu_tanh" else name)

    monkeypatch.setattr(expand_composites, "get", wrong)
    assert_caught(of_x(gelu_tanh), ExpandComposites())
