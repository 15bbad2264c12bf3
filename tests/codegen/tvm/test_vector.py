"""Conversions, reductions and tails of vectors."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.codegen.tvm.kernels import CPUS, Compiled, compile_kernel, isa
from tilewright.codegen.tvm import vector
from tilewright.codegen.tvm.emit import Expr, KernelBuilder

DTYPES = {
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "i8": np.dtype(np.int8),
    "u8": np.dtype(np.uint8),
    "i32": np.dtype(np.int32),
}


def converter(source: str, target: str, cpu: str, folder: Path) -> Compiled:
    def build(kernel: KernelBuilder) -> None:
        n, x, y = kernel.symbol("n"), kernel.pointer("x", source), kernel.pointer("y", target)

        def body(index: Expr, lanes: int, mask: Expr | None) -> None:
            vector.store(y, index, vector.load(x, index, lanes, mask), mask)

        vector.vector_loop(kernel, 0, n, body)

    return compile_kernel(build, isa(cpu), folder)


def patterns() -> NDArray[np.uint32]:
    """f32 bits around every rounding decision: ties, carries, extremes, NaN payloads."""
    random = np.random.default_rng(0).integers(0, 2**32, 20_000, dtype=np.uint64)
    high = np.arange(0, 2**16, 7, dtype=np.uint64) << np.uint64(16)
    edges = [high + np.uint64(low) for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)]
    return np.concatenate([random, *edges]).astype(np.uint32)


@pytest.mark.parametrize("cpu", CPUS)
def test_bf16_rounds_to_nearest_even_and_keeps_nan(cpu: str, tmp_path: Path) -> None:
    x = patterns().view(np.float32)
    if isa(cpu).bf16_dot:
        # The native instruction flushes denormals, as stated.
        x = x[~((np.abs(x) < 2.0**-126) & (x != 0))]
    got = np.zeros(len(x), ml_dtypes.bfloat16)
    run = converter("f32", "bf16", cpu, tmp_path)
    run([len(x)], [x, got])
    with np.errstate(invalid="ignore"):
        expected = x.astype(ml_dtypes.bfloat16)
    assert np.array_equal(np.isnan(got.astype(np.float32)), np.isnan(x))
    there = ~np.isnan(x)
    assert np.array_equal(got.view(np.uint16)[there], expected.view(np.uint16)[there])
    run.close()


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("dtype", ["f16", "bf16", "i8", "u8", "i32"])
def test_loads_widen_exactly(cpu: str, dtype: str, tmp_path: Path) -> None:
    bits = np.random.default_rng(1).integers(0, 256, (1003, DTYPES[dtype].itemsize), np.uint8)
    x = bits.view(DTYPES[dtype]).ravel()
    got = np.zeros(len(x), np.float32)
    run = converter(dtype, "f32", cpu, tmp_path)
    run([len(x)], [x, got])
    assert np.array_equal(got, x.astype(np.float32), equal_nan=True)
    run.close()


@pytest.mark.parametrize("cpu", CPUS)
def test_reductions(cpu: str, tmp_path: Path) -> None:
    lanes = isa(cpu).lanes_f32

    def build(kernel: KernelBuilder) -> None:
        x, y = kernel.pointer("x", "f32"), kernel.pointer("y", "f32")
        y.store(0, vector.reduce_add(kernel, x.load(0, lanes)))
        y.store(1, vector.reduce_max(kernel, x.load(0, lanes)))

    run = compile_kernel(build, isa(cpu), tmp_path)
    x = np.arange(lanes, dtype=np.float32) - 2
    y = np.zeros(2, np.float32)
    run([], [x, y])
    assert y.tolist() == [x.sum(), x.max()]
    for place in range(lanes):
        broken = x.copy()
        broken[place] = np.nan
        run([], [broken, y])
        assert np.isnan(y).all(), place
    run.close()


@pytest.mark.parametrize("cpu", CPUS)
def test_pairs(cpu: str, tmp_path: Path) -> None:
    lanes = isa(cpu).lanes_f32

    def build(kernel: KernelBuilder) -> None:
        x, y = kernel.pointer("x", "bf16"), kernel.pointer("y", "f32")
        even, odd = vector.load_pairs(x, 0, lanes)
        y.store(0, even)
        y.store(lanes, odd)

    run = compile_kernel(build, isa(cpu), tmp_path)
    x = np.random.default_rng(0).standard_normal(2 * lanes).astype(ml_dtypes.bfloat16)
    y = np.zeros(2 * lanes, np.float32)
    run([], [x, y])
    assert np.array_equal(y, np.concatenate([x[::2], x[1::2]]).astype(np.float32))
    run.close()
