"""Products with weights of bf16 in 12 bits, in panels and row after row, against what they hold."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.codegen.tvm.kernels import CPUS, Compiled, compile_kernel, isa
from tilewright.codegen.tvm.emit import KernelBuilder, Pointer
from tilewright.codegen.tvm.matmul_kernel import RowMajor, packed_matmul, store_rows
from tilewright.codegen.tvm.matmul_schedule import (
    MatmulSchedule,
    TableSchedule,
    packed_layout,
)
from tilewright.codegen.tvm.matmul_table import table_matmul
from tilewright.codegen.tvm.vector import SplitPointer, load_pairs
from tilewright.dsl.codec import encode_array
from tilewright.dsl.dtypes import bf16
from tilewright.dsl.encoding import SHORT, Tiled

Array = NDArray[Any]
ROWS = (1, 3, 8, 9, 50)


def codes(kernel: KernelBuilder) -> SplitPointer:
    return SplitPointer(kernel.pointer("codes", "u8"), kernel.pointer("low", "u8"))


def scaled_rows(y: Pointer, n: int, scale: Pointer) -> Any:
    """The plain epilogue, with the scale of each column."""
    from tilewright.codegen.tvm import vector

    def epilogue(row: Any, column: Any, values: Any, mask: Any) -> None:
        (value,) = values
        scales = vector.load(scale, column, vector.lanes_of(value), mask)
        store_rows(y, n)(row, column, [value * scales], mask)

    return epilogue


def drawn(n: int, k: int) -> Array:
    """Weights of usual spread, with zeros and elements that lie below the least normal code."""
    random = np.random.default_rng(n * 100 + k)
    weights = random.standard_normal((n, k)) * 2.0 ** random.integers(-4, 4, (n, 1))
    weights[random.random((n, k)) < 0.1] *= 2.0**-16
    weights[random.random((n, k)) < 0.05] = 0.0
    return weights.astype(ml_dtypes.bfloat16)


def decoded(weights: Array) -> Array:
    """What 12 bits keep of them: nothing is finer than 2**-21 of the row's largest power of two."""
    wide = weights.astype(np.float64)
    finest = 2.0 ** (np.frexp(np.abs(wide).max(1, keepdims=True))[1] - 22)
    small = np.abs(wide) < finest * 2**7
    return np.where(small, np.rint(wide / finest) * finest, wide)


def check(run: Compiled, n: int, k: int, arrays: list[Array], weights: Array) -> None:
    random = np.random.default_rng(k)
    kept = decoded(weights)
    for m in ROWS:
        x = random.standard_normal((m, k)).astype(np.float32)
        allowed = (k + 3) * 2.0**-24 * (np.abs(x).astype(np.float64) @ np.abs(kept).T) + 1e-30
        for threads in (1, 2):
            y = np.full((m + 1, n), np.nan, np.float32)
            run([m], [x, *arrays, y], threads)
            assert (np.abs(y[:m] - x.astype(np.float64) @ kept.T) <= allowed).all(), (m, threads)
            assert np.isnan(y[m]).all(), "stored beyond the last row"
    run.close()


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize(("n", "k", "widen"), [(50, 38, 0), (50, 64, 2), (33, 130, 2)])
def test_panels(cpu: str, n: int, k: int, widen: int, tmp_path: Path) -> None:
    has = isa(cpu)
    schedule = replace(MatmulSchedule(4, 2, 32, 16, 4), widen=widen)
    layout = packed_layout(n, k, "e4m7", schedule, has)

    def build(kernel: KernelBuilder) -> None:
        m, x = kernel.symbol("m"), kernel.pointer("x", "f32")
        panels, scale = codes(kernel), kernel.pointer("scale", "f32")
        epilogue = scaled_rows(kernel.pointer("y", "f32"), n, scale)
        packed_matmul(kernel, m, RowMajor(x, k), panels, layout, schedule, epilogue)

    weights = drawn(n, k)
    stored = bf16[n, k].with_encoding(Tiled(layout.nr, 2, SHORT))
    parts = {
        name: np.ascontiguousarray(part) for name, part in encode_array(weights, stored).items()
    }
    run = compile_kernel(build, has, tmp_path)
    check(run, n, k, [parts["codes"], parts["low"], parts["scale"]], weights)


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize(("n", "k"), [(50, 38), (1, 64), (33, 130)])
def test_table(cpu: str, n: int, k: int, tmp_path: Path) -> None:
    has = isa(cpu)

    def build(kernel: KernelBuilder) -> None:
        m, x = kernel.symbol("m"), kernel.pointer("x", "f32")
        table, scale = codes(kernel), kernel.pointer("scale", "f32")
        epilogue = scaled_rows(kernel.pointer("y", "f32"), n, scale)
        table_matmul(kernel, m, n, k, RowMajor(x, k), table, TableSchedule(4, 2), epilogue)

    weights = drawn(n, k)
    parts = encode_array(weights, bf16[n, k].with_encoding(SHORT))
    run = compile_kernel(build, has, tmp_path)
    check(run, n, k, [parts["codes"], parts["low"], parts["scale"]], weights)


@pytest.mark.parametrize("cpu", CPUS)
def test_every_code(cpu: str, tmp_path: Path) -> None:
    """All 4096 of them are the numbers that the codec says."""
    lanes = isa(cpu).lanes_f32

    def build(kernel: KernelBuilder) -> None:
        table, y = codes(kernel), kernel.pointer("y", "f32")
        with kernel.loop(0, 2048, lanes) as pair:
            for odd, value in enumerate(load_pairs(table, pair, lanes)):
                y.store(pair + 2048 * odd, value)

    every = np.arange(4096)
    high, low = (every >> 4).astype(np.uint8), every & 15
    y = np.zeros(4096, np.float32)
    run = compile_kernel(build, isa(cpu), tmp_path)
    run([], [high, (low[::2] | low[1::2] << 4).astype(np.uint8), y])
    run.close()
    exponent, fraction = every >> 7 & 15, (every & 127) / 128
    size = np.where(exponent, (1 + fraction) * 2.0 ** (exponent - 7), fraction * 2.0**-6)
    wanted = np.copysign(size, np.where(every >= 2048, -1.0, 1.0)).astype(np.float32)
    assert y.tobytes() == np.concatenate([wanted[::2], wanted[1::2]]).tobytes()
