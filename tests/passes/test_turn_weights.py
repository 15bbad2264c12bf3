"""matmul(x, w) -> matmul(x, permute_dims(w), transpose_b=True)"""

import numpy as np
import pytest

from tests.passes.rewriting import context, names, only
from tilewright.codegen.tvm.backend import TvmBackend
from tilewright.dsl.builder import TracedFunction, graph, param
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import f32
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.ops.matmul import matmul
from tilewright.dsl.program import Program, collect
from tilewright.dsl.tensor import Tensor
from tilewright.passes.base import PassContext
from tilewright.passes.pipeline import Pipeline
from tilewright.passes.prepare_params import PrepareParams
from tilewright.passes.tile_weights import TileWeights
from tilewright.passes.turn_weights import TurnWeights
from tilewright.target.cpu import isa_of
from tilewright.target.spec import parse_target

X = f32[dim("n", 1, 8), 32]


def weight() -> Tensor:
    return param("w", f32[32, 48])


@graph(x=X)
def plain(x: Tensor) -> Tensor:
    return x @ weight()


@graph(x=X)
def twice(x: Tensor) -> tuple[Tensor, Tensor]:
    return x @ weight(), (x * 2.0) @ weight()


@graph(x=f32[dim("n", 1, 8), 48])
def other_way(x: Tensor) -> Tensor:
    return matmul(x, weight(), transpose_b=True)


@graph(x=X)
def read_elsewhere(x: Tensor) -> tuple[Tensor, Tensor]:
    return x @ weight(), weight() * x.sum(0).sum(0)


@graph(x=X)
def given_back(x: Tensor) -> tuple[Tensor, Tensor]:
    return x @ weight(), weight()


def run(*functions: TracedFunction, backend: bool = True) -> tuple[Program, PassContext]:
    ctx = context()
    if backend:
        ctx.backend = TvmBackend(isa_of(parse_target("cpu:x86-64-v3")))
    steps = (PrepareParams(), TurnWeights(), TileWeights())
    return Pipeline(steps).run(collect("p", [f.graph() for f in functions]), ctx), ctx


@pytest.mark.parametrize("function", [plain, twice])
def test_the_weight_is_stored_once_the_other_way_round_and_in_tiles(
    function: TracedFunction,
) -> None:
    found, ctx = run(function)
    (entry,) = found.params
    assert "tiled" in str(entry.type)
    products = [node for node in found.graphs[0].nodes if node.op == "matmul"]
    assert all(node.attrs.bool("transpose_b") for node in products)
    recipe = ctx.prepared[entry.path]
    assert names(recipe) == ["encode"]
    (turned,) = recipe.inputs
    assert only(ctx.prepared[turned.path], "permute_dims").attrs.ints("axes") == (1, 0)


def test_it_means_the_same() -> None:
    ctx = context()
    ctx.backend = TvmBackend(isa_of(parse_target("cpu:x86-64-v3")))
    before = collect("p", [plain.graph()])
    after = Pipeline((TurnWeights(),)).run(before, ctx)
    (path,) = (entry.path for entry in after.params)
    w = np.random.default_rng(0).standard_normal((32, 48)).astype(np.float32)
    x = np.random.default_rng(1).standard_normal((5, 32)).astype(np.float32)
    assert str(after.params[0].type).startswith("f32[48, 32]")
    out = [
        evaluate(program.graphs[0], {"x": x, name: weights})
        for program, name, weights in ((before, "w", w), (after, path, w.T.copy()))
    ]
    assert np.array_equal(out[0]["out"], out[1]["out"])


@pytest.mark.parametrize(
    "functions",
    [(other_way,), (read_elsewhere,), (given_back,), (plain, other_way)],
)
def test_a_weight_that_others_read_stays(functions: tuple[TracedFunction, ...]) -> None:
    found, ctx = run(*functions)
    if functions != (other_way,):
        assert "w" in {entry.path for entry in found.params}
    assert not [d for d in ctx.log.decisions if d.rule == "turn_weights"]


def test_without_a_backend_nothing_is_turned() -> None:
    found, _ = run(plain, backend=False)
    assert [entry.path for entry in found.params] == ["w"]
