"""The kernel builder: shares, scratch, binding of loads, aliasing, shape of the code."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.codegen.tvm.kernels import CPUS, compile_kernel, isa
from tilewright.codegen.tvm import vector
from tilewright.codegen.tvm.emit import Expr, KernelBuilder, i64
from tilewright.codegen.tvm.object_code import assembly, object_code


def add_one(kernel: KernelBuilder) -> None:
    """y = x + 1, both f32, as every vector kernel is written."""
    n, x, y = kernel.symbol("n"), kernel.pointer("x", "f32"), kernel.pointer("y", "f32")
    begin, end = kernel.share(n)

    def body(index: Expr, lanes: int, mask: Expr | None) -> None:
        vector.store(y, index, vector.load(x, index, lanes, mask) + 1.0, mask)

    vector.vector_loop(kernel, begin, end, body, unroll=2)


@pytest.mark.parametrize("cpu", CPUS)
def test_shares_cover_every_unit_once(cpu: str, tmp_path: Path) -> None:
    run = compile_kernel(add_one, isa(cpu), tmp_path)
    for threads in (1, 2, 3):
        for n in (0, 1, 2, 3, 15, 16, 17, 31, 33, 100, 1001):
            x = np.arange(n, dtype=np.float32)
            y = np.full(n + 8, -1, np.float32)
            run([n], [x, y], threads)
            assert np.array_equal(y[:n], x + 1)
            assert (y[n:] == -1).all(), "stored beyond the end"
    run.close()


def test_shares_differ_by_one_unit_at_most(tmp_path: Path) -> None:
    def build(kernel: KernelBuilder) -> None:
        n, out = kernel.symbol("n"), kernel.pointer("out", "i64")
        begin, end = kernel.share(n)
        out.store(i64(kernel.rank), end - begin)

    run = compile_kernel(build, isa("native"), tmp_path)
    for n in range(12):
        sizes = np.zeros(3, np.int64)
        run([n], [sizes], 3)
        assert sizes.sum() == n
        assert sizes.max() - sizes.min() <= 1
    run.close()


def test_loads_keep_the_value_of_their_time(tmp_path: Path) -> None:
    def swap(kernel: KernelBuilder) -> None:
        x = kernel.pointer("x", "f32")
        first, second = x.load(0), x.load(1)
        x.store(0, second)
        x.store(1, first)
        register = kernel.register(1, first)
        before = register.get()
        register.set(before + 1.0)
        x.store(2, before)

    x = np.array([3, 4, 0], np.float32)
    run = compile_kernel(swap, isa("native"), tmp_path)
    run([], [x])
    assert x.tolist() == [4, 3, 3]
    run.close()


@pytest.mark.parametrize(("dtype", "bytes_each"), [("f32", 4), ("bf16", 2), ("u8", 1)])
def test_scratch_is_aligned_and_does_not_overlap(
    dtype: str, bytes_each: int, tmp_path: Path
) -> None:
    def build(kernel: KernelBuilder) -> None:
        from tvm import tirx

        out = kernel.pointer("out", "i64")
        for number in range(2):
            place = kernel.scratch(dtype, 100)
            out.store(number, tirx.reinterpret("int64", place.address()))

    out = np.zeros(2, np.int64)
    run = compile_kernel(build, isa("native"), tmp_path)
    run([], [out])
    assert (out % 64 == 0).all()
    assert abs(out[0] - out[1]) >= 100 * bytes_each
    run.close()


def test_without_noalias_a_kernel_may_run_in_place(tmp_path: Path) -> None:
    """y[i + 1] = x[i] with y = x must spread the first element; with noalias it need not."""

    def build(kernel: KernelBuilder) -> None:
        n, x, y = kernel.symbol("n"), kernel.pointer("x", "f32"), kernel.pointer("y", "f32")
        with kernel.loop(0, n) as i:
            y.store(i + 1, x.load(i))

    kernel = KernelBuilder("kernel", isa("native"), noalias=False)
    build(kernel)
    from tests.codegen.tvm.kernels import Compiled

    run = Compiled([kernel.finish()], isa("native"), tmp_path, None)
    x = np.arange(65, dtype=np.float32)
    run([64], [x, x])
    assert (x == 0).all()
    run.close()


def test_branches(tmp_path: Path) -> None:
    def build(kernel: KernelBuilder) -> None:
        n, x = kernel.symbol("n"), kernel.pointer("x", "i64")
        with kernel.when(n > 3):
            x.store(0, i64(1))
        with kernel.otherwise():
            x.store(0, i64(2))

    run = compile_kernel(build, isa("native"), tmp_path)
    for n, expected in ((3, 2), (4, 1)):
        x = np.zeros(1, np.int64)
        run([n], [x])
        assert x[0] == expected
    run.close()


def finished(build: Callable[[KernelBuilder], None], cpu: str) -> str:
    kernel = KernelBuilder("kernel", isa(cpu))
    build(kernel)
    return assembly([kernel.finish()], isa(cpu))


def test_code_uses_the_registers_of_its_target() -> None:
    assert "zmm" in finished(add_one, "x86-64-v4")
    middle = finished(add_one, "x86-64-v3")
    assert "ymm" in middle
    assert "zmm" not in middle
    plain = finished(add_one, "generic")
    assert "xmm" in plain
    assert "ymm" not in plain
    assert "zmm" not in plain


def test_same_kernel_same_bytes() -> None:
    def code() -> bytes:
        kernel = KernelBuilder("kernel", isa("generic"))
        add_one(kernel)
        return object_code([kernel.finish()], isa("generic"))

    assert code() == code()
