"""The two readings, and the corners of the numerics that every backend must reproduce."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, overload

import ml_dtypes
import numpy as np
import pytest

from tests.dsl.tracing import traced
from tilewright.dsl import mask as masks
from tilewright.dsl.builder import TracedFunction, graph, param
from tilewright.dsl.codec import decode_components, encode_array
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import (
    DType,
    bf16,
    bool_,
    f8e4m3,
    f8e5m2,
    f16,
    f32,
    f64,
    from_numpy,
    i8,
    i32,
    i64,
)
from tilewright.dsl.encoding import NM, Encoding, IntFormat, Quantized, Sparse
from tilewright.dsl.errors import (
    DTypeError,
    GraphError,
    IndexOutOfRange,
    ShapeError,
    SymbolRangeError,
)
from tilewright.dsl.graph import Graph, Input, Node, Output, Value
from tilewright.dsl.ident import ident
from tilewright.dsl.mask import Mask
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.ops.attention import attention, visible
from tilewright.dsl.ops.create import full
from tilewright.dsl.ops.elementwise import exp, maximum
from tilewright.dsl.ops.index import gather, scatter_add
from tilewright.dsl.ops.matmul import matmul
from tilewright.dsl.ops.movement import concat, permute_dims
from tilewright.dsl.ops.norm import layer_norm, softmax
from tilewright.dsl.ops.reduce import argmax, cumsum, logsumexp, mean, topk
from tilewright.dsl.rounding import rounded
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.text import parse_graph
from tilewright.dsl.types import TensorType

INF, NAN = math.inf, math.nan


@overload
def compute(body: Callable[[], Any], /, **how: Any) -> Any: ...
@overload
def compute(body: Callable[[Tensor], Any], x: Any, /, **how: Any) -> Any: ...
@overload
def compute(body: Callable[[Tensor, Tensor], Any], x: Any, y: Any, /, **how: Any) -> Any: ...
@overload
def compute(
    body: Callable[[Tensor, Tensor, Tensor], Any], x: Any, y: Any, z: Any, /, **how: Any
) -> Any: ...
def compute(
    body: Callable[..., Any], /, *arrays: Any, types: tuple[TensorType, ...] = (), **how: Any
) -> Any:
    """What a function of tensors gives for arrays; types follow from them unless given."""
    made = traced(body, *(types or tuple(from_numpy(x.dtype)[x.shape] for x in arrays)))
    inputs = {f"x{i}": x for i, x in enumerate(arrays)}
    values = list(evaluate(made, inputs, **how).values())
    return values[0] if len(values) == 1 else tuple(values)


def floats(*values: float, dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    return np.array(values, dtype)


# --- the readings ---------------------------------------------------------------------------------


def test_faithful_rounds_every_operation_and_ideal_none() -> None:
    x = floats(1.0, dtype=bf16.numpy)
    tiny = floats(2.0**-9, dtype=bf16.numpy)

    def body(x: Tensor, y: Tensor) -> Tensor:
        return (x + y) - x

    assert compute(body, x, tiny).tolist() == [0.0]
    assert compute(body, x, tiny, reading="ideal").tolist() == [2.0**-9]


def test_casts_between_floats_are_the_identity_in_the_ideal_reading() -> None:
    x = floats(1.0 + 2.0**-20)
    narrow = compute(lambda x: x.cast(bf16).cast(f32), x)
    assert narrow.tolist() == [1.0]
    assert compute(lambda x: x.cast(bf16).cast(f32), x, reading="ideal").tolist() == x.tolist()


@pytest.mark.parametrize("dtype", [bf16, f16, f8e4m3, f8e5m2, f32], ids=str)
def test_rounding_is_to_nearest_even_in_one_step(dtype: DType) -> None:
    """Just above a tie, a detour by float32 would round to even instead of up."""
    ulp = 2.0**-dtype.mantissa
    tie = 1.0 + ulp / 2
    x = np.array([tie, tie + 2.0**-50, tie - 2.0**-50, -tie - 2.0**-50, 1.0 + 1.5 * ulp])
    wanted = [1.0, 1.0 + ulp, 1.0, -1.0 - ulp, 1.0 + 2 * ulp]
    assert rounded(x, dtype).astype(np.float64).tolist() == wanted


def test_results_are_rounded_in_one_step() -> None:
    x = floats(1.0 + 2.0**-8 + 2.0**-40, dtype=np.float64)
    assert compute(lambda x: x.cast(bf16), x).astype(np.float64).tolist() == [1.0 + 2.0**-7]


def test_rounding_keeps_what_is_special() -> None:
    x = np.array([INF, -INF, NAN, 0.0, -0.0, 1e39, 1e-50])
    found = rounded(x, bf16).astype(np.float64)
    np.testing.assert_array_equal(found, [INF, -INF, NAN, 0.0, -0.0, INF, 0.0])
    assert np.signbit(found).tolist() == [False, True, False, False, True, False, False]


def test_integers_wrap_in_their_own_width_in_both_readings() -> None:
    x = np.array([100, -100], np.int8)
    for reading in ("ideal", "faithful"):
        assert compute(lambda x: x + x, x, reading=reading).tolist() == [-56, 56]
        assert compute(lambda x: x.sum(0), np.array([100, 100], np.int8)).tolist() == -56
        assert compute(cumsum, x).tolist() == [100, 0]


def test_short_products_keep_their_sums_in_f32() -> None:
    a = np.full((1, 2048), 1.0, ml_dtypes.bfloat16)
    wide = compute(lambda a: matmul(a, a, transpose_b=True, out_dtype=f32), a)
    assert wide.dtype == np.float32
    assert wide.tolist() == [[2048.0]]
    a8 = np.full((1, 300), 127, np.int8)
    assert compute(lambda a: matmul(a, a, transpose_b=True), a8).tolist() == [[127 * 127 * 300]]


# --- inputs and symbols ---------------------------------------------------------------------------

ROWS, PAST = dim("rows", 1, 64), dim("past", 0, 8)


@graph(x=f32[ROWS, 3], past=PAST)
def scaled(x: Tensor, past: Any) -> Tensor:
    w = param("w", f32[3])
    return x * w + full((), past, f32)


def test_symbols_are_bound_by_shapes_and_scalars() -> None:
    x = np.ones((5, 3), np.float32)
    found = evaluate(scaled.graph(), {"x": x, "w": np.full(3, 2.0, np.float32), "past": 4})
    assert found["out"].tolist() == [[6.0] * 3] * 5


@pytest.mark.parametrize(
    ("change", "mistake"),
    [
        ({"past": 9}, SymbolRangeError),
        ({"w": np.ones(4, np.float32)}, ShapeError),
        ({"x": np.ones((65, 3), np.float32)}, SymbolRangeError),
        ({"x": np.ones((5, 3), np.int32)}, DTypeError),
        ({"x": np.ones(3, np.float32)}, ShapeError),
        ({"x": None}, GraphError),
    ],
)
def test_wrong_inputs_are_refused(change: dict[str, Any], mistake: type[Exception]) -> None:
    inputs: dict[str, Any] = {
        "x": np.ones((5, 3), np.float32),
        "w": np.ones(3, np.float32),
        "past": 4,
    } | change
    inputs = {name: x for name, x in inputs.items() if x is not None}
    with pytest.raises(mistake):
        evaluate(scaled.graph(), inputs)


@pytest.mark.parametrize("past", [-2, 7, 8])
def test_a_value_outside_the_range_of_an_unmentioned_symbol_is_refused(past: int) -> None:
    text = "symbol past = 0..6 % 2\ngraph g(past: symbol) -> (out: past) {\n}\n"
    assert evaluate(parse_graph(text), {"past": 6})["out"] == 6
    with pytest.raises(SymbolRangeError, match=f"past is {past}"):
        evaluate(parse_graph(text), {"past": past})


def test_a_symbol_without_a_value_is_reported() -> None:
    made = TracedFunction(ident("test"), lambda: full((ROWS,), 1.0, f32), ()).graph()
    with pytest.raises(SymbolRangeError, match="rows"):
        evaluate(made, {})
    assert evaluate(made, {}, symbols={"rows": 3})["out"].shape == (3,)


def test_strided_and_byte_swapped_inputs_are_read() -> None:
    x = np.arange(12, dtype=">f4").reshape(3, 4)[:, ::2]
    found = compute(lambda x: x + 1.0, x, types=(f32[3, 2],))
    np.testing.assert_array_equal(found, np.asarray(x, np.float32) + 1)


def test_deep_graphs_need_no_recursion() -> None:
    first = Value(ident("x"), f32[2])
    values: Value = first
    nodes: list[Node] = []
    for index in range(10_000):
        result = Value(ident(f"v{index}"), f32[2])
        nodes.append(Node("neg", (values,), (result,)))
        values = result
    deep = Graph(
        ident("deep"), (Input(first, "input", "x"),), tuple(nodes), (Output("out", values),)
    )
    assert evaluate(deep, {"x": floats(1, 2)})["out"].tolist() == [1.0, 2.0]


# --- NaN, infinities, ties ------------------------------------------------------------------------


def test_selection_propagates_nan() -> None:
    x = floats(1, NAN, 3)
    assert math.isnan(compute(lambda x: x.max(0), x))
    assert math.isnan(compute(lambda x: x.min(0), x))
    assert np.isnan(compute(lambda x: maximum(x, 2.0), x)).tolist() == [False, True, False]
    assert compute(lambda x: argmax(x, 0), x).tolist() == 1
    values, index = compute(lambda x: topk(x, 2), floats(1, NAN, 3, NAN))
    assert np.isnan(values).all()
    assert index.tolist() == [1, 3]


def test_the_lowest_index_of_equals_wins() -> None:
    x = floats(2, 5, 1, 5, 2)
    assert compute(lambda x: argmax(x, 0), x).tolist() == 1
    values, index = compute(lambda x: topk(x, 4), x)
    assert values.tolist() == [5, 5, 2, 2]
    assert index.tolist() == [1, 3, 0, 4]
    assert index.dtype == np.int32


def test_reductions_of_nothing() -> None:
    x = np.zeros((2, 0), np.float32)
    assert compute(lambda x: x.sum(1), x).tolist() == [0, 0]
    assert compute(lambda x: x.max(1), x).tolist() == [-INF, -INF]
    assert compute(lambda x: x.min(1), x).tolist() == [INF, INF]
    assert compute(lambda x: x.max(1), x.astype(np.int8)).tolist() == [-128, -128]
    assert compute(logsumexp, x).tolist() == [-INF, -INF]


def test_rows_that_are_masked_out() -> None:
    x = np.array([[-INF, -INF], [0.0, -INF], [NAN, 0.0]], np.float32)
    found = compute(softmax, x)
    np.testing.assert_array_equal(found, [[0, 0], [1, 0], [NAN, NAN]])
    np.testing.assert_array_equal(compute(logsumexp, x), [-INF, 0, NAN])
    assert compute(logsumexp, floats(INF, 1)).tolist() == INF


def test_a_mask_that_is_never_true_hides_every_key() -> None:
    q, k = np.ones((1, 2, 1, 4), np.float32), np.ones((1, 3, 1, 4), np.float32)
    out, lse = compute(lambda q, k: attention(q, k, k, mask=Mask(((),))), q, k)
    assert not out.any()
    assert lse.tolist() == [[[-INF], [-INF]]]


def test_large_scores_do_not_overflow() -> None:
    x = floats(1000.0, 1000.0)
    assert compute(softmax, x).tolist() == [0.5, 0.5]
    assert abs(compute(logsumexp, x) - (1000 + math.log(2))) < 1e-4


def test_integer_division_floors_and_by_zero_is_zero() -> None:
    x, y = np.array([7, -7, 7, 5], np.int32), np.array([2, 2, -2, 0], np.int32)
    assert compute(lambda x, y: x // y, x, y).tolist() == [3, -4, -4, 0]
    assert compute(lambda x, y: x % y, x, y).tolist() == [1, 1, -1, 0]


# --- indices --------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [-1, 3])
def test_indices_out_of_range(wrong: int) -> None:
    x, index = np.eye(3, dtype=np.float32), np.array([0, wrong], np.int32)
    with pytest.raises(IndexOutOfRange, match=str(wrong)):
        compute(gather, x, index)
    clamped = 0 if wrong < 0 else 2
    assert compute(gather, x, index, checked=False).tolist() == [x[0].tolist(), x[clamped].tolist()]
    updates = np.ones((2, 3), np.float32)
    with pytest.raises(IndexOutOfRange):
        compute(scatter_add, x, index, updates)
    found = compute(scatter_add, x, index, updates, checked=False)
    assert found.sum() == 9
    assert found[clamped].sum() >= 4


def test_equal_indices_add_up() -> None:
    x = np.zeros(3, np.float32)
    index = np.array([1, 1, 1], np.int64)
    assert compute(scatter_add, x, index, floats(1, 2, 4)).tolist() == [0, 7, 0]


def test_inputs_are_never_written() -> None:
    x = np.zeros(3, np.float64)
    compute(scatter_add, x, np.array([0], np.int32), np.ones(1))
    assert x.tolist() == [0, 0, 0]


# --- composites -----------------------------------------------------------------------------------


def test_the_mean_of_short_floats_is_summed_in_f32() -> None:
    x = np.full(4096, 1.0078125, ml_dtypes.bfloat16)
    assert compute(mean, x).astype(np.float64) == 1.0078125


def test_norms_of_short_floats_round_once_at_the_end() -> None:
    rng = np.random.default_rng(0)
    x, w, b = (rng.normal(size=s).astype(ml_dtypes.bfloat16) for s in ((4, 64), 64, 64))
    found = compute(layer_norm, x, w, b).astype(np.float64)
    ideal = compute(layer_norm, x, w, b, reading="ideal")
    assert np.max(np.abs(found - ideal) / (np.abs(ideal) + 1e-3)) < 2.0**-8


def test_attention_is_aligned_at_the_last_key() -> None:
    seen = compute(lambda: visible(masks.causal(), 2, 4).cast(i32))
    assert seen.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    sliding = masks.causal() & (masks.window(2) | masks.sinks(1))
    seen = compute(lambda: visible(sliding, 2, 5).cast(i32))
    assert seen.tolist() == [[1, 0, 1, 1, 0], [1, 0, 0, 1, 1]]


def test_decoding_with_attention_equals_prefill() -> None:
    rng = np.random.default_rng(1)
    q, k, v = (rng.normal(size=(2, 6, h, 4)).astype(np.float32) for h in (4, 2, 2))

    def body(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return attention(q, k, v, mask=masks.causal(), scale=0.5)

    whole, lse = compute(body, q, k, v)
    for step in range(6):
        now = slice(step, step + 1)
        out, one = compute(body, q[:, now], k[:, : step + 1], v[:, : step + 1])
        np.testing.assert_allclose(out, whole[:, now], rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(one, lse[:, now], rtol=1e-6)


def test_attention_to_no_key_is_zero() -> None:
    q = np.ones((1, 2, 1, 4), np.float32)
    hidden = np.array([[False, False, False]])
    k = np.ones((1, 3, 1, 4), np.float32)
    out, lse = compute(lambda q, k, m: attention(q, k, k, m), q, k, hidden)
    assert not out.any()
    assert (lse == -INF).all()


# --- encoded operands -----------------------------------------------------------------------------

ENCODINGS: list[Encoding] = [
    Quantized(IntFormat(8), 1),
    Quantized(IntFormat(4), 1, 4, symmetric=False, packing="nibbles"),
    Sparse(NM(2, 4), 1),
    Sparse(NM(2, 4), 1, Quantized(IntFormat(8), 1)),
]


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_moving_encoded_values_moves_what_they_stand_for(encoding: Encoding) -> None:
    rng = np.random.default_rng(2)
    type_ = f32[6, 8].with_encoding(encoding)
    x, y = (encode_array(rng.normal(size=(6, 8)).astype(np.float32), type_) for _ in range(2))
    index = np.array([[5, 0], [0, 3]], np.int32)
    dense = decode_components(x, type_)
    both = np.vstack([dense, decode_components(y, type_)])
    moves: list[tuple[Callable[..., Tensor], tuple[Any, ...], Any]] = [
        (gather, (x, index), dense[index]),
        (transposed, (x,), dense.T),
        (middle, (x,), dense[2:5]),
        (stacked, (x, y), both),
    ]
    for body, operands, wanted in moves:
        types = tuple(type_ if isinstance(x, dict) else i32[x.shape] for x in operands)
        made = traced(body, *types)
        found = evaluate(made, {f"x{i}": x for i, x in enumerate(operands)})["out"]
        result = made.outputs[0].value.tensor
        np.testing.assert_array_equal(decode_components(found, result), wanted)


def transposed(x: Tensor) -> Tensor:
    return permute_dims(x, (1, 0))


def middle(x: Tensor) -> Tensor:
    return x[2:5]


def stacked(x: Tensor, y: Tensor) -> Tensor:
    return concat([x, y], 0)


def test_missing_components_are_reported() -> None:
    type_ = f32[6, 8].with_encoding(Quantized(IntFormat(8), 1))
    with pytest.raises(GraphError, match="scale"):
        compute(transposed, {"codes": np.zeros((6, 8), np.int8)}, types=(type_,))


def test_formats_of_results() -> None:
    x = np.ones((2, 2), np.float64)
    assert compute(exp, x).dtype == f64.numpy
    assert compute(lambda x: x.cast(i8), x).dtype == np.int8
    assert compute(lambda x: x < 0.5, x).dtype == bool_.numpy
    assert compute(lambda x: x.cast(bf16), x).dtype == ml_dtypes.bfloat16
    assert compute(lambda x: x.cast(bf16), x, reading="ideal").dtype == np.float64
    assert compute(lambda x: x.cast(i64), x, reading="ideal").dtype == np.int64
