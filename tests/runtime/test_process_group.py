"""Collectives of a mesh, through plan steps, on gloo processes."""

from pathlib import Path

import numpy as np
import pytest

from tests.runtime.processes import run_ranks_of
from tilewright.dsl.errors import ProcessGroupError
from tilewright.runtime import artifact, load
from tilewright.runtime.buffers import Array
from tilewright.runtime.process_group import Collective, target_count
from tilewright.runtime.schema import (
    SCHEMA_VERSION,
    CollectiveStep,
    GraphPlan,
    Manifest,
    Port,
    Slot,
    Step,
    SymbolRecord,
)

MESH = [("data", 2), ("model", 2)]
RUN = """
import sys
import numpy as np
from tilewright.runtime import load

rank = int(sys.argv[2])
model = load(sys.argv[1], threads=1)
found = {}
for name in model.graphs:
    n = 2 * len(name)
    inputs = {p.name: (np.arange(n) + 10 * rank) for p in model.signature(name).inputs}
    dtype = {"f32": np.float32, "i32": np.int32}[model.signature(name).inputs[0].dtype]
    for _ in range(2):
        found[name] = model.run(name, {k: v.astype(dtype) for k, v in inputs.items()})["y"]
np.savez(sys.argv[3], **found)
"""


def step(op: str, axis: str, reduce: str, dtype: str) -> list[Step]:
    phases = [CollectiveStep(p, 7, op, axis, reduce, dtype, 0, 1, "n") for p in ("post", "wait")]
    return [*phases]


def plan(
    name: str, size: str, op: str, axis: str, reduce: str = "", dtype: str = "f32"
) -> GraphPlan:
    return GraphPlan(
        name=name,
        inputs=[Port("x", dtype, ["n"])],
        bound=[],
        outputs=[Port("y", dtype, [size])],
        states=[],
        symbols=["n"],
        slots=[Slot("input", "x"), Slot("output", "y")],
        steps=step(op, axis, reduce, dtype),
        arena="0",
        arena_bound=0,
    )


PLANS = [
    plan("total", "n", "all_reduce", "model", "sum"),
    plan("largest", "n", "all_reduce", "data", "max", "i32"),
    plan("gathered", "2*n", "all_gather", "data"),
    plan("scattered", "n // 2", "reduce_scatter", "model", "sum"),
    plan("exchanged", "n", "all_to_all", "model", dtype="i32"),
]


def write(folder: Path, graphs: list[GraphPlan] = PLANS) -> Path:
    manifest = Manifest(
        SCHEMA_VERSION, "", {}, {}, [SymbolRecord("n", 1, 64, 2)], [], [], graphs, [], mesh=MESH
    )
    artifact.write(folder, manifest, {})
    return folder


def expected(name: str, rank: int) -> Array:
    n = 2 * len(name)
    x = [np.arange(n) + 10 * r for r in range(4)]
    row, column = divmod(rank, 2)
    first, second = x[2 * row], x[2 * row + 1]
    match name:
        case "total":
            return first + second
        case "largest":
            return np.maximum(x[column], x[column + 2])
        case "gathered":
            return np.concatenate([x[column], x[column + 2]])
        case "scattered":
            return (first + second).reshape(2, -1)[column]
        case _:
            return np.concatenate([first.reshape(2, -1)[column], second.reshape(2, -1)[column]])


def test_four_processes_exchange_over_two_axes(tmp_path: Path) -> None:
    folder = write(tmp_path / "m")
    run_ranks_of(RUN, 4, lambda rank: (folder, rank, tmp_path / f"{rank}.npz"))
    for rank in range(4):
        with np.load(tmp_path / f"{rank}.npz") as found:
            for name in found.files:
                assert found[name].tolist() == expected(name, rank).tolist(), (name, rank)


def test_one_process_is_told_how_many_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ProcessGroupError, match="torchrun --nproc-per-node 4"):
        load(write(tmp_path / "m"))


class Recorded:
    """A group of one, which copies."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []

    def check(self, op: str, axis: str, reduce: str) -> None:
        if op == "all_to_all":
            raise ProcessGroupError("not here")

    def post(self, handle: int, collective: Collective) -> None:
        self.events.append((collective.op, collective.target.size))
        collective.target[: collective.source.size] = collective.source[: collective.target.size]

    def wait(self, handle: int) -> None:
        self.events.append(("wait", handle))


def test_another_group_can_be_given(tmp_path: Path) -> None:
    group = Recorded()
    model = load(write(tmp_path / "m", PLANS[:4]), group=group)
    x = np.arange(8, dtype=np.float32)
    assert model.run("total", {"x": x})["y"].tolist() == x.tolist()
    model.run("gathered", {"x": x})
    model.run("scattered", {"x": x})
    assert group.events == [
        ("all_reduce", 8), ("wait", 7), ("all_gather", 16), ("wait", 7),
        ("reduce_scatter", 4), ("wait", 7),
    ]  # fmt: skip
    with pytest.raises(ProcessGroupError, match="not here"):
        load(write(tmp_path / "n", PLANS), group=group)


def test_target_sizes() -> None:
    found = [target_count(op, 12, 3) for op in ("all_reduce", "all_gather", "reduce_scatter")]
    assert found == [12, 36, 4]
