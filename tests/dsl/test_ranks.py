"""Placement rules against simulated ranks: what a rule claims is what the ranks hold."""

from __future__ import annotations

import zlib
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.depth import count
from tests.strategies import Case, mesh_cases
from tilewright.dsl import ops as ops
from tilewright.dsl.attrs import Attrs
from tilewright.dsl.builder import graph
from tilewright.dsl.composite import Composite
from tilewright.dsl.dtypes import f32, i32, u32
from tilewright.dsl.errors import PlacementClaimError, PlacementError, TilewrightError
from tilewright.dsl.graph import Graph, substitute_graph
from tilewright.dsl.held import shard, unshard
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.op import OpDef, Sample, checked_attrs, get, registry
from tilewright.dsl.ops import elementwise, matmul
from tilewright.dsl.ops.collective import (
    all_gather,
    all_reduce,
    all_to_all,
    broadcast,
    permute,
    reduce,
    reduce_scatter,
    send,
    shard_slice,
)
from tilewright.dsl.ops.random import dropout
from tilewright.dsl.placement import (
    REPLICATE,
    At,
    AxisPlacement,
    Local,
    Mesh,
    Partial,
    Placement,
    Shard,
)
from tilewright.dsl.ranks import run_ranks
from tilewright.dsl.sampling import draw_inputs, draw_operands, draw_symbols, sample_graph
from tilewright.dsl.sharding import Rule, infer
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.types import TensorType, Type

MESHES = [
    Mesh.of(tp=1),
    Mesh.of(tp=2),
    Mesh.of(tp=3),
    Mesh.of(tp=4),
    Mesh.of(dp=2, tp=2),
    Mesh.of(dp=3, tp=2),
    Mesh.of(dp=2, tp=4),
]
SAMPLES = [
    pytest.param(op, sample, id=f"{name}-{index}")
    for name, op in registry().items()
    for index, sample in enumerate(op.samples())
    if sample.error is None and all(isinstance(x, TensorType) for x in sample.operands)
]


def places(rng: Random, rank: int, size: int) -> AxisPlacement:
    """Where an operand may lie on one axis."""
    options: list[AxisPlacement] = [REPLICATE, Partial(), Partial("max"), Local()]
    options += [At(rng.randrange(size)), *(Shard(dim) for dim in range(rank) for _ in range(3))]
    return rng.choice(options)


def placed(rng: Random, x: TensorType, mesh: Mesh) -> TensorType:
    entries = [(axis, places(rng, x.rank, size)) for axis, size in mesh.axes]
    rng.shuffle(entries)
    return x.with_placement(Placement(tuple(entries)))


def mesh_sample(op: OpDef, sample: Sample, seed: int) -> Sample | None:
    """The sample with operands that lie somewhere legal, but not all replicated."""
    rng = Random(seed)
    for _ in range(60):
        mesh = rng.choice(MESHES)
        operands: list[Type] = []
        try:
            for x in sample.operands:
                assert isinstance(x, TensorType)
                whole = x.with_placement(Placement())
                operands.append(placed(rng, whole, mesh) if rng.random() < 0.8 else whole)
            attrs = dict(sample.attrs)
            if op.is_collective:
                attrs["axis"] = rng.choice(mesh.axes)[0]
            op.infer(operands, checked_attrs(op, attrs), mesh)
        except TilewrightError:
            continue
        if any(isinstance(x, TensorType) and x.placement for x in operands):
            return replace(sample, operands=tuple(operands), attrs=attrs, mesh=mesh)
    return None


def agree(found: Any, wanted: Any) -> None:
    if isinstance(wanted, dict):
        assert set(found) == set(wanted)
        for name in wanted:
            agree(found[name], wanted[name])
    elif isinstance(wanted, tuple):
        for ours, theirs in zip(found, wanted, strict=True):
            agree(ours, theirs)
    elif not isinstance(found, list):
        np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-7 * (1 + abs_max(wanted)))


def abs_max(x: Any) -> float:
    return float(np.abs(np.nan_to_num(np.asarray(x, np.float64))).max(initial=0.0))


@pytest.mark.parametrize(("op", "sample"), SAMPLES)
def test_every_rule_holds_wherever_operands_may_lie(op: OpDef, sample: Sample) -> None:
    start = zlib.crc32(op.name.encode())
    for seed in range(start, start + count(ci=3, deep=25)):
        on_mesh = mesh_sample(op, sample, seed)
        if on_mesh is None:
            continue
        made = sample_graph(op.name, on_mesh)
        rng = np.random.default_rng(seed)
        env = draw_symbols(made, rng)
        fed = draw_operands(on_mesh, env, rng)
        try:
            bound = substitute_graph(made, dict(env))
            reinferred(bound, on_mesh.mesh)
        except PlacementError:
            continue  # legal as symbols, but these sizes cut a group
        run_ranks(made, on_mesh.mesh, fed, symbols=env)


def reinferred(made: Graph, mesh: Mesh) -> None:
    """Raises what the rules say once sizes are known."""
    for node in made.nodes:
        get(node.op).infer([o.type for o in node.operands], node.attrs, mesh)


@given(mesh_cases(), st.integers(0, 2**32 - 1))
@settings(max_examples=count(ci=40, deep=300))
def test_claims_of_random_programs_hold(made: tuple[Case, Mesh], seed: int) -> None:
    case, mesh = made
    drawn = draw_inputs(case.graph, case.env, np.random.default_rng(seed))
    fed = {**drawn, **case.arrays(seed), **case.env}
    found = run_ranks(case.graph, mesh, fed, symbols=case.env, checked=False)
    wanted = evaluate(case.graph, fed, reading="ideal", symbols=case.env, checked=False)
    for name, value in wanted.items():
        agree(found[name], value)


# --- wrong programs are refused -------------------------------------------------------------------

NONLINEAR = [
    *(
        name
        for name, op in registry().items()
        if isinstance(op, elementwise.FloatUnary | elementwise.Clamp | elementwise.Abs)
    ),
    *("softmax", "max", "argmax", "rms_norm", "logsumexp"),
]


@st.composite
def wrong(draw: st.DrawFn) -> tuple[str, list[TensorType], Mesh]:
    """An operation, and operands that no rule may accept."""
    mesh = draw(st.sampled_from([m for m in MESHES if min(size for _, size in m.axes) > 1]))
    axis = draw(st.sampled_from([name for name, _ in mesh.axes]))
    x = f32[draw(st.integers(1, 8)), draw(st.integers(2, 8))]

    def on(type_: TensorType, place: AxisPlacement) -> TensorType:
        return type_.with_placement(Placement.of(**{axis: place}))

    kind = draw(st.integers(0, 4))
    if kind == 0:
        return draw(st.sampled_from(NONLINEAR)), [on(x, Partial())], mesh
    if kind == 1:
        pair = [on(x, Partial()), on(x, draw(st.sampled_from([REPLICATE, Shard(0), At(0)])))]
        return draw(st.sampled_from(["add", "sub"])), draw(st.permutations(pair)), mesh
    if kind == 2:
        op = draw(st.sampled_from(["mul", "matmul"]))
        y = f32[x.shape[1], 3] if op == "matmul" else x
        return op, [on(x, Partial()), on(y, Partial())], mesh
    if kind == 3:
        op = draw(st.sampled_from(["add", "mul", "maximum"]))
        return op, [on(x, Shard(0)), on(x, draw(st.sampled_from([Shard(1), REPLICATE])))], mesh
    y = f32[x.shape[1], 3]
    lone = draw(
        st.sampled_from([(Shard(1), REPLICATE), (Shard(1), Shard(1)), (Shard(0), Shard(0))])
    )
    return "matmul", [on(x, lone[0]), on(y, lone[1])], mesh


@given(wrong())
@settings(max_examples=count(ci=40, deep=300))
def test_wrong_placements_are_refused(made: tuple[str, list[TensorType], Mesh]) -> None:
    name, operands, mesh = made
    op = get(name)
    given: dict[str, Any] = {}
    for attr, spec in op.attrs.items():
        if attr == "axis":
            given[attr] = -1
        elif attr in ("low", "high"):
            given[attr] = 0.5
        elif not hasattr(spec.default, "__bool__") and spec.default is not None:
            continue
    if name == "rms_norm":
        operands = [*operands, f32[operands[0].shape[-1]]]
    with pytest.raises(PlacementError):
        op.infer(operands, checked_attrs(op, given), mesh)


# --- planted faults -------------------------------------------------------------------------------


def _terms(self: OpDef, rule: Rule) -> Rule:
    return rule.terms()


def _product(self: OpDef, rule: Rule) -> Rule:
    return rule.product()


def sees(build: Any, fed: dict[str, Any], mesh: Mesh) -> None:
    """The wrong rule lets the graph be built, and the ranks show that it is wrong."""
    made = build.graph(mesh)
    with pytest.raises(PlacementClaimError) as caught:
        run_ranks(made, mesh, fed)
    assert "rank" in str(caught.value) or "coordinate" in str(caught.value)
    assert "tp" in str(caught.value)
    assert made.nodes[-1].op in str(caught.value)


def on(type_: TensorType, place: AxisPlacement) -> TensorType:
    return type_.with_placement(Placement.of(tp=place))


def numbers(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_a_linear_exp_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elementwise.Exp, "linearity", _terms)

    @graph(x=on(f32[4, 6], Partial()))
    def f(x: Tensor) -> Tensor:
        return elementwise.exp(x)

    sees(f, {"x": numbers(4, 6)}, Mesh.of(tp=2))


def test_a_product_of_two_partials_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elementwise.Mul, "linearity", _terms)

    @graph(x=on(f32[4, 6], Partial()))
    def f(x: Tensor) -> Tensor:
        return x * x

    sees(f, {"x": numbers(4, 6)}, Mesh.of(tp=3))


def test_partial_plus_replicate_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elementwise.Add, "linearity", _product)

    @graph(x=on(f32[4, 6], Partial()), y=f32[4, 6])
    def f(x: Tensor, y: Tensor) -> Tensor:
        return x + y

    sees(f, {"x": numbers(4, 6), "y": numbers(4, 6)}, Mesh.of(tp=2))


def test_a_contraction_that_forgets_its_partial_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forgetful(
        self: OpDef, xs: list[TensorType], a: Attrs, out: list[Type], mesh: Mesh
    ) -> list[Placement]:
        found = infer(self.rule(xs, a), [x.placement for x in xs], self.name)
        return [Placement() if p.axes else p for p in found]

    monkeypatch.setattr(matmul.MatMul, "placements", forgetful)

    @graph(x=on(f32[4, 6], Shard(1)), y=on(f32[6, 3], Shard(0)))
    def f(x: Tensor, y: Tensor) -> Tensor:
        return x @ y

    sees(f, {"x": numbers(4, 6), "y": numbers(6, 3)}, Mesh.of(tp=2))


def test_a_softmax_over_a_sharded_axis_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Letters that the operation needs whole, forgotten."""

    def free(self: Rule, *letters: str) -> Rule:
        return self

    monkeypatch.setattr(Rule, "keep_whole", free)

    @graph(x=on(f32[4, 6], Shard(1)))
    def f(x: Tensor) -> Tensor:
        return x.builder.tensor("cumsum", x, axis=1)

    sees(f, {"x": numbers(4, 6)}, Mesh.of(tp=2))


def test_a_shard_along_the_wrong_dimension_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def unmoved(self: OpDef, xs: list[TensorType], a: Attrs) -> Rule:
        return Rule((("a", "b"),), (("a", "b"),))

    monkeypatch.setattr(type(get("permute_dims")), "rule", unmoved)

    @graph(x=on(f32[4, 6], Shard(1)))
    def f(x: Tensor) -> Tensor:
        return x.T

    sees(f, {"x": numbers(4, 6)}, Mesh.of(tp=2))


# --- the all-ranks reference itself ---------------------------------------------------------------


@given(st.data())
@settings(max_examples=count(ci=60, deep=1000))
def test_what_is_cut_is_put_together_again(data: st.DataObject) -> None:
    rng = Random(data.draw(st.integers(0, 2**32 - 1)))
    mesh = rng.choice(MESHES)
    shape = tuple(data.draw(st.lists(st.integers(0, 7), min_size=1, max_size=3)))
    dtype = rng.choice([f32, i32, u32])
    entries = [(axis, places(rng, len(shape), size)) for axis, size in mesh.axes]
    try:
        placement = Placement(tuple(e for e in entries if not isinstance(e[1], Local)))
    except PlacementError:
        return
    type_ = TensorType(shape, dtype, placement)
    x: Any = np.random.default_rng(rng.randrange(99)).integers(0, 9, shape)
    x = x.astype(np.float64) if dtype == f32 else x.astype(dtype.numpy)
    np.testing.assert_allclose(unshard(shard(x, type_, mesh), type_, mesh), x, atol=1e-12)


def test_several_axes_cut_one_dimension_major_first() -> None:
    mesh = Mesh.of(dp=2, tp=2)
    x = np.arange(5)
    for order, wanted in (
        (("dp", "tp"), [[0, 1], [2], [3], [4]]),
        (("tp", "dp"), [[0, 1], [3], [2], [4]]),
    ):
        placement = Placement(tuple((axis, Shard(0)) for axis in order))  # pyright: ignore[reportArgumentType]  # names are identifiers
        held = shard(x, i32[5].with_placement(placement), mesh)
        assert [piece.tolist() for piece in held] == wanted


def test_terms_of_a_partial_differ_and_none_is_zero() -> None:
    """Else a rule that squares a Partial, or drops a term, would go unnoticed."""
    held = shard(np.zeros(3), on(f32[3], Partial()), Mesh.of(tp=3))
    np.testing.assert_allclose(sum(held), 0, atol=1e-15)
    assert all((piece != 0).all() for piece in held)
    assert len({float(piece[0]) for piece in held}) == 3


def test_a_wrong_shape_on_a_rank_is_noticed() -> None:
    type_ = on(f32[5], Shard(0))
    with pytest.raises(PlacementClaimError, match="rank 1"):
        unshard([np.zeros(3), np.zeros(3)], type_, Mesh.of(tp=2))
    with pytest.raises(PlacementClaimError, match="coordinate 1 of mesh axis tp"):
        unshard([np.zeros(3), np.ones(3)], f32[3], Mesh.of(tp=2))
    with pytest.raises(PlacementClaimError, match="holds it too"):
        unshard([np.zeros(3), np.ones(3)], on(f32[3], At(0)), Mesh.of(tp=2))


def test_a_program_of_collectives_gives_what_one_device_gives() -> None:
    """A sharded MLP with every collective in its place, on uneven shards."""
    mesh = Mesh.of(dp=2, tp=3)

    @graph(
        x=f32[5, 7].with_placement(Placement.of(dp=Shard(0))),
        up=on(f32[7, 8], Shard(1)),
        down=on(f32[8, 4], Shard(0)),
        key=u32[2],
    )
    def mlp(x: Tensor, up: Tensor, down: Tensor, key: Tensor) -> tuple[Tensor, ...]:
        hidden = elementwise.tanh(x @ up)
        partial = dropout(hidden, key, 0.4) @ down
        whole = all_reduce(partial, "tp")
        split = reduce_scatter(partial, "tp", 1)
        turned = all_to_all(split, "tp", 1, 0)
        root = reduce(partial, "tp", 2)
        there = broadcast(send(root, "tp", 2, 1), "tp", 1)
        back = all_gather(shard_slice(there, "tp", 1) * 2.0, "tp", 1)
        return whole, all_gather(turned, "tp", 0), all_gather(back, "dp", 0)

    made = mlp.graph(mesh)
    fed = {
        "x": numbers(5, 7),
        "up": numbers(7, 8),
        "down": numbers(8, 4),
        "key": np.array([1, 2], np.uint32),
    }
    found = run_ranks(made, mesh, fed)
    wanted = evaluate(made, fed, reading="ideal")
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, atol=1e-12)


def test_local_data_stays_with_its_rank() -> None:
    mesh = Mesh.of(tp=3)

    @graph(x=on(f32[4], Local()))
    def f(x: Tensor) -> Tensor:
        return permute(x * 2.0, "tp", (1, 2, 0))

    x = numbers(4)
    found = run_ranks(f.graph(mesh), mesh, {"x": x})["out"]
    for rank in range(3):
        np.testing.assert_allclose(found[rank], 2 * np.roll(x, (rank - 1) % 3))


def test_collectives_of_the_local_view_run_on_all_ranks() -> None:
    mesh = Mesh.of(tp=2)

    @graph(x=on(f32[4, 6], Local()))
    def f(x: Tensor) -> tuple[Tensor, ...]:
        make = x.builder.tensor
        local = {"axis": "tp", "size": 2}
        scattered = make("reduce_scatter", x, dim=0, **local)
        gathered = make("all_gather", scattered, dim=0, **local)
        return gathered, make("all_reduce", x, **local), make("shard_slice", x, dim=1, **local)

    made = f.graph(mesh)
    assert [o.value.tensor.shape for o in made.outputs] == [(4, 6), (4, 6), (4, 3)]
    x = numbers(4, 6)
    found = run_ranks(made, mesh, {"x": x})
    total = x.astype(np.float64) + np.roll(x, 1)
    for rank in range(2):
        np.testing.assert_allclose(found["out0"][rank], total)
        np.testing.assert_allclose(found["out1"][rank], total)
        np.testing.assert_array_equal(
            found["out2"][rank], np.roll(x, rank)[:, 3 * rank : 3 * rank + 3]
        )


def test_composites_are_judged_by_their_bodies() -> None:
    """Every composite has been met above by its body, not by a rule of its own."""
    assert not any(
        "rule" in vars(type(op)) for op in registry().values() if isinstance(op, Composite)
    )
