"""Drawn inputs are legal for whatever the graph does with them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.dsl.tracing import traced
from tilewright.dsl.builder import param
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import DType, bf16, bool_, f8e8m0, f32, i8, i32, i64, u8
from tilewright.dsl.encoding import IntFormat, Quantized
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.ops.elementwise import log, rsqrt, sqrt, where
from tilewright.dsl.ops.embedding import embedding
from tilewright.dsl.ops.index import gather, scatter_add
from tilewright.dsl.ops.movement import concat
from tilewright.dsl.sampling import ANYTHING, draw_inputs, draw_symbols, draw_value
from tilewright.dsl.tensor import Tensor

ROWS, SEQ = dim("rows", 2, 4096, multiple_of=8), dim("seq", 3, 4)


def test_symbols_are_small_and_legal() -> None:
    made = traced(lambda x: x + 1.0, f32[ROWS, SEQ])
    rng = np.random.default_rng(0)
    drawn = [draw_symbols(made, rng) for _ in range(50)]
    assert {env["rows"] for env in drawn} == {8, 16, 24, 32, 40}
    assert {env["seq"] for env in drawn} == {3, 4}
    assert max(draw_symbols(made, rng, small=False)["rows"] for _ in range(50)) > 100


def through_views(index: Tensor) -> Tensor:
    moved = concat([index.reshape(4, 2), index.reshape(4, 2)], 1).permute_dims(1, 0)
    return gather(param("table", f32[3, 2]), moved.cast(i64))


def through_a_composite(index: Tensor) -> Tensor:
    return embedding(param("table", f32[3, 2]), index)


def into_a_sum(index: Tensor) -> Tensor:
    return scatter_add(param("table", f32[3]), index, param("updates", f32[8]))


def the_smaller_of_two(index: Tensor) -> Tensor:
    wide, narrow = param("wide", f32[50]), param("narrow", f32[2])
    return gather(wide, index) + gather(narrow, index)


def through_a_choice(index: Tensor) -> Tensor:
    return gather(param("table", f32[3]), where(index < 1, index, 0))


def through_arithmetic(index: Tensor) -> Tensor:
    return gather(param("table", f32[3]), index + 1)


def by_what_was_gathered(index: Tensor) -> Tensor:
    return gather(param("table", f32[3]), gather(index, index * 0))


@pytest.mark.parametrize(
    "body",
    [
        through_views,
        through_a_composite,
        into_a_sum,
        the_smaller_of_two,
        through_a_choice,
        through_arithmetic,
        by_what_was_gathered,
    ],
)
def test_indices_are_in_range(body: Callable[[Tensor], Tensor]) -> None:
    made = traced(body, i32[8])
    rng = np.random.default_rng(1)
    seen: set[int] = set()
    for _ in range(20):
        inputs = draw_inputs(made, {}, rng)
        evaluate(made, inputs, checked=True)
        seen |= set(inputs["x0"].tolist())
    assert len(seen) >= 2, "the whole range is tried"


def test_other_integers_are_of_both_signs() -> None:
    made = traced(lambda x: x * 2, i32[100])
    drawn = draw_inputs(made, {}, np.random.default_rng(0))["x0"]
    assert drawn.min() < 0 < drawn.max()


@pytest.mark.parametrize("function", [log, sqrt, rsqrt])
def test_roots_and_logarithms_get_positive_numbers(function: Callable[[Tensor], Tensor]) -> None:
    made = traced(lambda x, y: function(x.reshape(4, 2)) + y.reshape(4, 2), f32[8], f32[8])
    drawn = draw_inputs(made, {}, np.random.default_rng(0))
    assert (drawn["x0"] > 0).all()
    assert (drawn["x1"] < 0).any()


@pytest.mark.parametrize("dtype", [f32, bf16, f8e8m0, i8, u8, bool_], ids=str)
def test_values_have_their_format(dtype: DType) -> None:
    drawn = draw_value(dtype[3, 5], ANYTHING, np.random.default_rng(0))
    assert drawn.dtype == dtype.numpy
    assert drawn.shape == (3, 5)
    assert len(np.unique(drawn.astype(np.float64))) > 1


def test_encoded_inputs_come_as_components() -> None:
    type_ = f32[4, 8].with_encoding(Quantized(IntFormat(8), 1))
    made = traced(lambda x: x.permute_dims(1, 0), type_)
    drawn = draw_inputs(made, {}, np.random.default_rng(0))
    assert set(drawn["x0"]) == {"codes", "scale"}
    assert set(evaluate(made, drawn)["out"]) == {"codes", "scale"}


def test_one_seed_draws_one_thing() -> None:
    made = traced(through_views, i32[8])
    first, second = (draw_inputs(made, {}, np.random.default_rng(5)) for _ in range(2))
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name])
