"""Grouped products in kernels: any counts, ragged sizes, every team, fused on both sides."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.codegen.tvm.kernels import CPUS
from tests.codegen.tvm.running import Arrays
from tilewright.codegen.compiler import Compilation, Options, compile_program
from tilewright.dsl.builder import TracedFunction, graph, param
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import DType, bf16, f32, i32, i64
from tilewright.dsl.encoding import IntFormat, Quantized
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.ops.activation import silu
from tilewright.dsl.ops.encoding import decode
from tilewright.dsl.ops.grouped import grouped_matmul
from tilewright.dsl.program import program
from tilewright.dsl.sampling import draw_inputs
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.tolerance import check, tolerances
from tilewright.runtime import load
from tilewright.runtime.schema import SpanStep
from tilewright.target.spec import parse_target

M = dim("m", 1, 300)
COUNTS = [
    [0, 0, 0, 0],
    [1, 0, 0, 0],
    [0, 0, 0, 7],
    [3, 0, 5, 1],
    [29, 31, 0, 33],
    [200, 1, 0, 99],
]


def made(of: TracedFunction, out: Path, weights: Any, cpu: str = "native") -> Compilation:
    options = Options(parse_target(f"cpu:{cpu}"), check="full")
    return compile_program(program("p", of).program, Arrays(weights), out, options)


def plain(k: int, n: int, dtype: DType, *, turned: bool) -> TracedFunction:
    shape = (4, n, k) if turned else (4, k, n)

    @graph(x=dtype[M, k], w=dtype[shape], counts=i32[4])
    def g(x: Tensor, w: Tensor, counts: Tensor) -> Tensor:
        return grouped_matmul(x, w, counts, transpose_w=turned)

    return g


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("dtype", [f32, bf16], ids=str)
@pytest.mark.parametrize("cpu", CPUS)
def test_any_counts_of_ragged_sizes(cpu: str, dtype: DType, turned: bool, tmp_path: Path) -> None:
    of = plain(37, 50, dtype, turned=turned)
    made(of, tmp_path / "out", {}, cpu)
    for threads in (1, 2, 3):
        with load(tmp_path / "out", threads=threads) as model:
            for counts in COUNTS:
                for spare in (0, 5):
                    _hold(of, model.run, counts, max(1, sum(counts) + spare))


def _hold(of: TracedFunction, run: Callable[..., Any], counts: list[int], rows: int) -> None:
    if rows > 300:
        return
    made = of.graph()
    given = draw_inputs(made, {"m": rows}, np.random.default_rng(rows))
    given["counts"] = np.array(counts, np.int32)
    given["x"][sum(counts) :] = np.nan
    ideal = evaluate(made, given, reading="ideal")["out"]
    found = run("g", given, poison=True)["out"]
    assert not found[sum(counts) :].any()
    wrong = check(found, ideal, tolerances(made, given)["out"])
    assert wrong is None, (counts, rows, wrong)


def test_wrong_counts_are_cut(tmp_path: Path) -> None:
    of = plain(9, 11, f32, turned=False)
    made(of, tmp_path / "out", {})
    given = draw_inputs(of.graph(), {"m": 12}, np.random.default_rng(0))
    with load(tmp_path / "out", threads=2) as model:
        for counts in ([5, -3, 9, 4], [2**31 - 1, 1, 1, 1], [-1, -1, -1, -1]):
            given["counts"] = np.array(counts, np.int32)
            wanted = evaluate(of.graph(), given, checked=False)["out"]
            found = model.run("g", given, poison=True)["out"]
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


INT8 = f32[3, 16, 24].with_encoding(Quantized(IntFormat(8), axis=2))


@graph(x=f32[M, 24], b=f32[16], counts=i64[3])
def experts(x: Tensor, b: Tensor, counts: Tensor) -> Tensor:
    """Work before and after, and weights stored as integers."""
    w = decode(param("w", INT8))
    return silu(grouped_matmul(x * 2.0 + 1.0, w, counts, transpose_w=True) + b)


def test_epilogue_and_stored_weights_are_one_kernel(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stored = {"w": rng.normal(size=(3, 16, 24)).astype(np.float32)}
    found = made(experts, tmp_path / "out", stored)
    (step,) = found.manifest.graphs[0].steps
    assert isinstance(step, SpanStep)
    assert [name.split("_")[0] for name in step.kernels] == ["loop", "grouped"]
    x, b = rng.normal(size=(20, 24)).astype(np.float32), rng.normal(size=16).astype(np.float32)
    counts = np.array([4, 0, 9])
    x[13:] = np.inf
    with load(tmp_path / "out", threads=2) as model:
        y = model.run("experts", {"x": x, "b": b, "counts": counts})["out"]
    scale = np.abs(stored["w"]).max(2, keepdims=True) / 127
    w = np.rint(stored["w"] / scale) * scale
    sums = np.zeros((20, 16))
    sums[:4], sums[4:13] = (x[:4] * 2 + 1) @ w[0].T, (x[4:13] * 2 + 1) @ w[2].T
    sums += b
    np.testing.assert_allclose(y, sums / (1 + np.exp(-sums)), rtol=2e-3, atol=2e-3)


def test_a_result_in_bf16_is_rounded_once(tmp_path: Path) -> None:
    of = plain(64, 8, bf16, turned=False)
    made(of, tmp_path / "out", {})
    given = draw_inputs(of.graph(), {"m": 40}, np.random.default_rng(1))
    given["counts"] = np.array([10, 10, 10, 10], np.int32)
    with load(tmp_path / "out") as model:
        found = model.run("g", given)["out"]
    exact = evaluate(of.graph(), given, reading="ideal")["out"]
    off = found.astype(np.float64) != exact.astype(ml_dtypes.bfloat16).astype(np.float64)
    assert off.mean() < 0.02, "sums are kept in f32"
