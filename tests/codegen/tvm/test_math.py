"""Elementary functions against float64, with the errors that their docstrings state."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.codegen.tvm.kernels import CPUS, Compiled, compile_kernel, isa
from tilewright.codegen.tvm import math, vector
from tilewright.codegen.tvm.emit import Expr, KernelBuilder

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
EDGES = np.array(
    "0 -0 inf -inf nan 1e-45 -1e-45 1.2e-38 1e-38 3e38 -3e38 88.72 88.73 89 200 -87.3 -88 -104"
    " -200 1 -1 0.5 0.625 2 3 4 5".split(),
    np.float32,
)


def erf(x: F64) -> F64:
    """The series for small arguments, the continued fraction for large ones (A&S 7.1.6, 7.1.14)."""
    size = np.minimum(np.abs(x), 6.5)
    term = total = size.copy()
    for n in range(1, 130):
        term = term * 2 * size**2 / (2 * n + 1)
        total = total + term
    small = 2 / np.sqrt(np.pi) * np.exp(-(size**2)) * total
    return np.copysign(np.where(np.isnan(x), np.nan, small), x)


def sigmoid(x: F64) -> F64:
    return 1 / (1 + np.exp(-x))


def rsqrt(x: F64) -> F64:
    return 1 / np.sqrt(x)


def run_on(
    function: Callable[..., Expr], cpu: str, folder: Path, arguments: int = 1
) -> tuple[Compiled, Callable[..., F32]]:
    def build(kernel: KernelBuilder) -> None:
        n, out = kernel.symbol("n"), kernel.pointer("out", "f32")
        inputs = [kernel.pointer(f"x{i}", "f32") for i in range(arguments)]

        def body(index: Expr, lanes: int, mask: Expr | None) -> None:
            values = [vector.load(x, index, lanes, mask) for x in inputs]
            vector.store(out, index, function(kernel, *values), mask)

        vector.vector_loop(kernel, 0, n, body)

    compiled = compile_kernel(build, isa(cpu), folder)

    def call(*inputs: F32) -> F32:
        out = np.full(len(inputs[0]), -7, np.float32)
        compiled([len(out)], [out, *inputs])
        return out

    return compiled, call


def ulps(got: F32, expected: F64) -> F64:
    """The error in units in the last place; 0 where both are the same infinity or NaN."""
    with np.errstate(all="ignore"):
        rounded = expected.astype(np.float32)
        unit = np.maximum(np.spacing(np.abs(rounded)).astype(np.float64), 2.0**-149)
        error = np.abs(got.astype(np.float64) - expected) / unit
    same = (np.isnan(got) & np.isnan(expected)) | (np.isinf(rounded) & (got == rounded))
    return np.where(same, 0.0, np.where(np.isnan(error), np.inf, error))


def every_scale() -> F32:
    """Positive floats over all exponents, denormals too."""
    random = np.random.default_rng(0)
    return random.integers(0, 0x7F800000, 200_000, dtype=np.int32).view(np.float32)


def line(low: float, high: float) -> F32:
    return np.linspace(low, high, 300_001).astype(np.float32)


def small() -> F32:
    return np.concatenate([-np.geomspace(1e-30, 2, 50_000), np.geomspace(1e-30, 2, 50_000)]).astype(
        np.float32
    )


CASES = [
    ("exp", math.exp, np.exp, line(-110, 95), 1.1, 2.0**-125.4),
    ("exp", math.exp, np.exp, small(), 1.1, 2.0**-125.4),
    ("log", math.log, np.log, every_scale(), 1.0, 0.0),
    ("log", math.log, np.log, line(0.5, 2), 1.0, 0.0),
    ("tanh", math.tanh, np.tanh, line(-10, 10), 1.5, 0.0),
    ("tanh", math.tanh, np.tanh, small(), 1.5, 0.0),
    ("sigmoid", math.sigmoid, sigmoid, line(-110, 110), 3.0, 2.0**-125.4),
    ("erf", math.erf, erf, line(-6, 6), 2.5, 0.0),
    ("erf", math.erf, erf, small(), 2.5, 0.0),
    ("rsqrt", math.rsqrt, rsqrt, every_scale(), 1.5, 0.0),
    ("floor", math.floor, np.floor, line(-1000.5, 1000.5), 0.0, 0.0),
    ("floor", math.floor, np.floor, every_scale(), 0.0, 0.0),
]


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("case", range(len(CASES)), ids=[f"{c[0]}{i}" for i, c in enumerate(CASES)])
def test_error_is_as_stated(cpu: str, case: int, tmp_path: Path) -> None:
    _, function, reference, grid, bound, flushed = CASES[case]
    compiled, call = run_on(function, cpu, tmp_path)
    x = np.concatenate([grid, EDGES])
    with np.errstate(all="ignore"):
        expected = reference(x.astype(np.float64))
    error = ulps(call(x), expected)
    error[np.abs(expected) < flushed] = 0
    worst = int(error.argmax())
    assert error[worst] <= bound, (x[worst], expected[worst], error[worst])
    compiled.close()


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("name", ["sin", "cos"])
def test_sin_and_cos_up_to_large_angles(cpu: str, name: str, tmp_path: Path) -> None:
    compiled, call = run_on(getattr(math, name), cpu, tmp_path)
    for grid in (line(-7, 7), line(-1e5, 1e5), small()):
        error = np.abs(call(grid) - getattr(np, name)(grid.astype(np.float64)))
        assert error.max() < 1e-7, grid[error.argmax()]
    assert np.isnan(call(np.array([np.inf, -np.inf, np.nan], np.float32))).all()
    assert call(np.array([0, -0.0], np.float32)).tolist() == ([0, 0] if name == "sin" else [1, 1])
    compiled.close()


@pytest.mark.parametrize("cpu", CPUS)
def test_pow(cpu: str, tmp_path: Path) -> None:
    compiled, call = run_on(math.pow, cpu, tmp_path, 2)
    random = np.random.default_rng(0)
    x = np.abs(random.standard_normal(100_000) * np.exp(random.standard_normal(100_000) * 5))
    y = random.standard_normal(100_000) * 8
    whole = random.random(100_000) < 0.3
    y[whole] = np.round(y[whole])
    x[whole] *= random.choice([-1, 1], int(whole.sum()))
    some = np.concatenate([EDGES, np.array([-2, -0.5, -3, 1e10, 16777217.0], np.float32)])
    edges = [part.ravel() for part in np.meshgrid(some, some)]
    base = np.concatenate([x.astype(np.float32), edges[0]])
    power = np.concatenate([y.astype(np.float32), edges[1]])
    with np.errstate(all="ignore"):
        expected = np.power(base.astype(np.float64), power.astype(np.float64))
    error = ulps(call(base, power), expected)
    worst = int(error.argmax())
    assert error[worst] <= 1.0, (base[worst], power[worst], expected[worst])
    compiled.close()
