"""Scan: the body, time after time, whichever way it is looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tilewright.dsl.builder import graph, param, state
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import bf16, f32, f64
from tilewright.dsl.encoding import IntFormat, Quantized
from tilewright.dsl.errors import (
    ArityError,
    DTypeError,
    EncodingError,
    ForeignTensor,
    GraphError,
    InvalidOutput,
    PlacementError,
    ShapeError,
    TilewrightError,
)
from tilewright.dsl.graph import Graph
from tilewright.dsl.hashing import structural_hash
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.ops.collective import all_reduce
from tilewright.dsl.ops.elementwise import tanh
from tilewright.dsl.ops.encoding import decode
from tilewright.dsl.ops.scan import MAX_UNROLLED, scan, too_long
from tilewright.dsl.ops.unrolled import unrolled
from tilewright.dsl.placement import AxisPlacement, Mesh, Partial, Placement, Shard
from tilewright.dsl.program import program
from tilewright.dsl.ranks import run_ranks
from tilewright.dsl.sampling import draw_inputs, draw_symbols
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.text import parse_program, print_program
from tilewright.dsl.types import CacheType
from tilewright.dsl.verify import verify

N = dim("n", 1, 8)


def step(h: Tensor, total: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
    after = tanh(h @ w + x)
    return after, total + after * x, after * 2.0


@graph(h=f64[N, 4], x=f64[5, N, 4])
def recurrence(h: Tensor, x: Tensor) -> dict[str, Tensor]:
    w = param("w", f64[4, 4])
    (last, total), (outputs,) = scan(step, (h, h * 0.0), (x,), fixed=(w,))
    return {"last": last, "total": total, "outputs": outputs}


def inputs(made: Graph, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return draw_inputs(made, draw_symbols(made, rng), rng)


def test_meaning_is_the_loop() -> None:
    made = recurrence.graph()
    verify(made)
    given = inputs(made)
    h, rows = given["h"], list[Any]()
    total = np.zeros_like(h)
    for x in given["x"]:
        h = np.tanh(h @ given["w"] + x)
        total = total + h * x
        rows.append(h * 2)
    found = evaluate(made, given)
    np.testing.assert_allclose(found["last"], h, rtol=1e-13)
    np.testing.assert_allclose(found["total"], total, rtol=1e-12)
    np.testing.assert_allclose(found["outputs"], np.stack(rows), rtol=1e-13)


def test_the_unrolled_graph_is_a_graph_and_means_the_same() -> None:
    made = recurrence.graph()
    node = next(n for n in made.nodes if n.op == "scan")
    a = node.attrs
    opened = unrolled(a.graph("body"), [v.type for v in node.operands], 5, 2, 1)
    verify(opened)
    assert len(opened.nodes) > 5 * len(a.graph("body").nodes)
    given = inputs(made)
    w = given["w"]
    values = [given["h"], given["h"] * 0, given["x"], w]
    named = {f"x{i}": value for i, value in enumerate(values)}
    pair = evaluate(opened, named).values(), evaluate(made, given).values()
    for one, other in zip(*pair, strict=True):
        assert np.array_equal(one, other)


def test_text_round_trip() -> None:
    made = program("p", recurrence).program
    assert parse_program(print_program(made)) == made
    assert "trips=5" in print_program(made)


def test_the_hash_sees_the_body() -> None:
    def of(factor: float, trips: int) -> str:
        @graph(x=f32[3])
        def g(x: Tensor) -> Tensor:
            def body(h: Tensor) -> Tensor:
                return h * factor

            return scan(body, (x,), trips=trips)[0][0]

        return structural_hash(g.graph())

    assert of(2.0, 3) == of(2.0, 3)
    assert len({of(2.0, 3), of(3.0, 3), of(2.0, 4)}) == 3


def test_scans_nest() -> None:
    @graph(x=f64[3, 2, 4])
    def g(x: Tensor) -> Tensor:
        def inner(h: Tensor, row: Tensor) -> Tensor:
            return h * 0.5 + row

        def outer(h: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
            (after,), _ = scan(inner, (h,), (rows,))
            return after, after

        (_,), (found,) = scan(outer, (x.sum(0).sum(0),), (x,))
        return found

    made = g.graph()
    verify(made)
    x = inputs(made)["x"]
    h, rows = x.sum((0, 1)), list[Any]()
    for row in x.reshape(6, 4):
        h = h * 0.5 + row
        rows.append(h)
    np.testing.assert_allclose(evaluate(made, {"x": x})["out"], np.stack(rows[1::2]), rtol=1e-13)
    node = next(n for n in made.nodes if n.op == "scan")
    assert not too_long(node.attrs)
    assert "would become" in too_long(node.attrs.replace(trips=MAX_UNROLLED))


def test_one_trip_and_stacks_alone() -> None:
    @graph(x=f64[1, 3])
    def g(x: Tensor) -> Tensor:
        nothing, (found,) = scan(doubled, (), (x,))
        assert nothing == ()
        return found

    x = np.arange(3.0)[None]
    assert np.array_equal(evaluate(g.graph(), {"x": x})["out"], 2 * x)


def test_fixed_operands_may_be_encoded() -> None:
    stored = f32[4, 4].with_encoding(Quantized(IntFormat(8), axis=1))

    @graph(x=f32[2, 4])
    def g(x: Tensor) -> Tensor:
        def body(h: Tensor, w: Tensor) -> Tensor:
            return h @ decode(w).T

        return scan(body, (x,), fixed=(param("w", stored),), trips=3)[0][0]

    made = g.graph()
    verify(made)
    given = inputs(made)
    w = given["w"]["codes"].astype(np.float64) * given["w"]["scale"]
    wanted = given["x"].astype(np.float64) @ np.linalg.matrix_power(w.T, 3)
    found = evaluate(made, given, reading="ideal")["out"]
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)


def test_stacked_operands_may_be_encoded() -> None:
    stored = f32[3, 4, 4].with_encoding(Quantized(IntFormat(8), axis=2))

    @graph(x=f32[2, 4])
    def g(x: Tensor) -> Tensor:
        def layer(h: Tensor, w: Tensor) -> Tensor:
            return tanh(h @ decode(w).T)

        return scan(layer, (x,), (param("w", stored),))[0][0]

    made = g.graph()
    verify(made)
    given = inputs(made)
    h = given["x"].astype(np.float64)
    for codes, scale in zip(given["w"]["codes"], given["w"]["scale"], strict=True):
        h = np.tanh(h @ (codes.astype(np.float64) * scale).T)
    found = evaluate(made, given, reading="ideal")["out"]
    np.testing.assert_allclose(found, h, rtol=1e-9, atol=1e-9)


def test_cost_counts_every_time() -> None:
    from tilewright.dsl.op import get

    made = recurrence.graph()
    node = next(n for n in made.nodes if n.op == "scan")
    types = [v.type for v in node.operands], [v.type for v in node.results]
    once = get("scan").cost(types[0], node.attrs.replace(trips=1), types[1])
    five = get("scan").cost(types[0], node.attrs, types[1])
    assert five.flops == 5 * once.flops
    assert five.bytes_read - once.bytes_read == 4 * (2 * 8 * 4 * N + 8 * 16)


CACHE = CacheType(1, 4, 1, 4, f32)


def same(h: Tensor) -> Tensor:
    return h


def first_of_two(h: Tensor, g: Tensor) -> Tensor:
    return h


def doubled(h: Tensor) -> Tensor:
    return h * 2.0


def summed(h: Tensor) -> Tensor:
    return h.sum(0)


def shortened(h: Tensor) -> Tensor:
    return h.cast(bf16)


def _outer_tensor(x: Tensor) -> None:
    def body(h: Tensor) -> Tensor:
        return h + x

    scan(body, (x,), trips=2)


def _own_param(x: Tensor) -> None:
    def body(h: Tensor) -> Tensor:
        return h + param("w", f32[2, 4])

    scan(body, (x,), trips=2)


def _own_state(x: Tensor) -> None:
    def body(h: Tensor) -> Tensor:
        state("c", CACHE)
        return h

    scan(body, (x,), trips=2)


def _no_tensor(x: Tensor) -> None:
    def body(h: Tensor) -> Any:
        return 3

    scan(body, (x,), trips=2)


def _encoded(x: Tensor) -> None:
    by_trip = f32[2, 4].with_encoding(Quantized(IntFormat(8), axis=0))
    scan(same, (), (param("q", by_trip),), trips=2)


def _encoded_results(x: Tensor) -> None:
    scan(
        same,
        (),
        (param("q", f32[3, 2, 4].with_encoding(Quantized(IntFormat(8), axis=2))),),
        trips=3,
    )


Use = Callable[[Tensor], object]
MISTAKES: dict[str, tuple[type[TilewrightError], str, Use]] = {
    "outer": (ForeignTensor, "fixed", _outer_tensor),
    "param": (GraphError, "fixed", _own_param),
    "state": (GraphError, "declares state c", _own_state),
    "shape": (ShapeError, "carried value 0", lambda x: scan(summed, (x,), trips=2)),
    "dtype": (DTypeError, "carried value 0", lambda x: scan(shortened, (x,), trips=2)),
    "few": (ArityError, "come back", lambda x: scan(first_of_two, (x, x), trips=2)),
    "rows": (ShapeError, "dimension 0", lambda x: scan(same, (), (x,), trips=3)),
    "none": (ShapeError, "at least once", lambda x: scan(same, (x,), trips=0)),
    "untold": (ShapeError, "number of trips", lambda x: scan(same, (x,))),
    "no tensor": (InvalidOutput, "type int", _no_tensor),
    "encoded": (EncodingError, "along dimension 0", _encoded),
    "encoded results": (EncodingError, "stacked result 0", _encoded_results),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name: str) -> None:
    kind, words, use = MISTAKES[name]

    @graph(x=f32[2, 4])
    def g(x: Tensor) -> Tensor:
        use(x)
        return x

    with pytest.raises(kind) as caught:
        g.graph()
    assert words in str(caught.value)


def test_symbolic_trips_are_refused() -> None:
    @graph(x=f32[N, 4])
    def g(x: Tensor) -> Tensor:
        return scan(same, (), (x,))[1][0]

    with pytest.raises(ShapeError, match="dimension 0 of what is stacked is n"):
        g.graph()


# --- on a mesh ------------------------------------------------------------------------------------

MESH = Mesh.of(tp=2)


def placed(h: AxisPlacement, x: AxisPlacement) -> Graph:
    on = Placement.of

    @graph(h=f64[4, 6].with_placement(on(tp=h)), x=f64[3, 4, 6].with_placement(on(tp=x)))
    def g(h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        def body(h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            after = h * 0.5 + x
            return after, after

        (last,), (rows,) = scan(body, (h,), (x,))
        return last, rows

    return g.graph(MESH)


@pytest.mark.parametrize(
    ("h", "x"), [(Shard(0), Shard(1)), (Shard(1), Shard(2)), (Partial("sum"), Partial("sum"))]
)
def test_placements_pass_through_the_body(h: AxisPlacement, x: AxisPlacement) -> None:
    made = placed(h, x)
    verify(made, MESH)
    last, rows = (v.tensor.placement.on("tp") for v in made.output_values)
    assert (last, rows) == (h, x)
    given = inputs(made)
    found, wanted = run_ranks(made, MESH, given), evaluate(made, given)
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12, atol=1e-12)


def test_a_carried_value_comes_back_where_it_was() -> None:
    weights = f64[6, 6].with_placement(Placement.of(tp=Shard(0)))

    def of(gathers: bool) -> Graph:
        @graph(h=f64[4, 6], w=weights)
        def g(h: Tensor, w: Tensor) -> Tensor:
            def body(h: Tensor, w: Tensor) -> Tensor:
                part = h.permute_dims(1, 0)
                part = (w.permute_dims(1, 0) @ _own(part)).permute_dims(1, 0)
                return all_reduce(part, "tp") if gathers else part

            return scan(body, (h,), fixed=(w,), trips=3)[0][0]

        return g.graph(MESH)

    made = of(gathers=True)
    verify(made, MESH)
    given = inputs(made)
    found = run_ranks(made, MESH, given)["out"]
    np.testing.assert_allclose(found, evaluate(made, given)["out"], rtol=1e-12)
    with pytest.raises(PlacementError, match=r"goes into the body as .* and comes out"):
        of(gathers=False)


def _own(x: Tensor) -> Tensor:
    """The rank's rows of a replicated value."""
    from tilewright.dsl.ops.collective import shard_slice

    return shard_slice(x, "tp", 0)


def test_the_dimension_that_is_gone_through_is_whole() -> None:
    @graph(x=f64[4, 6].with_placement(Placement.of(tp=Shard(0))))
    def g(x: Tensor) -> Tensor:
        return scan(same, (), (x,))[1][0]

    with pytest.raises(PlacementError, match="needs whole"):
        g.graph(MESH)
