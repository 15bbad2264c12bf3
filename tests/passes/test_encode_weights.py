"""matmul(x, w) -> matmul(x, decode(encode(w)))"""

from unittest.mock import patch

import numpy as np
import pytest

from tests.passes.rewriting import context, names, only
from tilewright.dsl.builder import TracedFunction, graph, param
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import f32
from tilewright.dsl.encoding import IntFormat, Quantized
from tilewright.dsl.errors import BrokenClaim, PlanError
from tilewright.dsl.ops.matmul import matmul
from tilewright.dsl.ops.movement import concat
from tilewright.dsl.program import Program, collect
from tilewright.dsl.tensor import Tensor
from tilewright.passes import quantize_weights, validate
from tilewright.passes.base import PassContext
from tilewright.passes.claim import Approximates
from tilewright.passes.pipeline import Pipeline
from tilewright.passes.plan import Choices, Plan
from tilewright.passes.quantize_weights import INT8, QuantizeWeights
from tilewright.passes.registry import default_pipeline, read_passes
from tilewright.passes.sparsify_weights import TWO_OF_FOUR, SparsifyWeights
from tilewright.passes.validate import distance

N = dim("n", 1, 8)
X = f32[N, 8]


def weight(name: str = "w", rows: int = 6) -> Tensor:
    return param(name, f32[rows, 8])


@graph(x=X)
def linear(x: Tensor) -> Tensor:
    return matmul(x, weight(), transpose_b=True)


@graph(x=X)
def joined(x: Tensor) -> Tensor:
    return matmul(x, concat([weight("q"), weight("k", 2)], 0), transpose_b=True)


@graph(x=X)
def part(x: Tensor) -> Tensor:
    return matmul(x, weight("q"), transpose_b=True)


@graph(x=X)
def tied(x: Tensor) -> tuple[Tensor, Tensor]:
    return matmul(x, weight(), transpose_b=True), weight() * 2.0


@graph(x=f32[N, 6])
def plain(x: Tensor) -> Tensor:
    return matmul(x, weight())


def run(
    *functions: TracedFunction, step: QuantizeWeights | SparsifyWeights, plan: Plan | None = None
) -> tuple[Program, PassContext]:
    ctx = context()
    ctx.choices = Choices(plan or Plan())
    return Pipeline((step,)).run(collect("p", [f.graph() for f in functions]), ctx), ctx


def reasons(ctx: PassContext) -> list[str]:
    return [d.reason for d in ctx.log.decisions if d.outcome == "refused"]


SMALL = QuantizeWeights(minimum=1)


def test_the_matrix_is_stored_as_codes() -> None:
    found, ctx = run(linear, step=SMALL)
    assert names(found.graphs[0]) == ["encode", "decode", "matmul"]
    assert only(found.graphs[0], "encode").attrs["encoding"] == INT8
    assert [d.outcome for d in ctx.log.decisions] == ["fired"]


def test_rows_of_several_parameters_are_one_matrix() -> None:
    found, _ = run(joined, step=SMALL)
    assert names(found.graphs[0]) == ["concat", "encode", "decode", "matmul"]


@pytest.mark.parametrize(
    ("functions", "reason"),
    [((tied,), "mul reads w too"), ((plain,), None), ((joined, part), "q would be stored twice")],
)
def test_what_others_read_stays(functions: tuple[TracedFunction, ...], reason: str | None) -> None:
    found, ctx = run(*functions, step=SMALL)
    assert all("encode" not in names(g) for g in found.graphs)
    assert set(reasons(ctx)) == ({reason} if reason else set())


def test_small_matrices_stay() -> None:
    found, ctx = run(linear, step=QuantizeWeights())
    assert "encode" not in names(found.graphs[0])
    assert reasons(ctx) == ["it has fewer than 4096 elements"]


def test_the_plan_decides() -> None:
    found, ctx = run(linear, step=SMALL, plan=Plan.of({"quantize_weights:w": "dense"}))
    assert "encode" not in names(found.graphs[0])
    assert reasons(ctx) == ["the plan keeps it dense"]
    with pytest.raises(PlanError, match="int4"):
        run(linear, step=SMALL, plan=Plan.of({"quantize_weights:*": "int4"}))


def test_two_of_four_wants_whole_groups() -> None:
    found, _ = run(linear, step=SparsifyWeights(minimum=1))
    assert only(found.graphs[0], "encode").attrs["encoding"] == TWO_OF_FOUR

    @graph(x=f32[N, 6])
    def odd(x: Tensor) -> Tensor:
        return matmul(x, param("w", f32[4, 6]), transpose_b=True)

    _, ctx = run(odd, step=SparsifyWeights(minimum=1))
    assert reasons(ctx) == ["4 does not divide k = 6"]


def test_a_coarser_encoding_breaks_the_claim() -> None:
    coarse = Quantized(IntFormat(6), axis=1)
    with (
        patch.object(quantize_weights, "INT8", coarse),
        patch.object(validate, "_CHECKED", set()),
        pytest.raises(BrokenClaim, match="relative_max"),
    ):
        run(linear, step=SMALL)


@pytest.mark.parametrize("step", [QuantizeWeights(), SparsifyWeights()])
def test_the_bound_is_tight(step: QuantizeWeights | SparsifyWeights) -> None:
    """The worst matrix comes within a percent of what is proved, and stays below."""
    from tilewright.dsl.codec import decode_components, encode_array

    worst = {
        "quantize_weights": [[127.0, 0.4999, -0.4999, 3.0]],
        "sparsify_weights": [[1.0, -1.0, 0.9999, -0.9999]],
    }
    w = np.array(worst[step.name], np.float32)
    type_ = f32[1, 4]
    encoding = step.encoding(type_)
    assert not hasattr(encoding, "reason")
    stored = type_.with_encoding(encoding)  # pyright: ignore[reportArgumentType]  # no refusal
    gap = decode_components(encode_array(w, stored), stored) - w
    claim = step.preserves
    assert isinstance(claim, Approximates)
    assert 0.99 * claim.bound < distance(claim.metric, gap, w) <= claim.bound


def test_passes_are_asked_for_by_name() -> None:
    asked = read_passes("+quantize_weights{minimum=1}")
    assert asked == default_pipeline(SMALL)
    assert read_passes(str(asked)) == asked
