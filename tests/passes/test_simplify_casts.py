"""cast(x, dtype of x) -> x;  cast(cast(x, wide), narrow) -> cast(x, narrow)."""

from typing import Any

import numpy as np
import pytest

from tests.passes.rewriting import assert_caught, names, of_x, rewritten
from tilewright.dsl.builder import active
from tilewright.dsl.dtypes import ALL, DType, bf16, bool_, f16, f32, f64, i8, i32, i64, u8
from tilewright.dsl.tensor import Tensor
from tilewright.passes import simplify_casts
from tilewright.passes.dce import Dce
from tilewright.passes.simplify_casts import SimplifyCasts, widens

CLEAN = (SimplifyCasts(), Dce())


def to(x: Tensor, dtype: DType) -> Tensor:
    """A cast even where it changes nothing."""
    return active().tensor("cast", x, dtype=dtype)


def test_cast_to_the_same_dtype_is_removed() -> None:
    """cast(x, dtype of x) -> x"""
    assert names(rewritten(of_x(lambda x: to(x, f32)), *CLEAN)) == []


@pytest.mark.parametrize(
    ("source", "middle", "last", "left"),
    [
        (bf16, f32, bf16, 0),
        (f16, f64, f16, 0),
        (bf16, f32, f16, 1),
        (i8, i32, i8, 0),
        (i8, f32, i8, 0),
        (u8, i32, f32, 1),
        (i32, f64, i32, 0),
        (bool_, f32, bool_, 0),
        (f32, bf16, f32, 2),
        (i32, f32, i32, 2),
        (i32, i8, i32, 2),
        (i64, f64, i64, 2),
        (f32, i32, f32, 2),
    ],
)
def test_casts_in_a_row(source: DType, middle: DType, last: DType, left: int) -> None:
    """cast(cast(x, wide), narrow) -> cast(x, narrow), if x's dtype is in `wide`"""
    found = rewritten(of_x(lambda x: to(to(x, middle), last), source[5]), *CLEAN)
    assert names(found) == ["cast"] * left


@pytest.mark.parametrize("narrow", ALL, ids=str)
@pytest.mark.parametrize("wide", ALL, ids=str)
def test_widening_keeps_every_value(narrow: DType, wide: DType) -> None:
    if not widens(narrow, wide):
        return
    if narrow.bits <= 16:
        bits = np.arange(2 ** (8 * narrow.itemsize), dtype=np.uint32)
        raw = bits.astype(np.uint8 if narrow.itemsize == 1 else np.uint16)
        values: Any = (raw % 2 == 1) if narrow == bool_ else raw.view(narrow.numpy)
    else:
        rng = np.random.default_rng(0)
        limits = np.array([-(2**31), 2**31 - 1, 2**32 - 1, 2**24 + 1, 2**53 + 1], np.float64)
        numbers = np.concatenate([limits, rng.standard_normal(99) * 2.0**20])
        values = numbers.astype(np.int64).astype(narrow.numpy)
    back = values.astype(wide.numpy).astype(narrow.numpy)
    assert back.tobytes() == values.tobytes() or np.array_equal(back, values, equal_nan=True)


def test_planted_loss_of_a_rounding_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def always(narrow: DType, wide: DType) -> bool:
        return True

    monkeypatch.setattr(simplify_casts, "widens", always)
    assert_caught(of_x(lambda x: to(to(x, bf16), f32)), SimplifyCasts())
