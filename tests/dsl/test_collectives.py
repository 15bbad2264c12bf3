"""Collectives: which placements they take and give, and what the ranks exchange."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tilewright.dsl import ops as ops
from tilewright.dsl.attrs import Attrs
from tilewright.dsl.builder import graph
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import f32
from tilewright.dsl.encoding import IntFormat, Quantized, components
from tilewright.dsl.errors import (
    AttributeError_,
    CompilerBug,
    EncodingError,
    PlacementError,
    ShapeError,
    TilewrightError,
)
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.op import checked_attrs, get, registry
from tilewright.dsl.ops.collective import all_gather, all_reduce, shard_slice
from tilewright.dsl.ops.encoding import decode, encode
from tilewright.dsl.ops.exchange import Collective
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
from tilewright.dsl.shards import chunks
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.types import TensorType

Array = NDArray[Any]
TP2 = Mesh.of(tp=2)
INT8 = Quantized(IntFormat(8), 1, 4)
COLLECTIVES = [op for op in registry().values() if op.is_collective]


def on(x: TensorType, **axes: AxisPlacement) -> TensorType:
    return x.with_placement(Placement.of(**axes))


def result(name: str, x: TensorType, mesh: Mesh = TP2, /, **attrs: Any) -> TensorType:
    op = get(name)
    (found,) = op.infer([x], checked_attrs(op, {"axis": "tp", **attrs}), mesh)
    assert isinstance(found, TensorType)
    return found


def exchanged(name: str, held: list[Any], **attrs: Any) -> list[Any]:
    op = get(name)
    assert isinstance(op, Collective)
    return op.exchange(held, checked_attrs(op, {"axis": "tp", **attrs}))


def test_all_nine_are_there() -> None:
    assert [op.name for op in COLLECTIVES] == [
        "all_gather", "all_reduce", "all_to_all", "broadcast", "permute", "reduce",
        "reduce_scatter", "send", "shard_slice",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "before", "attrs", "after"),
    [
        ("all_reduce", Partial(), {}, REPLICATE),
        ("all_reduce", Partial("min"), {"reduction": "min"}, REPLICATE),
        ("reduce_scatter", Partial(), {"dim": 1}, Shard(1)),
        ("all_gather", Shard(1), {"dim": 1}, REPLICATE),
        ("all_to_all", Shard(0), {"from_dim": 0, "to_dim": 1}, Shard(1)),
        ("broadcast", At(1), {"root": 1}, REPLICATE),
        ("reduce", Partial(), {"root": 1}, At(1)),
        ("send", At(0), {"source": 0, "target": 1}, At(1)),
        ("shard_slice", REPLICATE, {"dim": 0}, Shard(0)),
        ("permute", Local(), {"permutation": (1, 0)}, Local()),
    ],
)
def test_placements_move_as_named(
    name: str, before: AxisPlacement, attrs: dict[str, Any], after: AxisPlacement
) -> None:
    """And stay as they are on every other axis."""
    mesh = Mesh.of(dp=2, tp=2)
    assert result(name, on(f32[4, 6], tp=before), **attrs) == on(f32[4, 6], tp=after)
    both = on(f32[4, 6, 8], tp=before, dp=Shard(2))
    assert result(name, both, mesh, **attrs) == on(f32[4, 6, 8], tp=after, dp=Shard(2))
    others = [REPLICATE, Shard(0), Shard(1), Partial(), Partial("min"), Local(), At(0), At(1)]
    for wrong in others:
        if wrong != before:
            with pytest.raises(PlacementError) as caught:
                result(name, on(f32[4, 6], tp=wrong), **attrs)
            assert "tp" in str(caught.value)
            assert "fix:" in str(caught.value)


def test_samples_are_what_they_say() -> None:
    for op in COLLECTIVES:
        for sample in op.samples():
            attrs = checked_attrs(op, sample.attrs)
            if sample.error is None:
                op.infer(sample.operands, attrs, sample.mesh)
            else:
                with pytest.raises(sample.error):
                    op.infer(sample.operands, attrs, sample.mesh)


def test_only_neighbouring_pieces_are_gathered() -> None:
    """A dimension cut by dp, then tp: tp is gathered first."""
    mesh = Mesh.of(dp=2, tp=2)
    x = on(f32[8, 2], dp=Shard(0), tp=Shard(0))
    inner = result("all_gather", x, mesh, dim=0)
    assert inner == on(f32[8, 2], dp=Shard(0))
    assert result("all_gather", inner, mesh, axis="dp", dim=0) == f32[8, 2]
    for name, attrs in (("all_gather", {"dim": 0}), ("all_to_all", {"from_dim": 0, "to_dim": 1})):
        with pytest.raises(PlacementError, match="gather tp first"):
            result(name, x, mesh, axis="dp", **attrs)


def test_an_unknown_axis_is_named_with_the_known_ones() -> None:
    with pytest.raises(PlacementError, match="its axes are: tp"):
        result("all_reduce", on(f32[4], tp=Partial()), axis="ep")


def test_encoded_values_move_on_group_borders() -> None:
    stored = f32[4, 16].with_encoding(INT8)
    assert result("shard_slice", stored, dim=1) == on(stored, tp=Shard(1))
    assert result("all_gather", on(stored, tp=Shard(1)), dim=1) == stored
    assert result("broadcast", on(stored, tp=At(0))) == stored
    with pytest.raises(PlacementError, match="multiples of 4"):
        result("shard_slice", f32[4, 12].with_encoding(INT8), dim=1)
    with pytest.raises(PlacementError, match="add up"):
        result("broadcast", on(stored, dp=Partial(), tp=At(0)), Mesh.of(dp=2, tp=2))
    for name, attrs in (("all_reduce", {}), ("reduce", {}), ("reduce_scatter", {"dim": 0})):
        with pytest.raises(TilewrightError) as caught:
            result(name, on(stored, tp=Partial()), **attrs)
        assert isinstance(caught.value, EncodingError)


@pytest.mark.parametrize(
    ("name", "attrs", "shape"),
    [
        ("all_reduce", {}, (4, 6)),
        ("reduce_scatter", {"dim": 0}, (2, 6)),
        ("all_gather", {"dim": 1}, (4, 12)),
        ("all_to_all", {"from_dim": 0, "to_dim": 1}, (8, 3)),
        ("broadcast", {}, (4, 6)),
        ("reduce", {}, (4, 6)),
        ("send", {"source": 0, "target": 1}, (4, 6)),
        ("shard_slice", {"dim": 1}, (4, 3)),
        ("permute", {"permutation": (1, 0)}, (4, 6)),
    ],
)
def test_the_local_view_has_the_shapes_of_one_rank(
    name: str, attrs: dict[str, Any], shape: tuple[int, ...]
) -> None:
    x = on(f32[4, 6], tp=Local())
    assert result(name, x, size=2, **attrs) == on(f32[shape], tp=Local())
    assert result(name, f32[4, 6], size=2, **attrs) == on(f32[shape], tp=Local())
    with pytest.raises(PlacementError, match="local"):
        result(name, on(f32[4, 6], tp=Shard(0)), size=2, **attrs)
    with pytest.raises(PlacementError, match="has 2 ranks"):
        result(name, on(f32[4, 6, 4], tp=Local()), size=1, **attrs)
    op = get(name)
    with pytest.raises(CompilerBug):
        op.meaning(np, [np.zeros(2)], checked_attrs(op, {"axis": "tp", "size": 2, **attrs}), [])


def test_uneven_local_shards_are_refused() -> None:
    rows = dim("rows", 1, 64)
    for x in (f32[5, 2], f32[rows, 2]):
        with pytest.raises(ShapeError, match="pad"):
            result("reduce_scatter", on(x, tp=Local()), size=2, dim=0)
    even = dim("even", 2, 64, multiple_of=2)
    found = result("reduce_scatter", on(f32[even, 2], tp=Local()), size=2, dim=0)
    assert found.shape == (even // 2, 2)


@given(st.integers(0, 40), st.integers(1, 9))
def test_shards_are_cut_as_torch_cuts_them(size: int, count: int) -> None:
    import torch

    pieces = [len(piece) for piece in torch.arange(size).chunk(count)] if size else []
    ours = [stop - start for start, stop in chunks(size, count)]
    assert ours == [*pieces, *[0] * (count - len(pieces))][:count]


def test_what_is_exchanged() -> None:
    held = [np.array([[1, 5, 2]]), np.array([[4, 3, 0]])]

    def lists(found: list[Any]) -> list[Any]:
        return [None if x is None else x.tolist() for x in found]

    assert lists(exchanged("all_reduce", held)) == [[[5, 8, 2]]] * 2
    assert lists(exchanged("all_reduce", held, reduction="max")) == [[[4, 5, 2]]] * 2
    assert lists(exchanged("reduce_scatter", held, dim=1)) == [[[5, 8]], [[2]]]
    assert lists(exchanged("reduce", held, root=1, reduction="min")) == [None, [[1, 3, 0]]]
    assert lists(exchanged("all_gather", held, dim=0)) == [[[1, 5, 2], [4, 3, 0]]] * 2
    assert lists(exchanged("all_to_all", held, from_dim=0, to_dim=1)) == [
        [[1, 5], [4, 3]],
        [[2], [0]],
    ]
    assert lists(exchanged("broadcast", [None, held[1]], root=1)) == [[[4, 3, 0]]] * 2
    assert lists(exchanged("send", [held[0], None], source=0, target=1)) == [None, [[1, 5, 2]]]
    assert lists(exchanged("shard_slice", [held[0]] * 2, dim=1)) == [[[1, 5]], [[2]]]
    three = [np.array(i) for i in range(3)]
    assert lists(exchanged("permute", three, permutation=(2, 0, 1))) == [1, 2, 0]


def test_split_all_reduce_is_the_all_reduce() -> None:
    """The identity that `split` rests on: reduce_scatter, then all_gather."""
    rng = np.random.default_rng(0)
    held = [rng.standard_normal((5, 3)) for _ in range(4)]
    whole = exchanged("all_reduce", held)
    split = exchanged("all_gather", exchanged("reduce_scatter", held, dim=0), dim=0)
    for a, b in zip(whole, split, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_logical_value_stays() -> None:
    @graph(x=on(f32[4, 8], tp=Partial()))
    def f(x: Tensor) -> Tensor:
        return all_gather(shard_slice(all_reduce(x, "tp"), "tp", 1), "tp", 1)

    x = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    np.testing.assert_array_equal(evaluate(f.graph(TP2), {"x": x})["out"], x)


def test_components_are_exchanged_one_by_one() -> None:
    """Codes and scales are cut alike; what is not cut stays with every rank."""

    @graph(x=on(f32[4, 16], tp=Shard(0)))
    def f(x: Tensor) -> Tensor:
        stored = encode(x, INT8)
        turned = stored.builder.tensor("all_to_all", stored, axis="tp", from_dim=0, to_dim=1)
        return decode(all_gather(turned, "tp", 1))

    made = f.graph(TP2)
    x = np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)
    found = run_ranks(made, TP2, {"x": x})["out"]
    np.testing.assert_allclose(found, evaluate(made, {"x": x}, reading="ideal")["out"])
    turned = made.nodes[1].result.tensor
    assert {name: str(t.placement) for name, t in components(turned).items()} == {
        "codes": "(tp: shard(1))",
        "scale": "(tp: shard(1))",
    }


def test_attributes_name_ranks_that_exist() -> None:
    for name, place, attrs in (
        ("broadcast", At(0), {"root": 2}),
        ("send", At(0), {"source": 0, "target": -1}),
        ("reduce", Partial(), {"root": 5}),
        ("permute", Local(), {"permutation": (0, 0)}),
        ("permute", Local(), {"permutation": (0, 1, 2)}),
        ("all_reduce", Partial(), {"reduction": "prod"}),
        ("all_reduce", Partial(), {"size": -1}),
    ):
        with pytest.raises(AttributeError_):
            result(name, on(f32[4, 6], tp=place), **attrs)


def test_reductions_cost_an_operation_an_element_and_moves_none() -> None:
    x = on(f32[4, 6], tp=Partial())
    flops = {op.name: op.flops([x], Attrs(), [x]) for op in COLLECTIVES}
    assert {name for name, count in flops.items() if count == 24} == {
        "all_reduce",
        "reduce",
        "reduce_scatter",
    }
    assert sum(flops.values()) == 3 * 24
