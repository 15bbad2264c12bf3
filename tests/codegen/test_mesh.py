"""Posts stand early, waits before the first use, and memory is kept in between."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from tilewright.codegen import ranks
from tilewright.codegen.compiler import Options
from tilewright.codegen.mesh import ShardReader
from tilewright.codegen.ranks import compile_ranks
from tilewright.dsl.builder import graph, param
from tilewright.dsl.dtypes import f32
from tilewright.dsl.errors import CompilerBug
from tilewright.dsl.ops.collective import all_gather, all_reduce
from tilewright.dsl.ops.elementwise import tanh
from tilewright.dsl.placement import Mesh, Partial, Placement, Shard
from tilewright.dsl.program import Program, program
from tilewright.dsl.tensor import Tensor
from tilewright.runtime import load
from tilewright.runtime.buffers import Array
from tilewright.runtime.process_group import Collective
from tilewright.runtime.schema import CollectiveStep, GraphPlan
from tilewright.target.spec import parse_target

TERMS = Placement.of(tp=Partial("sum"))
ROWS = Placement.of(tp=Shard(0))


@graph(x=f32[8, 8].with_placement(TERMS), r=f32[8, 8])
def busy(x: Tensor, r: Tensor) -> dict[str, Tensor]:
    w = param("w", f32[8, 8])
    a = r @ w
    total = all_reduce(x @ w, "tp")
    b = tanh(a) @ w
    c = tanh(b) @ w
    whole = all_gather(param("s", f32[8, 8].with_placement(ROWS)) * 1.0, "tp", 0)
    return {"y": tanh(total) @ w + tanh(c) @ w, "s": whole @ w}


def busy_program() -> Program:
    return program("p", busy, mesh=Mesh.of(tp=2)).program


class Weights(dict[str, Array]):
    def read(self, name: str) -> Array:
        return self[name]


class Late:
    """Two ranks that hold the same; everything happens as late as it may, in `wait`."""

    def __init__(self) -> None:
        self.posted: dict[int, Collective] = {}

    def check(self, op: str, axis: str, reduce: str) -> None:
        assert (op == "all_gather") == (not reduce)

    def post(self, handle: int, collective: Collective) -> None:
        collective.target[:] = np.nan
        self.posted[handle] = collective

    def wait(self, handle: int) -> None:
        found = self.posted.pop(handle)
        twice = found.op == "all_gather"
        found.target[:] = np.tile(found.source, 2) if twice else 2 * found.source


def test_transfers_may_take_until_their_wait(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = Weights((name, rng.normal(size=(8, 8)).astype(np.float32)) for name in "ws")
    options = Options(parse_target("cpu"), backend="reference")
    compiled, _ = compile_ranks(busy_program(), weights, tmp_path, options)
    steps = compiled.manifest.graphs[0].steps
    places = {
        (step.op, step.phase): index
        for index, step in enumerate(steps)
        if isinstance(step, CollectiveStep)
    }
    assert {places["all_reduce", "post"], places["all_gather", "post"]} == {1, 2}, "both are early"
    assert places["all_reduce", "wait"] - places["all_reduce", "post"] > 2
    x, r = (rng.normal(size=(8, 8)).astype(np.float32) for _ in range(2))
    group = Late()
    found = load(tmp_path / "rank0", group=group).run("busy", {"x": x, "r": r})
    assert not group.posted, "everything is waited for"
    w, half = weights["w"], weights["s"][:4]
    chain = np.tanh(np.tanh(r @ w) @ w) @ w
    wanted: dict[str, Any] = {
        "y": np.tanh(2 * (x @ w)) @ w + np.tanh(chain) @ w,
        "s": np.concatenate([half, half]) @ w,
    }
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-4)


def test_ranks_store_their_slices() -> None:
    whole = np.arange(64, dtype=np.float32).reshape(8, 8)
    reader = Weights(s=whole, w=whole)
    for rank in range(2):
        own = ShardReader(reader, busy_program(), rank)
        assert own.read("s").tolist() == whole[4 * rank : 4 * rank + 4].tolist()
        assert own.read("w").tolist() == whole.tolist()


def test_ranks_that_exchange_differently_are_a_bug(tmp_path: Path) -> None:
    weights = Weights((name, np.ones((8, 8), np.float32)) for name in "ws")
    options = Options(parse_target("cpu"), backend="reference")
    answers = iter([("a",), ("b",)])

    def differing(plan: GraphPlan) -> tuple[str]:
        return next(answers)

    with (
        patch.object(ranks, "_exchanges", differing),
        pytest.raises(CompilerBug, match="rank 1 would exchange"),
    ):
        compile_ranks(busy_program(), weights, tmp_path, options)
