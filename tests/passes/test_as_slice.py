"""A state of which every rank needs a slice: stored in slices, nothing gathered; or refused."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tests.passes.rewriting import names
from tilewright.dsl.builder import GraphBuilder, building
from tilewright.dsl.dtypes import f32
from tilewright.dsl.errors import CompilerBug, IllegalRewrite
from tilewright.dsl.graph import Graph, Output
from tilewright.dsl.ident import ident
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.ops.collective import all_gather, reduce_scatter, shard_slice
from tilewright.dsl.placement import Mesh, Partial, Placement, Shard
from tilewright.dsl.program import Program, collect
from tilewright.dsl.ranks import run_ranks
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.verify import verify_program
from tilewright.passes import as_slice as module
from tilewright.passes.schedule import Schedule

MESH = Mesh.of(dp=4)
SHAPE = f32[8, 3]
Step = Callable[[Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]


def optimizer(step: Step) -> Program:
    """One step over a gradient, a sum over the ranks, and a momentum that is a state."""
    builder = GraphBuilder(ident("step"), MESH)
    with building(builder):
        g = builder.add_input("input", "g", SHAPE.with_placement(Placement.of(dp=Partial())))
        m = builder.add_input("state", "m", SHAPE)
        assert isinstance(g, Tensor)
        assert isinstance(m, Tensor)
        after, returned = step(g, m)
        found = builder.finish(returned)
    state = Output("m", after.value, replaces="m")
    made = collect("p", [replace(found, outputs=(*found.outputs, state))], MESH)
    verify_program(made)
    return made


def momentum(g: Tensor, m: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    part = shard_slice(m, "dp", 0) * 0.9 + reduce_scatter(g, "dp", 0)
    return all_gather(part, "dp", 0), {"moved": all_gather(part * 0.1, "dp", 0)}


def outputs(of: Graph, program: Program) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    given = {"g": rng.normal(size=(8, 3)), "m": rng.normal(size=(8, 3))}
    given = {name: x.astype(np.float32) for name, x in given.items()}
    found = run_ranks(of, program.mesh, given)
    wanted = evaluate(of, given, reading="ideal")
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-9)
    return found


def test_a_momentum_is_stored_in_slices() -> None:
    before = optimizer(momentum)
    after = Schedule(before).as_slice("m", "dp").program
    verify_program(after)
    (state,) = after.graphs[0].by_role("state")
    assert state.value.tensor.placement == Placement.of(dp=Shard(0))
    assert names(before.graphs[0]).count("all_gather") == 2
    assert names(after.graphs[0]).count("all_gather") == 1, "the step alone is gathered"
    assert "shard_slice" not in names(after.graphs[0])
    first, second = outputs(before.graphs[0], before), outputs(after.graphs[0], after)
    for name, value in first.items():
        np.testing.assert_allclose(second[name], value, rtol=1e-9)


def all_of_it(g: Tensor, m: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    norm = m.sum(0)
    part = shard_slice(m, "dp", 0) + reduce_scatter(g, "dp", 0)
    return all_gather(part, "dp", 0), {"norm": norm}


def another_way(g: Tensor, m: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    whole = all_gather(shard_slice(m, "dp", 0) + reduce_scatter(g, "dp", 0), "dp", 0)
    return whole * 2.0, {}


@pytest.mark.parametrize(
    ("step", "reason"),
    [(all_of_it, "sum of graph step reads all of it"), (another_way, "is made by mul")],
)
def test_refusals_say_why(step: Step, reason: str) -> None:
    with pytest.raises(IllegalRewrite, match=reason):
        Schedule(optimizer(step)).as_slice("m", "dp")
    with pytest.raises(IllegalRewrite, match="is used nowhere"):
        Schedule(optimizer(momentum)).as_slice("v", "dp")


def test_a_lost_operation_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = vars(module)["_sliced"]

    def shorter(*given: object) -> Graph:
        found = right(*given)
        return replace(found, nodes=found.nodes[:-1])

    monkeypatch.setattr(module, "_sliced", shorter)
    with pytest.raises(CompilerBug, match="beyond its placements"):
        Schedule(optimizer(momentum)).as_slice("m", "dp")
