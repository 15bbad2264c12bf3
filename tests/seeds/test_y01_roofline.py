"""Y-01, the roofline of LLM-Viewer: costs are what an executor counts, and tell where time goes."""

from __future__ import annotations

import time
from functools import cache
from math import ceil, floor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from tests.seeds.counting import MADE, OTHERS, READ, counted
from tests.seeds.op_graphs import ROWS, op_graphs
from tests.seeds.ranks import spearman
from tests.seeds.zoo import CONTEXT, WIDE, seven_billion, zoo
from tilewright.cli.costs import kernel_rows, read_explanation
from tilewright.codegen.phase_cost import PhaseCost, phase_cost
from tilewright.codegen.region_cost import region_cost
from tilewright.dsl import ops as ops  # fills the registry
from tilewright.dsl.composite import Composite
from tilewright.dsl.cost import Cost
from tilewright.dsl.dims import Dim, evaluate
from tilewright.dsl.dtypes import f32, i32
from tilewright.dsl.graph import Node
from tilewright.dsl.op import OpDef, Sample, checked_attrs, get, registry
from tilewright.dsl.program import Program
from tilewright.dsl.sampling import (
    ANYTHING,
    draw_inputs,
    draw_operands,
    draw_symbols,
    draw_value,
    sample_graph,
)
from tilewright.dsl.types import Type
from tilewright.models.gemma3 import gemma3
from tilewright.passes.base import PassContext
from tilewright.passes.pipeline import Pipeline
from tilewright.passes.quantize_weights import QuantizeWeights
from tilewright.passes.registry import default_pipeline
from tilewright.runtime.dim_table import symbol_table
from tilewright.target.roofline import Roofline, roofline
from tilewright.target.spec import parse_target

ZOO = dict(zoo())
SAMPLES = [
    pytest.param(op, sample, id=f"{name}-{index}")
    for name, op in registry().items()
    for index, sample in enumerate(op.samples())
    if sample.error is None
]
TABLE = f32[1000, 8]
RATES = {"f32_fma": (2e13, 2e13), "bf16_dot": (3e14, 3e14), "stream_read": (2e12, 2e12)}
SERVER = Roofline(1, RATES, "measured")
"""A machine of round numbers: its ridge stands at 150 FLOPs a byte."""


def test_the_executor_knows_every_primitive() -> None:
    primitive = {name for name, op in registry().items() if not isinstance(op, Composite)}
    assert {*MADE, *READ, *OTHERS} == primitive


@pytest.mark.parametrize(("op", "sample"), SAMPLES)
def test_flops_of_every_operation_are_counted(op: OpDef, sample: Sample) -> None:
    graph = sample_graph(op.name, sample)
    rng = np.random.default_rng(7)
    env = draw_symbols(graph, rng)
    (node,) = graph.nodes
    tally = counted(graph, draw_operands(sample, env, rng), env)
    assert at(region_cost(node).flops, env) == tally.total()


@pytest.mark.parametrize("form", ["traced", "unfused", "fused"])
@pytest.mark.parametrize("name", ZOO)
def test_flops_of_the_zoo_are_counted(name: str, form: str) -> None:
    """Of models as they were written, as operations after the passes, and as regions."""
    for graph in made(ZOO[name], form).graphs:
        rng = np.random.default_rng(3)
        env = draw_symbols(graph, rng) | {"past": 9, "seq": 5, "batch": 2}
        inputs = draw_inputs(graph, env, rng)
        assert at(phase_cost(graph).flops, env) == counted(graph, inputs, env).total()


def test_quantized_weights_cost_a_quarter_and_their_decoding() -> None:
    """Of f32: int8 codes and a scale for each row; a conversion and a product for each code."""
    wide = gemma3(WIDE, 32, f32).program
    env = {"past": 9}
    plain, stored = (made(wide, form).graphs[1] for form in ("fused", "quantized"))
    before, after = phase_cost(plain), phase_cost(stored)
    assert 0.25 < at(after.weights, env) / at(before.weights, env) < 0.35
    codes = sum(
        at(entry.value.tensor.numel, {})
        for entry in stored.by_role("param")
        if not entry.value.tensor.is_dense
    )
    assert at(after.flops, env) == at(before.flops, env) + 2 * codes
    inputs = draw_inputs(stored, env, np.random.default_rng(3))
    assert at(after.flops, env) == counted(stored, inputs, env).total()


@pytest.mark.parametrize("name", ZOO)
def test_fusion_moves_fewer_bytes_for_the_same_work(name: str) -> None:
    env = {"past": 9, "seq": 5, "batch": 2}
    pairs = zip(made(ZOO[name], "unfused").graphs, made(ZOO[name], "fused").graphs, strict=True)
    for graph, regions in pairs:
        apart, fused = phase_cost(graph), phase_cost(regions)
        assert at(fused.bytes, env) < at(apart.bytes, env)
        assert at(fused.activations, env) < at(apart.activations, env)
        assert at(fused.flops, env) == at(apart.flops, env)
        assert at(fused.weights, env) == at(apart.weights, env)
        assert at(fused.cache, env) == at(apart.cache, env)


def test_weights_dominate_a_decoding_step() -> None:
    (graph,) = seven("fused").graphs
    parameters = sum(at(entry.value.tensor.numel, {}) for entry in graph.by_role("param"))
    assert 6e9 < parameters < 8e9
    cost = phase_cost(graph)
    env = {"batch": 1, "past": 128}
    weights = at(cost.weights, env)
    assert weights == pytest.approx(2 * parameters, rel=1e-3)
    assert at(cost.weights_held, env) == pytest.approx(2 * parameters, rel=1e-3)  # norms are f32
    assert weights > 0.98 * at(cost.bytes, env)
    assert at(cost.flops, env) == pytest.approx(2 * parameters, rel=0.02)
    assert at(cost.flops, env) / at(cost.bytes, env) == pytest.approx(1, rel=0.03)


def test_the_cache_grows_with_the_context_and_the_batch() -> None:
    cost = phase_cost(seven("fused").graphs[0])
    layers, width = 32, 4096
    position = layers * 2 * width * 2
    for past, batch in ((0, 1), (100, 1), (100, 3)):
        env = {"past": past, "batch": batch}
        assert at(cost.cache, env) == batch * position * (past + 2)  # one is written, then read
    assert at(cost.cache_held, {"batch": 5}) == 5 * position * CONTEXT


def test_products_with_a_vector_have_intensity_one() -> None:
    assert len(products()) == 32 * 4 + 1  # q, k and v are one product, so are gate and up
    for node in products():
        cost = region_cost(node)
        assert intensity(cost, {"batch": 1}) == pytest.approx(1, rel=1e-2)


def test_a_batch_sweep_crosses_the_ridge() -> None:
    """Each product turns where its shape says, and the whole step a little later.

    On an `[n, k]` matrix, `b` rows take 2 b n k FLOPs and move 2 n k + 2 b k + w b n bytes, where
    an element of the result has `w`: as many FLOPs a byte as the ridge has, when
    b = ridge / (1 - ridge (1 / n + w / 2 k)).
    """
    ridge = SERVER.peak("bf16", 1) / SERVER.bandwidth(1)
    assert ridge == 150
    turns: set[int] = set()
    for node in products():
        (columns, inner), width = weight_shape(node), node.result.tensor.dtype.itemsize
        expected = ridge / (1 - ridge * (1 / columns + width / 2 / inner))
        cost = region_cost(node)
        for batch in (floor(expected), ceil(expected)):
            env = {"batch": batch}
            bound = SERVER.bound(at(cost.flops, env), at(cost.bytes, env), "bf16", 1)[1]
            assert bound == ("memory" if batch < expected else "compute")
        turns.add(ceil(expected))
    assert ridge < min(turns) < max(turns) < 1.1 * ridge
    whole = phase_cost(seven("fused").graphs[0])
    assert intensity(whole, {"past": 1, "batch": 150}) < ridge
    assert intensity(whole, {"past": 1, "batch": 250}) > ridge


def test_spearman() -> None:
    assert spearman([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 1, 2], [5, 5, 9]) == pytest.approx(1)
    assert spearman([1, 2, 3], [1, 3, 2]) == pytest.approx(0.5)


@pytest.mark.slow
def test_predicted_times_are_in_the_order_of_measured_ones(tmp_path: Path) -> None:
    """One thread, all cases in turn, the median of 20 rounds for each."""
    program, rng = op_graphs(), np.random.default_rng(0)
    weights: dict[str, Any] = {
        p.path: draw_value(program.param(p.path), ANYTHING, rng) for p in program.params
    }
    with tw.compile(program, weights, out=tmp_path / "operations", threads=1) as model:
        assert model.graphs == tuple(graph.name for graph in program.graphs)
        cases = [
            (graph.name, draw_inputs(graph, {"n": rows}, rng, params=False))
            for rows in ROWS
            for graph in program.graphs
        ]
        assert len(cases) >= 60
        predicted = [seconds for rows in ROWS for seconds in least_seconds(model, rows)]
        times = np.array([[timed(model, *case) for case in cases] for _ in range(22)])
    found = spearman(predicted, np.median(times[2:], axis=0).tolist())
    print(f"predicted and measured times of {len(cases)} cases: Spearman {found:.3f}")
    assert found >= 0.8


def least_seconds(model: tw.Model, rows: int) -> list[float]:
    """What the roofline of this machine says of each graph, on one thread."""
    manifest = model.manifest
    symbols, kernels = symbol_table(manifest.symbols), read_explanation(model.artifact).kernels
    found = kernel_rows(kernels, manifest, symbols, {"n": rows}, roofline(), 1)
    return [
        sum(row["calls"] * row["bound_seconds"] for row in found if row["graph"] == graph)
        for graph in model.graphs
    ]


def timed(model: tw.Model, graph: str, inputs: dict[str, Any]) -> float:
    start = time.perf_counter()
    model.run(graph, inputs)
    return time.perf_counter() - start


@pytest.mark.parametrize(
    ("name", "operands", "attrs", "result", "read"),
    [
        ("gather", (TABLE, i32[2]), {}, f32[2, 8], 2 * 4 + 2 * 32),
        ("embedding", (TABLE, i32[2]), {}, f32[2, 8], 2 * 4 + 2 * 32),
        ("slice", (TABLE,), {"start": (5, 0), "size": (3, 8)}, f32[3, 8], 3 * 32),
    ],
)
def test_lookups_read_what_they_give(
    name: str, operands: tuple[Type, ...], attrs: dict[str, Any], result: Type, read: int
) -> None:
    op = get(name)
    cost = op.cost(operands, checked_attrs(op, attrs), [result])
    assert (cost.flops, cost.bytes_read, cost.bytes_written) == (0, read, result.nbytes)


def test_totals_are_the_sums_of_what_the_regions_cost() -> None:
    graph = made(ZOO["gemma"], "fused").graphs[0]
    env = {"past": 2, "seq": 3}
    costs = [region_cost(node) for node in graph.nodes if node.op != "reshape"]
    whole = phase_cost(graph)
    assert at(whole.bytes, env) == sum(at(cost.bytes, env) for cost in costs)
    assert at(whole.flops, env) == sum(at(cost.flops, env) for cost in costs)


def test_traffic_is_told_apart_by_hand() -> None:
    """Of one step of the small decoder, after two positions."""
    cost = phase_cost(made(ZOO["gemma"], "fused").graphs[1])
    env = {"past": 2}
    layers, groups, size, width, inner, words = 3, 2, 8, 16, 24, 70
    position = layers * 2 * groups * size * 4
    assert at(cost.cache, env) == position * (1 + 3)
    assert at(cost.cache_held, env) == position * 32
    matrices = layers * (width * (4 + 2 * groups + 4) * size + 3 * width * inner) + words * width
    norms = layers * (4 * width + 2 * size) + width
    turns = 2 * size // 2  # the frequencies of both kinds of layers, computed while compiling
    assert at(cost.weights_held, env) == 4 * (matrices + norms + turns)
    row = 4 * width  # of the token, looked up in the table that makes the logits too
    assert at(cost.weights, env) == at(cost.weights_held, env) + row


def at(formula: Dim, env: dict[str, int]) -> int:
    return formula if isinstance(formula, int) else evaluate(formula, env)


def intensity(cost: PhaseCost | Cost, env: dict[str, int]) -> float:
    return at(cost.flops, env) / at(cost.bytes, env)


@cache
def products() -> list[Node]:
    """Every product of activations with a weight in a step of 7B, fused with nothing."""
    (graph,) = seven("unfused").graphs
    weights = {entry.value.name for entry in graph.by_role("param")}
    return [n for n in graph.nodes if n.op == "matmul" and n.operands[1].name in weights]


def weight_shape(product: Node) -> tuple[int, int]:
    """Columns of the result, and what they are sums of."""
    first, last = (at(size, {}) for size in product.operands[1].tensor.shape)
    return (first, last) if product.attrs.bool("transpose_b") else (last, first)


@cache
def seven(form: str) -> Program:
    return made(seven_billion(), form)


def made(built: Program, form: str) -> Program:
    """A program as it was written, or after the passes, the last of which fuse."""
    if form == "traced":
        return built
    asked = (QuantizeWeights(),) if form == "quantized" else ()
    passes = default_pipeline(*asked).passes
    kept = [p for p in passes if form != "unfused" or p.name != "fuse_regions"]
    return Pipeline(tuple(kept)).run(built, PassContext(target=parse_target("cpu")))
