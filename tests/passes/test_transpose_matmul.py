"""matmul(x, permute_dims(w, [.., i, j])) -> matmul(x, permute_dims(w, [.., j, i])), flag turned."""

import pytest

from tests.passes.rewriting import assert_caught, names, only, rewritten
from tilewright.dsl.builder import graph
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import f32
from tilewright.dsl.ops.matmul import matmul
from tilewright.dsl.tensor import Tensor
from tilewright.passes import transpose_matmul
from tilewright.passes.dce import Dce
from tilewright.passes.transpose_matmul import TransposeMatmul

N = dim("n", 1, 64)
CLEAN = (TransposeMatmul(), Dce())


@graph(x=f32[N, 3], w=f32[4, 3])
def right(x: Tensor, w: Tensor) -> Tensor:
    return x @ w.T


@graph(x=f32[3, N], w=f32[4, 3])
def both(x: Tensor, w: Tensor) -> Tensor:
    return x.T @ w.T


@graph(x=f32[2, N, 3], w=f32[2, 4, 3])
def flagged(x: Tensor, w: Tensor) -> Tensor:
    return matmul(x, w.T.T.T, transpose_b=False) + matmul(x, w, transpose_b=True)


@graph(q=f32[2, N, 4, 3], k=f32[2, N, 4, 3])
def heads(q: Tensor, k: Tensor) -> Tensor:
    return q.permute_dims(0, 2, 1, 3) @ k.permute_dims(0, 2, 3, 1)


@graph(x=f32[N, 3], w=f32[4, 3])
def shared(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    turned = w.T
    return x @ turned, turned


def test_transposed_weight_is_read_as_it_lies() -> None:
    """matmul(x, permute_dims(w, [1, 0])) -> matmul(x, w, transpose_b)"""
    found = rewritten(right, *CLEAN)
    assert names(found) == ["matmul"]
    assert only(found, "matmul").attrs.bool("transpose_b")
    assert not only(found, "matmul").attrs.bool("transpose_a")


def test_both_operands() -> None:
    attrs = only(rewritten(both, *CLEAN), "matmul").attrs
    assert attrs.bool("transpose_a")
    assert attrs.bool("transpose_b")


def test_one_transpose_a_sweep() -> None:
    assert names(rewritten(flagged, *CLEAN)).count("permute_dims") == 2
    assert (
        names(rewritten(flagged, TransposeMatmul(), TransposeMatmul(), *CLEAN)).count(
            "permute_dims"
        )
        == 0
    )


def test_other_permutations_keep_their_last_dims_in_order() -> None:
    """matmul(q, permute_dims(k, [0, 2, 3, 1])) -> permute_dims(k, [0, 2, 1, 3]), transpose_b"""
    found = rewritten(heads, *CLEAN)
    axes = [node.attrs.ints("axes") for node in found.nodes if node.op == "permute_dims"]
    assert axes == [(0, 2, 1, 3), (0, 2, 1, 3)]
    assert only(found, "matmul").attrs.bool("transpose_b")


def test_transpose_that_others_read_stays() -> None:
    assert names(rewritten(shared, *CLEAN)) == ["permute_dims", "matmul"]


@graph(x=f32[3, 3], w=f32[3, 3])
def square(x: Tensor, w: Tensor) -> Tensor:
    return x @ w.T


def test_planted_wrong_flag_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transpose_matmul, "_FLAGS", ("transpose_b", "transpose_a"))
    assert_caught(square, TransposeMatmul())
