"""Kernels in Triton's interpreter against the meaning of their graphs."""

import numpy as np
import pytest

from tests.codegen.triton.running import assert_right, kernel_of, regions, whole
from tilewright.codegen.triton.emulate import emulate
from tilewright.codegen.triton.schedule import LoopSchedule, MatmulSchedule
from tilewright.dsl.builder import TracedFunction, graph
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import DType, bf16, bool_, f16, f32, i32
from tilewright.dsl.ops.activation import gelu
from tilewright.dsl.ops.elementwise import (
    clamp,
    cos,
    erf,
    exp,
    log,
    maximum,
    rsqrt,
    sigmoid,
    sin,
    sqrt,
    tanh,
    where,
)
from tilewright.dsl.ops.matmul import matmul
from tilewright.dsl.ops.norm import layer_norm, rms_norm, softmax
from tilewright.dsl.ops.reduce import logsumexp
from tilewright.dsl.tensor import Tensor

ROWS, SEQ = dim("rows", 0, 300), dim("seq", 1, 64)
PIECES = LoopSchedule(block=32, row=32)
TILES = MatmulSchedule(16, 32, 16, band=2, warps=4, stages=2)


@pytest.mark.parametrize("rows", [0, 1, 7, 33])
def test_elementwise_work_broadcasts(rows: int) -> None:
    @graph(x=f32[ROWS, 5, 37], scale=f32[37], shift=f32[ROWS, 1, 1], on=bool_[5, 1])
    def g(x: Tensor, scale: Tensor, shift: Tensor, on: Tensor) -> Tensor:
        y = where(on, tanh(x * scale), sigmoid(x) + shift)
        return clamp(maximum(y, -0.25), -1.0, 0.5)

    assert_right(g, {"rows": rows})


def test_every_function_of_one_float() -> None:
    @graph(x=f32[3, 130])
    def g(x: Tensor) -> dict[str, Tensor]:
        size = abs(x) + 0.01
        return {
            "a": exp(x) + sin(x) * cos(x),
            "b": log(size) + sqrt(size) / rsqrt(size),
            "c": erf(x) - tanh(x * 0.1),
        }

    assert_right(g)


def test_integers_round_down_and_survive_zero() -> None:
    @graph(x=i32[4, 9], y=i32[9])
    def g(x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"q": x // y, "r": x % y, "f": (x < y).cast(f32), "i": x.cast(f32).cast(i32)}

    rng = np.random.default_rng(0)
    inputs = {
        "x": rng.integers(-20, 20, (4, 9), np.int32),
        "y": np.array([-7, -3, -1, 0, 1, 2, 3, 5, 9], np.int32),
    }
    assert_right(g, inputs=inputs)


def test_nan_propagates() -> None:
    @graph(x=f32[3, 40])
    def g(x: Tensor) -> dict[str, Tensor]:
        return {"max": x.max(-1), "min": x.min(-1), "limit": maximum(x, 0.0)}

    x = np.random.default_rng(0).standard_normal((3, 40)).astype(np.float32)
    x[1, 17], x[2, 3] = np.nan, -np.inf
    for schedule in (None, PIECES):
        assert_right(g, schedule=schedule, inputs={"x": x})


@pytest.mark.parametrize("schedule", [None, PIECES], ids=["whole", "pieces"])
@pytest.mark.parametrize("dtype", [f32, bf16, f16], ids=str)
@pytest.mark.parametrize("rows", [1, 5])
def test_softmax(rows: int, dtype: DType, schedule: LoopSchedule | None) -> None:
    @graph(x=dtype[ROWS, 3, 70])
    def g(x: Tensor) -> Tensor:
        return softmax(x * 2.0)

    assert len(regions(g)) == 1
    assert_right(g, {"rows": rows}, schedule)


@pytest.mark.parametrize("schedule", [None, PIECES], ids=["whole", "pieces"])
def test_norms_over_a_symbolic_row(schedule: LoopSchedule | None) -> None:
    @graph(x=f32[5, SEQ], w=f32[SEQ], b=f32[SEQ])
    def g(x: Tensor, w: Tensor, b: Tensor) -> dict[str, Tensor]:
        return {"layer": layer_norm(x + 1.0, w, b), "rms": rms_norm(x, w), "lse": logsumexp(x)}

    assert_right(g, {"seq": 45}, schedule)


def _dense(dtype: DType) -> TracedFunction:
    @graph(x=dtype[2, ROWS, 37], w=dtype[51, 37], b=dtype[51])
    def g(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return gelu(x @ w.T + b)

    return g


@pytest.mark.parametrize("dtype", [f32, bf16, f16], ids=str)
@pytest.mark.parametrize("rows", [0, 1, 47])
def test_matmul_with_bias_and_gelu(rows: int, dtype: DType) -> None:
    assert len(regions(_dense(dtype))) == 1
    assert_right(_dense(dtype), {"rows": rows}, TILES)
    assert_right(_dense(dtype), {"rows": rows})


@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
def test_batched_products(transpose_a: bool, transpose_b: bool) -> None:
    a = f32[3, 1, 40, 19] if transpose_a else f32[3, 1, 19, 40]
    b = f32[2, 21, 40] if transpose_b else f32[2, 40, 21]

    @graph(a=a, b=b, scale=f32[3, 1, 19, 1])
    def g(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
        return matmul(a, b, transpose_a=transpose_a, transpose_b=transpose_b) * scale

    assert_right(g, schedule=TILES)


@pytest.mark.parametrize("axes", [(1, 0, 2), (-2, -3, -1)])
def test_operands_are_moved_while_they_are_read(axes: tuple[int, ...]) -> None:
    @graph(x=f32[SEQ, 4, 24], w=f32[3, 24, 20])
    def g(x: Tensor, w: Tensor) -> Tensor:
        return x.permute_dims(*axes)[1:] @ w

    assert_right(g, {"seq": 33}, TILES)


def test_computed_operands_are_zero_beyond_the_inner_dimension() -> None:
    @graph(x=f32[20, 13], y=f32[13, 24])
    def g(x: Tensor, y: Tensor) -> Tensor:
        return cos(x) @ cos(y)

    assert_right(g, schedule=TILES, after=whole(g, "matmul"))


def test_bfloat16_is_rounded_to_nearest_even() -> None:
    @graph(x=f32[500])
    def g(x: Tensor) -> Tensor:
        return x.cast(bf16)

    x = np.random.default_rng(0).standard_normal(500).astype(np.float32)
    found = np.zeros(500, bf16.numpy)
    emulate(kernel_of(g), [x, found], {})
    np.testing.assert_array_equal(found, x.astype(bf16.numpy))
