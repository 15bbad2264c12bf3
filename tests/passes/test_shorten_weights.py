"""matmul(x, w) -> matmul(x, decode(encode(w, 12 bits an element)))"""

from dataclasses import dataclass
from unittest.mock import patch

import pytest

from tests.passes.rewriting import context, names
from tilewright.dsl.builder import TracedFunction, graph, param
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import bf16, f32, i32
from tilewright.dsl.encoding import SHORT, FloatFormat, Quantized, Tiled
from tilewright.dsl.errors import BrokenClaim
from tilewright.dsl.graph import Node
from tilewright.dsl.ops.embedding import embedding
from tilewright.dsl.ops.matmul import matmul
from tilewright.dsl.ops.movement import concat
from tilewright.dsl.program import Program, collect
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.types import TensorType
from tilewright.passes import shorten_weights, validate
from tilewright.passes.base import Pass, PassContext, Refusal
from tilewright.passes.horizontal_matmul import HorizontalMatmul
from tilewright.passes.pipeline import Pipeline
from tilewright.passes.plan import Choices, Plan
from tilewright.passes.prepare_params import PrepareParams
from tilewright.passes.quantize_weights import QuantizeWeights
from tilewright.passes.registry import default_pipeline, read_passes
from tilewright.passes.shorten_weights import ShortenWeights
from tilewright.passes.tile_weights import TileWeights
from tilewright.passes.transpose_matmul import TransposeMatmul
from tilewright.passes.turn_weights import TurnWeights

N = dim("n", 1, 64)
SMALL = ShortenWeights(minimum=1, least=1)


@dataclass(frozen=True)
class Streams:
    """A backend that streams short weights, or does not."""

    short: bool = True
    name: str = "streams"

    def accepts(self, region: Node) -> Refusal | None:
        return None

    def weight_tiles(self, weight: TensorType) -> Tiled | None:
        return Tiled(4, 2)

    def streams_short(self, weight: TensorType) -> bool:
        return self.short


def weight(name: str = "w", rows: int = 6, columns: int = 8) -> Tensor:
    return param(name, bf16[rows, columns])


@graph(x=bf16[N, 8])
def linear(x: Tensor) -> Tensor:
    return matmul(x, weight(), transpose_b=True)


@graph(x=bf16[dim("m", 9, 64), 8])
def many(x: Tensor) -> Tensor:
    return matmul(x, weight(), transpose_b=True)


@graph(ids=i32[N])
def tied(ids: Tensor) -> Tensor:
    return matmul(embedding(weight(), ids), weight(), transpose_b=True)


@graph(x=bf16[N, 8])
def doubled(x: Tensor) -> tuple[Tensor, Tensor]:
    return matmul(x, weight(), transpose_b=True), weight() * 2.0


@graph(x=bf16[N, 7])
def odd(x: Tensor) -> Tensor:
    return matmul(x, weight("w", 6, 7), transpose_b=True)


@graph(x=f32[N, 8])
def wide(x: Tensor) -> Tensor:
    return matmul(x, param("w", f32[6, 8]), transpose_b=True)


@graph(x=bf16[N, 8])
def two(x: Tensor) -> tuple[Tensor, Tensor]:
    return x @ weight("q").T, x @ weight("k", 2).T


@graph(x=bf16[N, 6])
def turned(x: Tensor) -> Tensor:
    return matmul(x, weight())


def run(
    *functions: TracedFunction,
    steps: tuple[Pass, ...] = (SMALL,),
    plan: Plan | None = None,
    short: bool = True,
) -> tuple[Program, PassContext]:
    ctx = context()
    ctx.choices, ctx.backend = Choices(plan or Plan()), Streams(short)
    return Pipeline(steps).run(collect("p", [f.graph() for f in functions]), ctx), ctx


def reasons(ctx: PassContext) -> list[str]:
    return [d.reason for d in ctx.log.of_rule("shorten_weights") if d.outcome == "refused"]


def encodings(program: Program) -> set[object]:
    return {d.type.encoding for d in program.params if isinstance(d.type, TensorType)}


def test_the_matrix_is_a_parameter_of_codes() -> None:
    found, ctx = run(linear)
    assert names(found.graphs[0]) == ["decode", "matmul"]
    assert encodings(found) == {SHORT}
    (recipe,) = ctx.prepared.values()
    assert [n.op for n in recipe.nodes] == ["encode"]


def test_one_table_serves_products_and_lookups() -> None:
    found, ctx = run(tied, linear)
    assert encodings(found) == {SHORT}
    assert len(found.params) == 1
    assert reasons(ctx) == []
    assert names(found.graphs[0]) == ["decode", "embedding", "matmul"]


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (doubled, "mul reads w too"),
        (odd, "its rows of 7 elements do not come in pairs"),
        (wide, "it is f32, and 12 bits hold bf16"),
        (many, "it meets 9 rows or more, and reading it is not the bound"),
    ],
)
def test_what_would_not_gain_stays(function: TracedFunction, reason: str) -> None:
    found, ctx = run(function)
    assert "decode" not in names(found.graphs[0])
    assert reasons(ctx) == [reason]


def test_one_graph_of_few_rows_is_enough() -> None:
    found, ctx = run(many, linear)
    assert encodings(found) == {SHORT}
    assert reasons(ctx) == []


def test_weights_that_stay_in_a_cache_stay_as_they_are() -> None:
    found, ctx = run(linear, steps=(ShortenWeights(minimum=1, least=97),))
    assert "decode" not in names(found.graphs[0])
    assert reasons(ctx) == ["96 bytes of weights stay in the cache between calls"]
    found, _ = run(linear, steps=(ShortenWeights(minimum=1, least=96),))
    assert "decode" in names(found.graphs[0])
    assert ShortenWeights().least == 64 << 20


def test_a_backend_with_instructions_for_bf16_keeps_it() -> None:
    found, ctx = run(linear, short=False)
    assert "decode" not in names(found.graphs[0])
    assert reasons(ctx) == ["the backend reads it as it is"]


def test_the_plan_decides() -> None:
    found, ctx = run(linear, plan=Plan.of({"shorten_weights:w": "dense"}))
    assert "decode" not in names(found.graphs[0])
    assert reasons(ctx) == ["the plan keeps it dense"]


def test_tiles_are_of_codes() -> None:
    found, ctx = run(linear, steps=(SMALL, TileWeights()))
    assert encodings(found) == {Tiled(4, 2, SHORT)}
    assert names(found.graphs[0]) == ["decode", "matmul"]
    assert len(ctx.prepared) == 1


def test_joined_rows_and_turned_weights_are_stored_short() -> None:
    steps = (TransposeMatmul(), HorizontalMatmul(), PrepareParams(), TurnWeights(), SMALL)
    for function in (two, turned):
        found, ctx = run(function, steps=steps)
        assert encodings(found) == {SHORT}
        assert reasons(ctx) == []


def test_what_is_quantized_already_stays() -> None:
    steps = (QuantizeWeights(minimum=1), PrepareParams(), SMALL)
    found, _ = run(linear, steps=steps)
    assert SHORT not in encodings(found)
    assert names(found.graphs[0]) == ["decode", "matmul"]


def test_a_coarser_encoding_breaks_the_claim() -> None:
    coarse = Quantized(FloatFormat(4, 6), axis=1, packing="split")
    with (
        patch.object(shorten_weights, "SHORT", coarse),
        patch.object(validate, "_CHECKED", set()),
        pytest.raises(BrokenClaim, match="relative_max"),
    ):
        run(linear)


def test_everyone_has_the_pass() -> None:
    assert ShortenWeights() in default_pipeline().passes
    assert read_passes(str(default_pipeline())) == default_pipeline()


def test_rows_joined_in_the_graph_are_one_matrix() -> None:
    @graph(x=bf16[N, 8])
    def joined(x: Tensor) -> Tensor:
        return matmul(x, concat([weight("q"), weight("k", 2)], 0), transpose_b=True)

    found, _ = run(joined)
    assert encodings(found) == {SHORT}
