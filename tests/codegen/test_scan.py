"""Scans in kernels: unrolled into one span, or run by their meaning where they are too long."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.codegen.tvm.running import Arrays
from tilewright.codegen.compiler import Compilation, Options, compile_program
from tilewright.codegen.ranks import compile_ranks
from tilewright.dsl.builder import graph, param
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import f32
from tilewright.dsl.encoding import IntFormat, Quantized
from tilewright.dsl.errors import BrokenClaim, UnsupportedRegion
from tilewright.dsl.ops import unrolled
from tilewright.dsl.ops.elementwise import tanh
from tilewright.dsl.ops.encoding import decode
from tilewright.dsl.ops.scan import MAX_UNROLLED, scan
from tilewright.dsl.placement import Mesh, Placement, Shard
from tilewright.dsl.program import Program, program
from tilewright.dsl.tensor import Tensor
from tilewright.runtime import load
from tilewright.runtime.schema import ReferenceStep, SpanStep
from tilewright.target.spec import parse_target

N = dim("n", 1, 8)
WEIGHTS = Arrays({"w": np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32) / 3})


@graph(h=f32[N, 8], x=f32[4, N, 8])
def recurrence(h: Tensor, x: Tensor) -> dict[str, Tensor]:
    def body(h: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        after = tanh(h @ w.T + x)
        return after, after * x

    (last,), (rows,) = scan(body, (h,), (x,), fixed=(param("w", f32[8, 8]),))
    return {"last": last, "rows": rows}


def wanted(h: Any, x: Any) -> dict[str, Any]:
    rows: list[Any] = []
    for row in x:
        h = np.tanh(h @ WEIGHTS.values["w"].T + row)
        rows.append(h * row)
    return {"last": h, "rows": np.stack(rows)}


def drawn(n: int) -> dict[str, Any]:
    rng = np.random.default_rng(n)
    return {
        "h": rng.normal(size=(n, 8)).astype(np.float32),
        "x": rng.normal(size=(4, n, 8)).astype(np.float32),
    }


def made(of: Program, out: Path, weights: Arrays = WEIGHTS, **options: Any) -> Compilation:
    told = Options(parse_target("cpu"), check="full", **options)
    return compile_program(of, weights, out, told)


def test_a_scan_is_one_span(tmp_path: Path) -> None:
    found = made(program("p", recurrence).program, tmp_path / "out")
    assert [type(step) for step in found.manifest.graphs[0].steps] == [SpanStep]
    with load(tmp_path / "out", threads=2) as model:
        for n in (1, 3, 8):
            given = drawn(n)
            for name, value in wanted(given["h"], given["x"]).items():
                actual = model.run("recurrence", given)[name]
                np.testing.assert_allclose(actual, value, rtol=1e-4, atol=1e-5)


def test_all_times_run_the_same_kernels(tmp_path: Path) -> None:
    found = made(program("p", recurrence).program, tmp_path / "out")
    (step,) = found.manifest.graphs[0].steps
    assert isinstance(step, SpanStep)
    assert len(step.kernels) == 4, "and the stack is made in place"
    assert len(set(step.kernels)) == 1


def test_layers_with_stacked_weights(tmp_path: Path) -> None:
    """Weights of all layers in one parameter, as they are stored; each kernel reads its row."""
    stored = f32[3, 8, 8].with_encoding(Quantized(IntFormat(8), axis=2))

    @graph(x=f32[N, 8])
    def g(x: Tensor) -> Tensor:
        def layer(h: Tensor, w: Tensor) -> Tensor:
            return tanh(h @ decode(w).T)

        return scan(layer, (x,), (param("w", stored),))[0][0]

    w = np.random.default_rng(1).normal(size=(3, 8, 8)).astype(np.float32)
    made(program("p", g).program, tmp_path / "out", Arrays({"w": w}))
    scale = np.abs(w).max(2, keepdims=True) / 127
    x = np.random.default_rng(2).normal(size=(5, 8)).astype(np.float32)
    wanted = x
    for layer in np.rint(w / scale) * scale:
        wanted = np.tanh(wanted @ layer.T)
    with load(tmp_path / "out") as model:
        np.testing.assert_allclose(model.run("g", {"x": x})["out"], wanted, rtol=1e-3, atol=1e-3)


def test_carried_values_share_two_places(tmp_path: Path) -> None:
    """What one time leaves is forgotten when the next has read it."""

    def arena(trips: int) -> int:
        @graph(h=f32[64, 64])
        def g(h: Tensor) -> Tensor:
            def body(h: Tensor, w: Tensor) -> Tensor:
                return tanh(h @ w)

            w = param("w", f32[64, 64])
            return scan(body, (h,), fixed=(w,), trips=trips)[0][0]

        weights = Arrays({"w": np.eye(64, dtype=np.float32)})
        found = made(program("p", g).program, tmp_path / f"out{trips}", weights)
        return found.manifest.graphs[0].arena_bound

    assert arena(9) == arena(4) == 2 * 64 * 64 * 4


def test_a_scan_that_is_too_long_says_so_or_falls_back(tmp_path: Path) -> None:
    @graph(h=f32[4])
    def g(h: Tensor) -> Tensor:
        def body(h: Tensor) -> Tensor:
            return tanh(h) * 0.5

        return scan(body, (h,), trips=MAX_UNROLLED)[0][0]

    of = program("p", g).program
    with pytest.raises(UnsupportedRegion, match="would become"):
        made(of, tmp_path / "out", Arrays({}))
    found = made(of, tmp_path / "out", Arrays({}), fallback=True)
    assert [type(step) for step in found.manifest.graphs[0].steps] == [ReferenceStep]
    h = np.ones(4, np.float32)
    with load(tmp_path / "out") as model:
        assert np.abs(model.run("g", {"h": h})["out"]).max() < 1e-6


def test_a_fault_in_unrolling_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = unrolled.row_at

    def wrong(x: Any, row: Any, trip: int, name: str, nodes: Any) -> Any:
        return right(x, row, 0, name, nodes)

    monkeypatch.setattr(unrolled, "row_at", wrong)
    with pytest.raises(BrokenClaim, match="expand_composites"):
        made(program("p", recurrence).program, tmp_path / "out")


def test_ranks_run_the_body_on_their_part(tmp_path: Path) -> None:
    on = Placement.of

    @graph(
        h=f32[4, 8].with_placement(on(tp=Shard(0))), x=f32[3, 4, 8].with_placement(on(tp=Shard(1)))
    )
    def g(h: Tensor, x: Tensor) -> dict[str, Tensor]:
        def body(h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            after = tanh(h + x)
            return after, after

        (last,), (rows,) = scan(body, (h,), (x,))
        return {"last": last, "rows": rows}

    of = program("p", g, mesh=Mesh.of(tp=2)).program
    compile_ranks(of, Arrays({}), tmp_path, Options(parse_target("cpu")))
    rng = np.random.default_rng(0)
    h, x = rng.normal(size=(4, 8)), rng.normal(size=(3, 4, 8))
    rows: list[Any] = []
    last = h
    for row in x:
        last = np.tanh(last + row)
        rows.append(last)
    for rank in range(2):
        part = slice(2 * rank, 2 * rank + 2)
        given = {"h": h[part].astype(np.float32), "x": x[:, part].astype(np.float32)}
        with load(tmp_path / f"rank{rank}", group=_Alone()) as model:
            found = model.run("g", given)
        np.testing.assert_allclose(found["last"], last[part], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found["rows"], np.stack(rows)[:, part], rtol=1e-4, atol=1e-5)


def test_a_scan_that_is_too_long_for_a_mesh_says_so(tmp_path: Path) -> None:
    @graph(h=f32[4].with_placement(Placement.of(tp=Shard(0))))
    def g(h: Tensor) -> Tensor:
        def body(h: Tensor) -> Tensor:
            return tanh(h) * 0.5

        return scan(body, (h,), trips=MAX_UNROLLED)[0][0]

    of = program("p", g, mesh=Mesh.of(tp=2)).program
    with pytest.raises(UnsupportedRegion, match="on a mesh scans are unrolled"):
        compile_ranks(of, Arrays({}), tmp_path, Options(parse_target("cpu")))


class _Alone:
    """A group in which nothing is exchanged."""

    def check(self, op: str, axis: str, reduce: str) -> None:
        raise AssertionError("nothing is exchanged")

    def post(self, handle: int, collective: Any) -> None:
        raise AssertionError("nothing is exchanged")

    def wait(self, handle: int) -> None:
        raise AssertionError("nothing is exchanged")
