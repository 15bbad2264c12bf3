"""reshape(reshape(x, s), t) -> reshape(x, t), permute_dims composed, slices added, ..."""

import pytest

from tests.passes.rewriting import Expression, assert_caught, names, of_x, only, rewritten
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import f32
from tilewright.dsl.ops.movement import broadcast_to, concat
from tilewright.passes import simplify_movement
from tilewright.passes.dce import Dce
from tilewright.passes.simplify_movement import SimplifyMovement

N = dim("n", 1, 64)
CLEAN = (SimplifyMovement(), Dce())


IDENTITIES: list[Expression] = [
    lambda x: x.reshape(N, 3, 4),
    lambda x: x.permute_dims(0, 1, 2),
    lambda x: x.permute_dims(0, -2, -1),
    lambda x: broadcast_to(x, (N, 3, 4)),
    lambda x: x[:, 0:3, 0:4],
    lambda x: concat([x], axis=1),
    lambda x: x.T.T,
    lambda x: x.permute_dims(2, 0, 1).permute_dims(1, 2, 0),
    lambda x: x.reshape(N, 12).reshape(N, 3, 4),
]


@pytest.mark.parametrize("expression", IDENTITIES)
def test_move_that_changes_nothing_is_removed(expression: Expression) -> None:
    """reshape(x, shape of x), permute_dims(x, [0, 1, ...]), slice(x, 0, shape of x) ... -> x"""
    assert names(rewritten(of_x(expression, f32[N, 3, 4]), *CLEAN)) == []


def test_reshapes_in_a_row() -> None:
    """reshape(reshape(x, s), t) -> reshape(x, t)"""
    found = rewritten(of_x(lambda x: x.reshape(N, 12).reshape(N, 2, 6), f32[N, 3, 4]), *CLEAN)
    assert only(found, "reshape").attrs.dims("shape") == (N, 2, 6)


def test_broadcasts_in_a_row() -> None:
    """broadcast_to(broadcast_to(x, s), t) -> broadcast_to(x, t)"""
    found = rewritten(
        of_x(lambda x: broadcast_to(broadcast_to(x, (3, 4)), (2, 3, 4)), f32[3, 1]), *CLEAN
    )
    assert names(found) == ["broadcast_to"]


def test_permutations_in_a_row() -> None:
    """permute_dims(permute_dims(x, p), q) -> permute_dims(x, [p[i] for i in q])"""
    found = rewritten(
        of_x(lambda x: x.permute_dims(2, 0, 1).permute_dims(2, 1, 0), f32[2, 3, 4]), *CLEAN
    )
    assert only(found, "permute_dims").attrs.ints("axes") == (1, 0, 2)


def test_slices_in_a_row() -> None:
    """slice(slice(x, a, m), b, n) -> slice(x, a + b, n)"""
    found = rewritten(of_x(lambda x: x[1:7, 2:9][2:5, 1:3], f32[8, 9]), *CLEAN)
    assert only(found, "slice").attrs.dims("start") == (3, 3)
    assert only(found, "slice").attrs.dims("size") == (3, 2)


def test_inner_move_that_others_read_stays() -> None:
    found = rewritten(of_x(lambda x: (x.T, x.T.T + 1.0), f32[2, 3]), *CLEAN)
    assert names(found) == ["permute_dims", "full", "add"]


def test_planted_wrong_composition_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(inner: object, outer: object) -> dict[str, tuple[int, ...]]:
        return {"axes": (1, 2, 0)}

    monkeypatch.setitem(vars(simplify_movement)["_MERGES"], "permute_dims", wrong)
    assert_caught(
        of_x(lambda x: x.permute_dims(1, 2, 0).permute_dims(1, 2, 0), f32[3, 3, 3]),
        SimplifyMovement(),
    )
