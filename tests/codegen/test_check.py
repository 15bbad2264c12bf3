"""`check="full"`: right kernels pass, a planted fault is named, what is too large is said."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilewright.codegen import check
from tilewright.codegen.compiler import Compilation, Options, compile_program
from tilewright.codegen.tvm.pull_math import MATH_RULES
from tilewright.codegen.tvm.region import RULES
from tilewright.dsl import ops as ops
from tilewright.dsl.builder import graph, param, state
from tilewright.dsl.dims import Dim, dim
from tilewright.dsl.dtypes import f32
from tilewright.dsl.errors import BrokenClaim
from tilewright.dsl.ops.elementwise import exp, tanh
from tilewright.dsl.ops.norm import softmax
from tilewright.dsl.program import Program, program
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.types import CacheType
from tilewright.passes.base import PassContext
from tilewright.target.spec import parse_target

n, past = dim("n", 1, 64), dim("past", 0, 32)


@graph(x=f32[1, n, 24], past=past)
def step(x: Tensor, past: Dim) -> dict[str, Tensor]:
    hidden = softmax(x @ param("a", f32[24, 40]), axis=-1)
    y = (tanh(hidden) @ param("b", f32[40, 16])).reshape(1, n, 1, 16)
    kept, _ = state("cache", CacheType(1, 96, 1, 16, f32)).append(y, y, at=past).view(past + n)
    return {"total": exp(kept.sum(axis=1))}


class Weights:
    def read(self, name: str) -> Any:
        shape = {"a": (24, 40), "b": (40, 16)}[name]
        return np.random.default_rng(ord(name)).standard_normal(shape).astype(np.float32)


def compiled(out: Path) -> Compilation:
    options = Options(parse_target("cpu"), check="full")
    return compile_program(program("small", step).program, Weights(), out, options)


def test_right_kernels_pass_and_all_are_checked(tmp_path: Path) -> None:
    found = compiled(tmp_path / "out")
    assert found.lowered[0].spans
    assert not list(found.context.log.of_rule(check.RULE))


def test_what_is_too_large_is_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "LARGEST_BYTES", 4096)
    reasons = {
        d.anchor: d.reason for d in compiled(tmp_path / "out").context.log.of_rule(check.RULE)
    }
    assert any(name.startswith("matmul") for name in reasons)
    assert all("4,096 are still checked" in reason for reason in reasons.values())


def test_a_wrong_kernel_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, "tanh", MATH_RULES["sigmoid"])
    with pytest.raises(BrokenClaim, match=r"kernel \w+ on 1 threads at .* is not its region"):
        compiled(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_wrong_graph_is_named() -> None:
    def scaled(by: float) -> Program:
        @graph(x=f32[n, 24])
        def once(x: Tensor) -> Tensor:
            return x * by

        return program("small", once).program

    ctx = PassContext(parse_target("cpu"))
    check.check_graphs(scaled(2.0), scaled(2.0), ctx)
    with pytest.raises(BrokenClaim, match="the passes changed graph once"):
        check.check_graphs(scaled(2.0), scaled(2.001), ctx)
