"""Derived tolerances: wide enough for honest kernels, narrow enough for faults."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from tests.dsl.tracing import traced
from tilewright.dsl import mask as masks
from tilewright.dsl.builder import graph, param
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import bf16, f16, f32, i32
from tilewright.dsl.graph import Graph
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.ops.activation import gelu
from tilewright.dsl.ops.attention import attention
from tilewright.dsl.ops.elementwise import exp, where
from tilewright.dsl.ops.norm import layer_norm, softmax
from tilewright.dsl.ops.reduce import argmax
from tilewright.dsl.sampling import draw_inputs
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.tolerance import Tolerance, check, tolerances

ROWS = dim("rows", 1, 64)


@graph(x=f32[ROWS, 96])
def encoder(x: Tensor) -> Tensor:
    up, down = param("up", f32[384, 96]), param("down", f32[96, 384])
    scale, shift = param("scale", f32[96]), param("shift", f32[96])
    return layer_norm(x + gelu(x @ up.T) @ down.T, scale, shift)


def in_torch(inputs: dict[str, Any], dtype: torch.dtype) -> np.ndarray[Any, Any]:
    """The encoder by an engine with roundings of its own."""
    x, up, down, scale, shift = (
        torch.from_numpy(inputs[n]).to(dtype) for n in ("x", "up", "down", "scale", "shift")
    )
    y = x + torch.nn.functional.gelu(x @ up.T) @ down.T
    return torch.nn.functional.layer_norm(y, (96,), scale, shift).float().numpy()


def held(made: Graph, inputs: dict[str, Any]) -> tuple[Any, Tolerance]:
    ideal = evaluate(made, inputs, reading="ideal")
    return ideal["out"], tolerances(made, inputs)["out"]


@pytest.mark.parametrize("seed", range(5))
def test_an_honest_float32_kernel_passes_and_bf16_does_not(seed: int) -> None:
    made = encoder.graph()
    inputs = draw_inputs(made, {"rows": 7}, np.random.default_rng(seed))
    ideal, tolerance = held(made, inputs)
    assert check(in_torch(inputs, torch.float32), ideal, tolerance) is None
    assert check(evaluate(made, inputs)["out"], ideal, tolerance) is None
    assert tolerance.largest < 1e-3
    mismatch = check(in_torch(inputs, torch.bfloat16), ideal, tolerance)
    assert mismatch is not None
    assert "worst at" in mismatch


Fault = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]
FAULTS: dict[str, Fault] = {
    "one element": lambda y: np.where(np.arange(y.size).reshape(y.shape) == 5, y + 0.01, y),
    "a dropped row": lambda y: np.concatenate([y[:-1], np.zeros_like(y[:1])]),
    "shifted columns": lambda y: np.roll(y, 1, axis=1),
    "a wrong scale": lambda y: y * np.float32(1.001),
    "a NaN": lambda y: np.where(np.arange(y.size).reshape(y.shape) == 0, np.nan, y),
    "another shape": lambda y: y[:, :-1],
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_faults_are_caught(fault: Fault) -> None:
    made = encoder.graph()
    inputs = draw_inputs(made, {"rows": 7}, np.random.default_rng(0))
    ideal, tolerance = held(made, inputs)
    assert check(fault(in_torch(inputs, torch.float32)), ideal, tolerance) is not None


def scores(q: Tensor, k: Tensor) -> Tensor:
    return attention(q, k, k, mask=masks.causal(), scale=0.25)[0]


def test_excess_precision_passes() -> None:
    """A kernel may keep short floats in f32 throughout, or round where the graph says."""
    made = traced(scores, bf16[1, 9, 2, 16], bf16[1, 9, 2, 16])
    rng = np.random.default_rng(3)
    inputs = draw_inputs(made, {}, rng)
    ideal, tolerance = held(made, inputs)
    kept = ideal.astype(np.float32).astype(ml_dtypes.bfloat16)
    assert check(kept, ideal, tolerance) is None
    assert check(kept.astype(np.float64) + 0.2, ideal, tolerance) is not None


def test_cancellation_widens_the_bound() -> None:
    """The rounding of 1e4 reaches a difference that is small."""
    x = np.array([1e4 + 0.1], np.float32)
    made = traced(lambda x: (x + 0.3) - x, f32[1])
    wide = held(made, {"x0": x})[1].largest
    narrow = held(traced(lambda x: x + 0.3, f32[1]), {"x0": np.zeros(1, np.float32)})[1].largest
    assert narrow < 1e-6 < 1e-3 < wide < 1e-1


def test_longer_sums_have_a_higher_floor() -> None:
    def largest(count: int) -> float:
        x = np.ones((1, count), np.float32)
        return held(traced(lambda x: x.sum(1), f32[1, count]), {"x0": x})[1].largest / count

    assert 10 * largest(10) < largest(1000) < 1e-3


def test_infinities_and_nan_must_agree() -> None:
    made = traced(exp, f32[3])
    x = np.array([1.0, np.inf, np.nan], np.float32)
    ideal, tolerance = held(made, {"x0": x})
    good = np.exp(x)
    assert check(good, ideal, tolerance) is None
    for place, wrong in ((0, math.inf), (1, 1e30), (1, math.nan), (2, 0.0)):
        bad = good.copy()
        bad[place] = wrong
        assert check(bad, ideal, tolerance) is not None


def test_overflow_of_the_format_is_free() -> None:
    """Ideal: 1e5. A kernel in f16 has infinity, one with excess precision may have 1e5."""
    made = traced(lambda x: (x * x).cast(f32), f16[1])
    ideal, tolerance = held(made, {"x0": np.array([317.0], np.float16)})
    for legal in (math.inf, 1e5):
        assert check(np.array([legal], np.float32), ideal, tolerance) is None


def test_discrete_results_are_exact_where_they_are_clear() -> None:
    made = traced(lambda x: argmax(softmax(x)), f32[2, 3])
    x = np.array([[0.1, 0.9, 0.3], [0.5, 0.5 + 1e-9, 0.1]], np.float32)
    ideal, tolerance = held(made, {"x0": x})
    assert check(np.array([1, 0], np.int32), ideal, tolerance) is None
    assert check(np.array([2, 0], np.int32), ideal, tolerance) is not None


def test_a_decision_on_the_edge_frees_its_element_alone() -> None:
    def body(x: Tensor) -> Tensor:
        return where(exp(x) < math.e, x * 0.0 + 100.0, x)

    made = traced(body, f32[64])
    x = np.linspace(0.1, 2, 64).astype(np.float32)
    x[20:24] = 1.0
    ideal, tolerance = held(made, {"x0": x})
    found = evaluate(made, {"x0": x})["out"]
    assert check(found, ideal, tolerance) is None
    bounds = tolerance.bounds[0].distance
    clear = bounds < 1e-2
    assert clear[:20].all()
    assert clear[24:].all()
    assert not clear[20:24].all()
    assert check(np.where(clear, found + 0.02, found), ideal, tolerance) is not None


def test_integers_have_no_tolerance() -> None:
    made = traced(lambda x: x * 3, i32[2])
    ideal, tolerance = held(made, {"x0": np.array([1, 2], np.int32)})
    assert check(np.array([3, 6], np.int32), ideal, tolerance) is None
    assert check(np.array([3, 7], np.int32), ideal, tolerance) is not None
