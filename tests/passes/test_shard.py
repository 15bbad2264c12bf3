"""Programs for one device, placed from a few hints: legal, equal in meaning, at least cost."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from tests.passes.rewriting import context, names
from tests.seeds.zoo import LLAMA
from tilewright.dsl.attrs import EMPTY
from tilewright.dsl.builder import TracedFunction, graph, param
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import f32
from tilewright.dsl.errors import CompilerBug, InvalidHint, PlacementError, TilewrightError
from tilewright.dsl.graph import Graph, Node, Value
from tilewright.dsl.ident import ident
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.ops.activation import gelu
from tilewright.dsl.ops.matmul import matmul
from tilewright.dsl.ops.norm import rms_norm, softmax
from tilewright.dsl.placement import Mesh, Placement, Shard
from tilewright.dsl.program import Program, program
from tilewright.dsl.ranks import run_ranks
from tilewright.dsl.sampling import draw_inputs
from tilewright.dsl.tensor import Tensor
from tilewright.models.llama import llama
from tilewright.passes.pipeline import Pipeline
from tilewright.passes.plan import Choices, Plan
from tilewright.passes.registry import default_pipeline, read_passes
from tilewright.passes.shard import Shard as ShardPass
from tilewright.passes.sharding import problem
from tilewright.passes.sharding.hints import STRATEGIES, USUAL, read_hints, spelled
from tilewright.passes.sharding.options import Along, Option, movable, options
from tilewright.passes.sharding.problem import Problem, Site
from tilewright.passes.sharding.rebuild import Rebuilt

GRID = Mesh.of(dp=2, tp=2)
TOKENS = f32[64, 256]


@graph(x=TOKENS)
def mlp(x: Tensor) -> Tensor:
    up, down = param("up", f32[1024, 256]), param("down", f32[256, 1024])
    return gelu(x @ up.T) @ down.T + x


def placed(of: Program, hints: str, plan: Plan | None = None) -> Program:
    ctx = context()
    ctx.choices = Choices(plan or Plan())
    return Pipeline((ShardPass(hints),)).run(of, ctx)


def on_mesh(function: TracedFunction, mesh: Mesh) -> Program:
    return program("p", function, mesh=mesh).program


def collectives(of: Graph) -> list[str]:
    kinds = ("all_reduce", "reduce_scatter", "all_gather", "all_to_all", "shard_slice")
    return [name for name in names(of) if name in kinds]


def assert_means_the_same(before: Program, after: Program) -> None:
    for old, new in zip(before.graphs, after.graphs, strict=True):
        given = draw_inputs(old, {}, np.random.default_rng(3))
        wanted = evaluate(old, given, reading="ideal")
        found = run_ranks(new, after.mesh, given)
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-9)


def test_megatron_cuts_columns_then_rows() -> None:
    before = on_mesh(mlp, Mesh.of(tp=4))
    after = placed(before, "megatron@tp")
    assert after.param("up").placement == Placement.of(tp=Shard(0))
    assert after.param("down").placement == Placement.of(tp=Shard(1))
    (found,) = after.graphs
    assert collectives(found)[-1] in ("all_reduce", "all_gather")
    assert "all_to_all" not in collectives(found)
    assert_means_the_same(before, after)


def test_data_parallelism_sends_nothing() -> None:
    after = placed(on_mesh(mlp, Mesh.of(dp=4)), "data@dp")
    assert collectives(after.graphs[0]) == []
    assert after.graphs[0].inputs[0].value.tensor.placement == Placement.of(dp=Shard(0))


def test_fsdp_gathers_what_it_uses() -> None:
    after = placed(on_mesh(mlp, Mesh.of(dp=4)), "fsdp@dp")
    assert collectives(after.graphs[0]) == ["all_gather", "all_gather"]
    assert all(after.param(declared.path).placement for declared in after.params)


def test_norms_run_on_parts_of_the_sequence() -> None:
    @graph(x=f32[1, 32, 512])
    def layer(x: Tensor) -> Tensor:
        y = rms_norm(x, param("n", f32[512])) @ param("up", f32[2048, 512]).T
        return x + gelu(y) @ param("down", f32[512, 2048]).T

    after = placed(on_mesh(layer, Mesh.of(tp=4)), "sequence@tp")
    assert collectives(after.graphs[0]) == ["all_gather", "reduce_scatter"]
    (norm,) = (node for node in after.graphs[0].nodes if node.op == "rms_norm")
    assert norm.result.tensor.placement == Placement.of(tp=Shard(1))


@pytest.mark.parametrize(
    "hints",
    [
        "data@dp",
        "fsdp@dp",
        "megatron@tp",
        "sequence@tp",
        "data@dp megatron@tp",
        "data@dp sequence@tp",
        "fsdp@dp megatron@tp",
        "megatron@tp megatron@dp",
        "param/*:tp=free param/*:dp=cut output/logits:dp=shard(2)",
    ],
)
def test_a_llama_means_the_same_however_it_is_placed(hints: str) -> None:
    before = llama(LLAMA, 2, 4, f32, GRID).program
    after = placed(before, hints)
    assert_means_the_same(before, after)
    again = placed(before, hints)
    assert str(again) == str(after)


def test_graphs_share_the_placement_of_a_parameter() -> None:
    rows = dim("n", 4, 64, multiple_of=4)

    @graph(x=f32[rows, 32])
    def one(x: Tensor) -> Tensor:
        return x @ param("w", f32[64, 32]).T

    @graph(y=f32[8, 64])
    def two(y: Tensor) -> Tensor:
        return y @ param("w", f32[64, 32])

    before = program("p", one, two, mesh=Mesh.of(tp=2)).program
    after = placed(before, "megatron@tp")
    first, second = (next(iter(g.by_role("param"))).value.type for g in after.graphs)
    assert first == second


def test_a_plan_decides_where_the_solver_may() -> None:
    before = on_mesh(mlp, Mesh.of(tp=4))
    plan = Plan.of({"shard:tp.up": "shard(1)"})
    after = placed(before, "param/*:tp=free", plan)
    assert after.param("up").placement == Placement.of(tp=Shard(1))
    assert_means_the_same(before, after)


def test_the_pipeline_shards_before_it_joins_products() -> None:
    text = str(default_pipeline(ShardPass("megatron@tp")))
    assert text.index("shard{") < text.index("horizontal_matmul") < text.index("localize")
    assert text.index("localize") < text.rindex("horizontal_matmul") < text.index("prepare_params")
    assert str(read_passes("+shard{hints=data@dp megatron@tp}").passes[0])
    assert "horizontal_matmul" not in str(default_pipeline()).partition("localize")[2]


def test_a_placed_program_is_not_placed_again() -> None:
    after = placed(on_mesh(mlp, Mesh.of(tp=2)), "megatron@tp")
    with pytest.raises(PlacementError, match="already"):
        placed(after, "megatron@tp")


@pytest.mark.parametrize(
    ("hints", "mistake", "message"),
    [
        ("megatron", InvalidHint, "cannot read"),
        ("quick@tp", InvalidHint, "no strategy"),
        ("x:tp=shard", InvalidHint, "no placement"),
        ("weird/x:tp=free", InvalidHint, "no role"),
        ("x:ep=free", PlacementError, "no axis 'ep'"),
        ("input/x:tp=shard(7)", PlacementError, "no dimension 7"),
        ("output/*:tp=partial(max)", PlacementError, "meets the hints"),
    ],
)
def test_bad_hints_get_a_sentence(hints: str, mistake: type[TilewrightError], message: str) -> None:
    with pytest.raises(mistake, match=message):
        placed(on_mesh(mlp, Mesh.of(tp=2)), hints)


def test_ranks_that_do_not_divide_are_named() -> None:
    with pytest.raises(PlacementError, match="3 ranks of mesh axis tp do not divide dimension 0"):
        placed(on_mesh(mlp, Mesh.of(tp=3)), "input/x:tp=shard(0)")


def test_no_option_is_illegal() -> None:
    @graph(x=f32[4, 8], y=f32[8, 4])
    def g(x: Tensor, y: Tensor) -> Tensor:
        return softmax(matmul(x, y), axis=1)

    found = on_mesh(g, Mesh.of(tp=2)).graphs[0]
    along = Along(Mesh.of(tp=2), ident("tp"))
    seen = {str([*map(str, o.operands)]) for o in options(found.nodes[0], along)}
    assert seen == {
        "['replicate', 'replicate']",
        "['shard(0)', 'replicate']",
        "['replicate', 'shard(1)']",
        "['shard(1)', 'shard(0)']",
        "['partial(sum)', 'replicate']",
        "['replicate', 'partial(sum)']",
    }
    rows = [o for o in options(found.nodes[1], along) if o.divides]
    assert [o.operands for o in rows] == [(Shard(0),)]


def test_the_solver_finds_the_cheapest_of_all() -> None:
    rng = np.random.default_rng(5)
    places = (Shard(0), Shard(1))
    for _ in range(20):
        asked = Problem()
        width = int(rng.integers(2, 5))
        ends = [Option((), (p,)) for p in places]
        asked.add(Site(tuple(ends), tuple(rng.random(2)), makes=("v0",)))
        for level in range(width):
            both = tuple(Option((a,), (b,)) for a in places for b in places)
            reads = (f"v{int(rng.integers(0, level + 1))}",)
            asked.add(Site(both, tuple(rng.random(4)), reads, (f"v{level + 1}",)))
        price = {f"v{i}": rng.random() for i in range(width + 1)}
        taken = asked.solve(lambda key, a, b, p=price: 0.0 if a == b else p[str(key)])
        assert taken is not None
        everything = product(*(range(len(site.options)) for site in asked.sites))
        least = min(total(asked, choice, price) for choice in everything)
        assert total(asked, taken, price) == pytest.approx(least)


def test_equal_layers_are_decided_once(monkeypatch: pytest.MonkeyPatch) -> None:
    columns: list[int] = []
    right = vars(problem)["_milp"]

    def counted(costs: Sequence[float], *rest: object) -> object:
        columns.append(len(costs))
        return right(costs, *rest)

    monkeypatch.setattr(problem, "_milp", counted)
    for layers in (6, 12):
        deep = llama(replace(LLAMA, num_hidden_layers=layers), 2, 4, f32, Mesh.of(tp=2)).program
        after = placed(deep, "megatron@tp")
    assert columns[0] == columns[1]
    fifth, sixth = (
        [str(after.param(d.path)) for d in after.params if d.path.startswith(f"layers.{n}.")]
        for n in (5, 6)
    )
    assert fifth == sixth


def total(asked: Problem, taken: Sequence[int], price: dict[str, float]) -> float:
    """What a choice costs: each site, and each placement that a value is brought to."""
    made = {
        key: site.options[n].results[0]
        for site, n in zip(asked.sites, taken, strict=True)
        for key in site.makes
    }
    wanted = {
        (key, site.options[n].operands[i])
        for site, n in zip(asked.sites, taken, strict=True)
        for i, key in enumerate(site.reads)
    }
    work = sum(site.seconds[n] for site, n in zip(asked.sites, taken, strict=True))
    return work + sum(price[str(key)] for key, place in wanted if made[key] != place)


def test_a_lost_collective_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(self: Rebuilt, op: str, x: Value, *places: object) -> Value:
        return x

    monkeypatch.setattr(Rebuilt, "_move", nothing)
    with pytest.raises((CompilerBug, PlacementError)):
        placed(on_mesh(mlp, Mesh.of(tp=4)), "megatron@tp")


def test_a_changed_operation_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = vars(Rebuilt)["_node"]

    def another(self: Rebuilt, node: Node, option: Option) -> None:
        right(self, replace(node, op="tanh", attrs=EMPTY) if node.op == "gelu" else node, option)

    monkeypatch.setattr(Rebuilt, "_node", another)
    with pytest.raises(CompilerBug, match="beyond its placements"):
        placed(on_mesh(mlp, Mesh.of(tp=4)), "megatron@tp")


def test_short_words_are_spelled_out() -> None:
    mesh = Mesh.of(dp=2, tp=2)
    assert spelled("megatron", mesh) == "data@dp megatron@tp"
    assert spelled("fsdp megatron", mesh) == "fsdp@dp megatron@tp"
    assert spelled("input/x:dp=shard(1) megatron@tp", mesh) == "input/x:dp=shard(1) megatron@tp"
    assert spelled("megatron", Mesh.of(tp=2)) == "megatron@tp"
    assert set(USUAL) == set(STRATEGIES)
    with pytest.raises(InvalidHint, match="meant for a mesh axis tp, and the mesh has dp"):
        spelled("megatron", Mesh.of(dp=2))


def test_every_strategy_can_be_read() -> None:
    for name in STRATEGIES:
        assert read_hints(f"{name}@tp", Mesh.of(tp=2)).on("tp")
    assert movable(Shard(0), Shard(0)) == ""
