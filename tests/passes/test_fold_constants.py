"""f(full(a), full(b)) -> full(f(a, b));  f(constant, full, iota, ...) -> constant."""

import numpy as np
import pytest

from tests.passes.rewriting import assert_caught, names, of_x, only, rewritten
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import bf16, f32, i32
from tilewright.dsl.ops.create import constant, full, iota
from tilewright.dsl.ops.elementwise import exp
from tilewright.dsl.ops.movement import broadcast_to, concat
from tilewright.dsl.tensor import Tensor
from tilewright.passes import fold_constants
from tilewright.passes.dce import Dce
from tilewright.passes.fold_constants import FoldConstants

N = dim("n", 1, 64)
CLEAN = (FoldConstants(), Dce())


def test_one_number_of_any_shape() -> None:
    """f(full(a), full(b)) -> full(f(a, b)), symbolic shapes too"""
    found = rewritten(
        of_x(lambda x: x + broadcast_to(full((), 2.0, f32) * full((N, 1), 3.0, f32), (N, 3))),
        *CLEAN,
    )
    node = only(found, "full")
    assert (node.attrs["value"], node.attrs["shape"]) == (6.0, (N, 3))
    assert names(found) == ["full", "add"]


def test_number_is_rounded_as_its_dtype_rounds() -> None:
    found = rewritten(of_x(lambda x: x * (full((), 0.1, bf16) * 3.0), bf16[3]), *CLEAN)
    tenth = np.asarray(0.1).astype(bf16.numpy).astype(np.float64)
    assert only(found, "full").attrs["value"] == float((tenth * 3.0).astype(bf16.numpy))


def test_literals_become_a_constant() -> None:
    """f(constant, full, iota, ...) -> constant"""

    def table(x: Tensor) -> Tensor:
        scale = full((), 1e4, f32) ** (iota((4,), dtype=f32) / -4.0)
        return x * scale + constant([1.0, 2.0, 3.0, 4.0], f32)

    found = rewritten(of_x(table, f32[2, 4]), *CLEAN)
    assert names(found) == ["constant", "mul", "constant", "add"]


def test_equal_elements_become_full() -> None:
    found = rewritten(of_x(lambda x: x + constant([3, 3], i32) * 2, i32[2]), *CLEAN)
    assert only(found, "full").attrs["value"] == 6


def test_movement_of_literals() -> None:
    def moved(x: Tensor) -> Tensor:
        row = constant([[1.0, 2.0, 3.0]], f32)
        return x * concat([row.T, row.reshape(3, 1)], axis=0)[2:5]

    found = rewritten(of_x(moved, f32[3, 1]), *CLEAN)
    assert names(found) == ["constant", "mul"]
    raw = only(found, "constant").attrs.data("data").raw
    assert np.frombuffer(raw, np.float32).tolist() == [3.0, 1.0, 2.0]


def test_positions_are_kept_on_request() -> None:
    mask = of_x(lambda x: x * (iota((3, 1)) <= iota((1, 3), axis=1)).cast(f32), f32[3, 3])
    assert names(rewritten(mask, FoldConstants(iota=False), Dce())).count("iota") == 2
    assert names(rewritten(mask, *CLEAN)) == ["constant", "mul"]


def test_limit_of_size() -> None:
    big = of_x(lambda x: x * exp(iota((2000,), dtype=f32) * 1e-4), f32[2000])
    assert "constant" not in names(rewritten(big, *CLEAN))
    assert "constant" in names(rewritten(big, FoldConstants(max_bytes=8000), Dce()))


def test_value_of_a_symbol_is_no_literal() -> None:
    def scaled(x: Tensor) -> Tensor:
        return x * exp(full((), N, f32))

    assert names(rewritten(of_x(scaled), *CLEAN)) == ["full", "exp", "mul"]


def test_planted_wrong_value_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = vars(fold_constants)["_computed"]

    def wrong(*given: object) -> object:
        return right(*given) + 1

    monkeypatch.setattr(fold_constants, "_computed", wrong)
    assert_caught(of_x(lambda x: x + full((), 2.0, f32) * 3.0), FoldConstants())
