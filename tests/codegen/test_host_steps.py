"""What no kernel computes runs as a `host` step of the plan, between spans, on every backend."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.codegen.tvm.running import Arrays
from tilewright.codegen.compiler import Compilation, Options, compile_program
from tilewright.codegen.plan_check import check_plan
from tilewright.dsl import factor
from tilewright.dsl.builder import graph, param
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import f32, f64
from tilewright.dsl.errors import BrokenPlan
from tilewright.dsl.ops.elementwise import sqrt
from tilewright.dsl.ops.linalg import eigh, qr
from tilewright.dsl.program import Program, program
from tilewright.dsl.tensor import Tensor
from tilewright.runtime import load
from tilewright.runtime.schema import HostStep, SpanStep
from tilewright.target.spec import parse_target

ROWS = dim("rows", 1, 16)


@graph(g=f32[ROWS, 6, 5])
def bases(g: Tensor) -> dict[str, Tensor]:
    """The arithmetic of a preconditioner: statistics, their bases, and the rotated gradient."""
    right = g.permute_dims(0, 2, 1) @ g * 0.5
    values, vectors = eigh(right)
    q, r = qr(right @ vectors + param("w", f32[5, 5]))
    return {"turned": g @ vectors, "scale": sqrt(values + 1.0), "q": q, "r": r * 2.0}


WEIGHTS = Arrays({"w": np.eye(5, dtype=np.float32)})


def made(out: Path, of: Program, backend: str, weights: Arrays = WEIGHTS) -> Compilation:
    options = Options(parse_target("cpu"), backend=backend, check="full")
    return compile_program(of, weights, out, options)


@pytest.mark.parametrize("backend", ["tvm", "reference"])
def test_factors_agree_with_their_definition(backend: str, tmp_path: Path) -> None:
    found = made(tmp_path / "out", program("p", bases).program, backend)
    assert not found.manifest.requires or backend == "reference"
    steps = found.manifest.graphs[0].steps
    assert [s.function for s in steps if isinstance(s, HostStep)] == ["eigh", "qr"]
    with load(tmp_path / "out", threads=2) as model:
        for rows in (1, 3):
            g = np.random.default_rng(rows).normal(size=(rows, 6, 5)).astype(np.float32)
            _hold(g, model.run("bases", {"g": g}))


def _hold(g: Any, found: dict[str, Any]) -> None:
    wide = g.astype(np.float64)
    right = wide.swapaxes(1, 2) @ wide * 0.5
    turned = found["turned"].astype(np.float64)
    values = found["scale"].astype(np.float64) ** 2 - 1
    gram = turned.swapaxes(1, 2) @ turned * 0.5  # diagonal in the eigenbasis
    np.testing.assert_allclose(gram, np.eye(5) * values[:, None], atol=2e-4)
    vectors = np.linalg.eigh(right)[1]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(1, keepdims=True), 1)
    wanted = right @ (vectors * np.sign(largest)) + np.eye(5)
    np.testing.assert_allclose(found["q"] @ found["r"] / 2, wanted, atol=2e-4)


@pytest.mark.parametrize("backend", ["tvm", "reference"])
def test_nan_gives_nan_and_float64_stays(backend: str, tmp_path: Path) -> None:
    @graph(x=f64[2, 3, 3])
    def g(x: Tensor) -> tuple[Tensor, Tensor]:
        return eigh(x)

    made(tmp_path / "out", program("p", g).program, backend, Arrays({}))
    x = np.random.default_rng(0).normal(size=(2, 3, 3))
    x[1, 2, 2] = np.inf
    with load(tmp_path / "out") as model:
        values, vectors = model.run("g", {"x": x}).values()
    exact = factor.eigh(x[0])
    assert np.array_equal(values[0], exact[0])
    assert np.array_equal(vectors[0], exact[1])
    assert np.isnan(values[1]).all()
    assert np.isnan(vectors[1]).all()


def test_kernels_before_and_after_are_spans_of_their_own(tmp_path: Path) -> None:
    found = made(tmp_path / "out", program("p", bases).program, "tvm")
    kinds = [type(step) for step in found.manifest.graphs[0].steps]
    assert kinds == [SpanStep, HostStep, SpanStep, HostStep, SpanStep]


def test_a_step_that_reads_elsewhere_is_noticed(tmp_path: Path) -> None:
    (lowering,) = made(tmp_path / "out", program("p", bases).program, "tvm").lowered
    check_plan(lowering)
    place = next(i for i, s in enumerate(lowering.steps) if isinstance(s, HostStep))
    step = lowering.steps[place]
    assert isinstance(step, HostStep)
    for wrong in (
        msgspec.structs.replace(step, targets=step.targets[::-1]),
        msgspec.structs.replace(step, source=step.targets[1]),
        msgspec.structs.replace(step, targets=[step.targets[0], step.source]),
    ):
        lowering.steps[place] = wrong
        with pytest.raises(BrokenPlan):
            check_plan(lowering)
