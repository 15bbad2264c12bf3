"""Rows are views: nothing is copied, and barriers stand where the whole is written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.codegen.tvm.running import Arrays
from tilewright.codegen.compiler import Compilation, Options, compile_program
from tilewright.codegen.plan_check import check_plan
from tilewright.dsl.builder import TracedFunction, graph
from tilewright.dsl.dims import Dim, dim
from tilewright.dsl.dtypes import f32
from tilewright.dsl.errors import BrokenPlan
from tilewright.dsl.graph import Node
from tilewright.dsl.ops.elementwise import exp, tanh
from tilewright.dsl.ops.row import row
from tilewright.dsl.program import program
from tilewright.dsl.tensor import Tensor
from tilewright.passes import joins
from tilewright.runtime import load
from tilewright.runtime.schema import SpanStep
from tilewright.target.spec import parse_target

N = dim("n", 1, 8)


def made(of: TracedFunction, out: Path) -> Compilation:
    options = Options(parse_target("cpu"), check="full")
    return compile_program(program("p", of).program, Arrays({}), out, options)


@graph(x=f32[3, N, 8], w=f32[8, 8])
def rows(x: Tensor, w: Tensor) -> dict[str, Tensor]:
    """Rows of an input and of what kernels make, rows of rows, and one that is returned."""
    y = x @ w
    middle = row(y, 1)
    return {
        "a": tanh(row(x, 2)) @ w,
        "b": exp(middle) @ w,
        "c": tanh(row(middle, 0).reshape(2, 4)),
        "last": row(y, 2),
    }


def test_rows_are_read_where_they_lie(tmp_path: Path) -> None:
    found = made(rows, tmp_path / "out")
    (span,) = found.manifest.graphs[0].steps
    assert isinstance(span, SpanStep)
    copied = [d.anchor for d in found.context.log.of_rule("copy_views")]
    assert len(copied) == 1, "only what is returned is copied"
    rng = np.random.default_rng(0)
    for n in (1, 5):
        x, w = (rng.normal(size=s).astype(np.float32) for s in ((3, n, 8), (8, 8)))
        w /= 3
        y = x @ w
        wanted: dict[str, Any] = {
            "a": np.tanh(x[2]) @ w,
            "b": np.exp(y[1]) @ w,
            "c": np.tanh(y[1, 0].reshape(2, 4)),
            "last": y[2],
        }
        with load(tmp_path / "out", threads=2) as model:
            actual = model.run("rows", {"x": x, "w": w})
        for name, value in wanted.items():
            np.testing.assert_allclose(actual[name], value, rtol=1e-4, atol=1e-5)


def test_a_row_may_be_counted_by_a_symbol(tmp_path: Path) -> None:
    at = dim("at", 0, 6)

    @graph(x=f32[7, 5], at=at)
    def g(x: Tensor, at: Dim) -> Tensor:
        return exp(row(x, at))

    made(g, tmp_path / "out")
    x = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    with load(tmp_path / "out") as model:
        for number in (0, 3, 6, 1):
            found = model.run("g", {"x": x, "at": number})["out"]
            np.testing.assert_allclose(found, np.exp(x[number]), rtol=1e-5)


def of_the_first(shifts: Any) -> Any:
    return {key: 0 for key in shifts}


def of_nothing(shifts: Any) -> Any:
    return {}


@pytest.mark.parametrize("fault", [of_the_first, of_nothing])
def test_a_view_at_the_wrong_place_is_noticed(
    fault: Callable[[Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = joins.view_shifts

    def wrong(node: Node) -> Any:
        return fault(right(node))

    monkeypatch.setattr(joins, "view_shifts", wrong)
    with pytest.raises(BrokenPlan, match="reads %"):
        made(rows, tmp_path / "out")


def test_a_missing_barrier_behind_the_whole_is_noticed(tmp_path: Path) -> None:
    (lowering,) = made(rows, tmp_path / "out").lowered
    (span,) = lowering.spans
    waiting = [launch for launch in span.launches if launch.barrier]
    assert waiting, "rows of what was just written are waited for"
    for launch in waiting:
        object.__setattr__(launch, "barrier", False)
    with pytest.raises(BrokenPlan, match="no barrier"):
        check_plan(lowering)
