"""Matrix products against float64: odd shapes, all instructions, fused both ways."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.codegen.tvm.kernels import CPUS, Compiled, compile_kernel, isa
from tilewright.codegen.tvm import math, vector
from tilewright.codegen.tvm.emit import Expr, KernelBuilder, lanes_of
from tilewright.codegen.tvm.matmul_kernel import RowMajor, packed_matmul, store_rows
from tilewright.codegen.tvm.matmul_schedule import (
    MatmulSchedule,
    PackedLayout,
    PanelDtype,
    check,
    default_schedule,
    packed_layout,
)
from tilewright.dsl.errors import InvalidSchedule
from tilewright.target.cpu import CpuIsa

DTYPES = {"f32": np.dtype(np.float32), "bf16": np.dtype(ml_dtypes.bfloat16)}
ROWS = [*range(1, 18), 31, 33, 100]


def small_schedule(isa: CpuIsa, instruction: str) -> MatmulSchedule:
    """Blocks so small that every loop of the kernel is run several times and ends raggedly."""
    if instruction == "amx":
        return MatmulSchedule(32, 2, 64, 64, 1, "amx")
    mr = 6 if isa.vector_registers == 32 else 4
    assert instruction in ("fma", "dot")
    return MatmulSchedule(mr, 2, 32, 4 * mr, 4, "dot" if instruction == "dot" else "fma")


def combinations() -> list[tuple[str, str, str, str]]:
    found: list[tuple[str, str, str, str]] = []
    for cpu in CPUS:
        has = isa(cpu)
        found += [(cpu, "fma", "f32", "f32"), (cpu, "fma", "f32", "bf16")]
        found += [(cpu, "fma", "bf16", "f32"), (cpu, "fma", "bf16", "bf16")]
        if has.bf16_dot:
            found += [(cpu, "dot", "bf16", "bf16"), (cpu, "dot", "bf16", "f32")]
        if has.amx_bf16:
            found += [(cpu, "amx", "bf16", "bf16"), (cpu, "amx", "bf16", "f32")]
    return found


class Problem:
    """Random operands, their exact product, and how far a kernel may be from it."""

    def __init__(self, m: int, n: int, k: int, weights: str, rows: str, rounds: bool) -> None:
        random = np.random.default_rng(m * 1000 + n)
        self.rows = random.standard_normal((m, k)).astype(DTYPES[rows])
        self.weights = random.standard_normal((k, n)).astype(DTYPES[weights])
        left = self.rows.astype(np.float64)
        if rounds:
            left = self.rows.astype(ml_dtypes.bfloat16).astype(np.float64)
        right = self.weights.astype(np.float64)
        self.product = left @ right
        # Each of k additions rounds to f32 once.
        self.tolerance = (k + 2) * 2.0**-24 * (np.abs(left) @ np.abs(right)) + 1e-30


@pytest.mark.parametrize(("cpu", "instruction", "weights", "rows"), combinations())
def test_any_number_of_rows(
    cpu: str, instruction: str, weights: str, rows: str, tmp_path: Path
) -> None:
    has = isa(cpu)
    # Ragged in every way; and even, so that bf16 rows are read in place.
    n, k = (96, 64) if weights == rows == "bf16" and cpu == "native" else (50, 37)
    schedule = small_schedule(has, instruction)
    dtype = "f32" if weights == "f32" else "bf16"
    layout = packed_layout(n, k, dtype, schedule, has)

    def build(kernel: KernelBuilder) -> None:
        m, x = kernel.symbol("m"), kernel.pointer("x", rows)
        w, y = kernel.pointer("w", weights), kernel.pointer("y", "f32")
        packed_matmul(kernel, m, RowMajor(x, k), w, layout, schedule, store_rows(y, n))

    run = compile_kernel(build, has, tmp_path)
    for m in ROWS:
        problem = Problem(m, n, k, weights, rows, instruction != "fma")
        packed = layout.pack([problem.weights])
        for threads in (1, 2, 3):
            y = np.full((m + 1, n), np.nan, np.float32)
            run([m], [problem.rows, packed, y], threads)
            assert (np.abs(y[:m] - problem.product) <= problem.tolerance).all(), (m, threads)
            assert np.isnan(y[m]).all(), "stored beyond the last row"
    run.close()


def product_of(
    has: CpuIsa, layout: PackedLayout, schedule: MatmulSchedule, rows: str = "f32"
) -> KernelBuilder:
    """The plain product with panels of a layout, as f32."""
    kernel = KernelBuilder("kernel", has)
    m, x = kernel.symbol("m"), kernel.pointer("x", rows)
    w, y = kernel.pointer("w", layout.dtype), kernel.pointer("y", "f32")
    packed_matmul(kernel, m, RowMajor(x, layout.k), w, layout, schedule, store_rows(y, layout.n))
    return kernel


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("dtype", ["bf16", "i8"])
@pytest.mark.parametrize("k", [37, 64])
def test_converted_parts_change_no_bit(cpu: str, dtype: PanelDtype, k: int, tmp_path: Path) -> None:
    """Blocks of four tiles of four rows, of which two or more meet a converted part."""
    has, n = isa(cpu), 50
    plain = MatmulSchedule(4, 2, 32, 16, 4)
    random = np.random.default_rng(k)
    weights = random.integers(-99, 99, (k, n)).astype(np.float32)
    runs = [
        Compiled([product_of(has, layout, schedule).finish()], has, tmp_path, None)
        for schedule in (plain, replace(plain, widen=2))
        for layout in [packed_layout(n, k, dtype, schedule, has)]
    ]
    packed = packed_layout(n, k, dtype, plain, has).pack([weights])
    for m in (1, 4, 7, 8, 11, 16, 33):
        x = random.standard_normal((m, k)).astype(np.float32)
        for threads in (1, 2):
            results = [np.full((m, n), np.nan, np.float32) for _ in runs]
            for run, y in zip(runs, results, strict=True):
                run([m], [x, packed, y], threads)
            apart, once = results
            assert np.array_equal(apart, once), (m, threads)
            assert np.allclose(apart, x.astype(np.float64) @ weights, rtol=0, atol=0.02)
    for run in runs:
        run.close()


def test_whole_tiles_read_what_was_converted() -> None:
    """Two vectors of columns in each of eight rows a turn, and once more in a turn's remainder."""
    has = isa("generic")
    plain = MatmulSchedule(4, 2, 32, 16, 4)
    layout = packed_layout(50, 64, "bf16", plain, has)
    for schedule, loads in ((plain, 0), (replace(plain, widen=2), 2 * 8 + 2)):
        text = str(product_of(has, layout, schedule).finish().body)
        assert text.count("= wide[") == loads


@pytest.mark.parametrize("dtype", ["f32", "bf16", "i8"])
def test_a_few_rows_ask_for_each_line_that_they_read(dtype: PanelDtype) -> None:
    """A turn reads 4 rows of 8 columns, or of pairs: as many lines as it has to ask for."""
    has = isa("generic")
    schedule = MatmulSchedule(1, 2, 64, 1, 4, prefetch=0)
    lines = {"f32": 2, "bf16": 2, "i8": 1}[dtype]
    for stream in (0, 16):
        asking = replace(schedule, mr=2, mc=2, stream=stream)
        layout = packed_layout(8, 64, dtype, asking, has)
        text = str(product_of(has, layout, asking).finish().body)
        assert text.count("llvm.prefetch") == (lines if stream else 0)


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_default_schedules_are_right(cpu: str, dtype: str, tmp_path: Path) -> None:
    has, n, k = isa(cpu), 200, 801
    kind = "f32" if dtype == "f32" else "bf16"
    schedule = default_schedule(n, k, kind, has)
    layout = packed_layout(n, k, kind, schedule, has)

    def build(kernel: KernelBuilder) -> None:
        m, x = kernel.symbol("m"), kernel.pointer("x", dtype)
        w, y = kernel.pointer("w", dtype), kernel.pointer("y", "f32")
        packed_matmul(kernel, m, RowMajor(x, k), w, layout, schedule, store_rows(y, n))

    run = compile_kernel(build, has, tmp_path)
    for m in (1, 7, 300):
        problem = Problem(m, n, k, dtype, dtype, False)
        y = np.full((m, n), np.nan, np.float32)
        run([m], [problem.rows, layout.pack([problem.weights]), y], 2)
        assert (np.abs(y - problem.product) <= problem.tolerance).all()
    run.close()


@pytest.mark.parametrize("cpu", CPUS)
def test_prologue_and_epilogue_are_fused(cpu: str, tmp_path: Path) -> None:
    """y = tanh((x * scale) @ w + bias) + residual, and a second output with the sums."""
    has, n, k = isa(cpu), 37, 50
    schedule = small_schedule(has, "fma")
    layout = packed_layout(n, k, "f32", schedule, has)

    def build(kernel: KernelBuilder) -> None:
        m, x = kernel.symbol("m"), kernel.pointer("x", "f32")
        scale, w = kernel.pointer("scale", "f32"), kernel.pointer("w", "f32")
        bias, y = kernel.pointer("bias", "f32"), kernel.pointer("y", "f32")
        sums = kernel.pointer("sums", "f32")

        def rows(row: Expr, at: Expr, lanes: int, mask: Expr | None) -> Expr:
            value = vector.load(x, row * k + at, lanes, mask)
            return value * vector.load(scale, at, lanes, mask)

        def epilogue(row: Expr, column: Expr, values: Sequence[Expr], mask: Expr | None) -> None:
            (value,) = values
            lanes = lanes_of(value)
            vector.store(sums, row * n + column, value, mask)
            changed = math.tanh(kernel, value + vector.load(bias, column, lanes, mask))
            old = vector.load(y, row * n + column, lanes, mask)
            vector.store(y, row * n + column, changed + old, mask)

        packed_matmul(kernel, m, rows, w, layout, schedule, epilogue)

    run = compile_kernel(build, has, tmp_path)
    random = np.random.default_rng(0)
    for m in (1, 5, 40):
        x, w = random.standard_normal((m, k)), random.standard_normal((k, n)) / 7
        scale, bias = random.standard_normal(k), random.standard_normal(n)
        residual = random.standard_normal((m, n))
        x, w, scale, bias, y = (v.astype(np.float32) for v in (x, w, scale, bias, residual))
        expected = (x * scale).astype(np.float64) @ w.astype(np.float64)
        sums = np.full((m, n), np.nan, np.float32)
        before = y.copy()
        run([m], [x, scale, layout.pack([w]), bias, y, sums], 2)
        assert np.abs(sums - expected).max() < 1e-5
        assert np.abs(y - (np.tanh(expected + bias) + before)).max() < 1e-5
    run.close()


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_interleaved_matrices(cpu: str, dtype: str, tmp_path: Path) -> None:
    """A gated product: the epilogue sees the same columns of both matrices."""
    has, n, k = isa(cpu), 45, 33
    kind = "f32" if dtype == "f32" else "bf16"
    schedule = small_schedule(has, "fma")
    layout = packed_layout(n, k, kind, schedule, has, interleave=2)

    def build(kernel: KernelBuilder) -> None:
        m, x = kernel.symbol("m"), kernel.pointer("x", "f32")
        w, y = kernel.pointer("w", dtype), kernel.pointer("y", "f32")

        def epilogue(row: Expr, column: Expr, values: Sequence[Expr], mask: Expr | None) -> None:
            gate, up = values
            vector.store(y, row * n + column, gate * up, mask)

        packed_matmul(kernel, m, RowMajor(x, k), w, layout, schedule, epilogue)

    run = compile_kernel(build, has, tmp_path)
    random = np.random.default_rng(0)
    gate, up = (random.standard_normal((k, n)).astype(DTYPES[dtype]) for _ in range(2))
    for m in (1, 9):
        x = random.standard_normal((m, k)).astype(np.float32)
        y = np.full((m, n), np.nan, np.float32)
        run([m], [x, layout.pack([gate, up]), y], 2)
        wide = x.astype(np.float64)
        expected = (wide @ gate.astype(np.float64)) * (wide @ up.astype(np.float64))
        assert np.abs(y - expected).max() < 1e-4
    run.close()


def test_packing_keeps_every_element() -> None:
    weights: NDArray[np.float32] = np.arange(35, dtype=np.float32).reshape(5, 7)
    layout = PackedLayout(n=7, k=5, nr=4, dtype="bf16", lanes=4, k_unit=2)
    packed = layout.pack([weights]).astype(np.float32)
    assert packed.size == layout.elements == 2 * 6 * 4
    panels = packed.reshape(2, 3, 4, 2)
    for k in range(6):
        for n in range(8):
            expected = weights[k, n] if k < 5 and n < 7 else 0
            assert panels[n // 4, k // 2, n % 4, k % 2] == expected
    with pytest.raises(InvalidSchedule, match="packing needs"):
        layout.pack([weights.T])


def test_what_cannot_be_converted_is_refused() -> None:
    has = replace(isa("generic"), bf16_dot=True, lanes_f32=16)
    schedule = MatmulSchedule(4, 2, 4096, 4, widen=1)
    layout = packed_layout(32, 4096, "bf16", schedule, has)
    with pytest.raises(InvalidSchedule, match="524288 bytes of a converted part"):
        check(schedule, layout, has)
    check(replace(schedule, kc=2048), layout, has)
    with pytest.raises(InvalidSchedule, match="only FMA reads"):
        check(replace(schedule, kc=512, instruction="dot"), layout, has)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (MatmulSchedule(6, 3, 32, 12), "the panels' width"),
        (MatmulSchedule(6, 2, 32, 13), "mc is no multiple"),
        (MatmulSchedule(6, 2, 32, 12, 4, "dot"), "no bf16 dot"),
        (MatmulSchedule(32, 2, 32, 32, 1, "amx"), "no AMX"),
        (MatmulSchedule(6, 2, 0, 12), "sizes start at 1"),
        (MatmulSchedule(6, 2, 32, 12, stream=-1), "counts start at 0"),
        (MatmulSchedule(6, 2, 32, 12, widen=1), "f32 panels are as wide as can be"),
    ],
)
def test_schedules_that_do_not_fit_are_refused(change: MatmulSchedule, why: str) -> None:
    plain = isa("generic")
    layout = packed_layout(8, 8, "f32", MatmulSchedule(6, 2, 32, 12), plain)
    kernel = KernelBuilder("kernel", plain)
    x, w = kernel.pointer("x", "f32"), kernel.pointer("w", "f32")
    with pytest.raises(InvalidSchedule, match=why):
        packed_matmul(
            kernel, kernel.symbol("m"), RowMajor(x, 8), w, layout, change, store_rows(x, 8)
        )
