"""Products with a row-major table, and with two activations."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tests.codegen.tvm.kernels import CPUS, compile_kernel, isa
from tilewright.codegen.tvm import vector
from tilewright.codegen.tvm.emit import Expr, KernelBuilder
from tilewright.codegen.tvm.matmul_batched import batched_matmul
from tilewright.codegen.tvm.matmul_kernel import RowMajor, store_rows
from tilewright.codegen.tvm.matmul_schedule import (
    TableSchedule,
    batched_schedule,
    default_table_schedule,
)
from tilewright.codegen.tvm.matmul_table import table_matmul
from tilewright.dsl.errors import InvalidSchedule

DTYPES = {"f32": np.dtype(np.float32), "bf16": np.dtype(ml_dtypes.bfloat16)}


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize(("n", "k"), [(50, 37), (1, 64), (33, 129)])
def test_table(cpu: str, dtype: str, n: int, k: int, tmp_path: Path) -> None:
    has = isa(cpu)

    def build(kernel: KernelBuilder) -> None:
        m, x = kernel.symbol("m"), kernel.pointer("x", "f32")
        table, y = kernel.pointer("table", dtype), kernel.pointer("y", "f32")
        schedule = default_table_schedule(has.lanes_f32)
        table_matmul(kernel, m, n, k, RowMajor(x, k), table, schedule, store_rows(y, n))

    run = compile_kernel(build, has, tmp_path)
    random = np.random.default_rng(0)
    table = random.standard_normal((n, k)).astype(DTYPES[dtype])
    for m in range(1, 18):
        x = random.standard_normal((m, k)).astype(np.float32)
        expected = x.astype(np.float64) @ table.astype(np.float64).T
        for threads in (1, 2, 3):
            y = np.full((m, n), np.nan, np.float32)
            run([m], [x, table, y], threads)
            assert np.abs(y - expected).max() < 1e-4, (m, threads)
    run.close()


def test_a_table_of_other_dtype_is_refused() -> None:
    kernel = KernelBuilder("kernel", isa("generic"))
    x, table = kernel.pointer("x", "f32"), kernel.pointer("table", "i8")
    with pytest.raises(InvalidSchedule, match="i8"):
        table_matmul(
            kernel,
            kernel.symbol("m"),
            4,
            4,
            RowMajor(x, 4),
            table,
            TableSchedule(),
            store_rows(x, 4),
        )


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("transposed", [False, True])
def test_batches_of_activations(cpu: str, transposed: bool, tmp_path: Path) -> None:
    has = isa(cpu)

    def build(kernel: KernelBuilder) -> None:
        batch, m, n, k = (kernel.symbol(name) for name in "bmnk")
        x, w = kernel.pointer("x", "f32"), kernel.pointer("w", "bf16")
        y = kernel.pointer("y", "f32")

        def left(b: Expr, row: Expr, at: Expr, lanes: int, mask: Expr | None) -> Expr:
            return vector.load(x, (b * m + row) * k + at, lanes, mask)

        def right(b: Expr, row: Expr, at: Expr, lanes: int, mask: Expr | None) -> Expr:
            rows, columns = (n, k) if transposed else (k, n)
            return vector.load(w, (b * rows + row) * columns + at, lanes, mask)

        def epilogue(b: Expr, row: Expr, column: Expr, value: Expr, mask: Expr | None) -> None:
            vector.store(y, (b * m + row) * n + column, value, mask)

        schedule = batched_schedule(has.lanes_f32, has.vector_registers)
        batched_matmul(
            kernel, batch, m, n, k, left, right, schedule, epilogue, transposed=transposed
        )

    run = compile_kernel(build, has, tmp_path)
    random = np.random.default_rng(0)
    shapes = [(1, 1, 1, 1), (2, 3, 50, 37), (3, 17, 48, 300), (1, 130, 97, 64), (1, 5, 5, 0)]
    for batch, m, n, k in shapes:
        x = random.standard_normal((batch, m, k)).astype(np.float32)
        shape = (batch, n, k) if transposed else (batch, k, n)
        w = random.standard_normal(shape).astype(ml_dtypes.bfloat16)
        right = w.astype(np.float64).swapaxes(1, 2) if transposed else w.astype(np.float64)
        for threads in (1, 2, 3):
            y = np.full((batch, m, n), np.nan, np.float32)
            run([batch, m, n, k], [x, w, y], threads)
            assert np.abs(y - x.astype(np.float64) @ right).max() < 1e-4, (batch, m, n, k)
    run.close()
