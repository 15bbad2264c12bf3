"""Factorizations hold to what defines them, whatever library computed them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.depth import count
from tests.dsl.tracing import traced
from tilewright.dsl import factor
from tilewright.dsl.builder import graph
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import f32, f64
from tilewright.dsl.errors import PlacementError
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.ops.linalg import eigh, qr
from tilewright.dsl.placement import Mesh, Partial, Placement, Shard
from tilewright.dsl.program import program
from tilewright.dsl.ranks import run_ranks
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.text import parse_program, print_program
from tilewright.dsl.tolerance import check, tolerances

Array = NDArray[Any]
SIZES = [1, 2, 3, 7, 24]


def drawn(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def symmetric(n: int, seed: int) -> Array:
    x = drawn(n, n, seed=seed)
    return x + x.T


@pytest.mark.parametrize("n", SIZES)
def test_eigenvectors_are_turned_by_their_matrix_into_multiples(n: int) -> None:
    for seed in range(count(3, 100)):
        x = symmetric(n, seed)
        values, vectors = factor.eigh(x)
        np.testing.assert_allclose(x @ vectors, vectors * values, atol=1e-12 * n)
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(n), atol=1e-13 * n)
        assert np.all(np.diff(values) >= 0)
        largest = np.argmax(np.abs(vectors), axis=0)
        assert np.all(vectors[largest, np.arange(n)] > 0)


def test_only_the_lower_triangle_is_read() -> None:
    x = symmetric(5, 0)
    wrong = np.tril(x) + np.triu(np.full((5, 5), np.nan), 1)
    for found, wanted in zip(factor.eigh(wrong), factor.eigh(x), strict=True):
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize(("m", "n"), [(1, 1), (3, 3), (9, 4), (30, 1), (24, 23), (3, 0)])
def test_qr_is_a_basis_and_its_triangle(m: int, n: int) -> None:
    for seed in range(count(3, 100)):
        x = drawn(m, n, seed=seed)
        q, r = factor.qr(x)
        np.testing.assert_allclose(q @ r, x, atol=1e-13 * m)
        np.testing.assert_allclose(q.T @ q, np.eye(n), atol=1e-13 * m)
        assert np.array_equal(r, np.triu(r))
        assert not np.signbit(np.tril(r, -1)).any()
        assert np.all(np.diagonal(r) > 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_makes_its_own_matrix_nan(bad: float) -> None:
    x = np.stack([symmetric(4, seed) for seed in range(3)])
    x[1, 2, 0] = bad
    for function in (factor.eigh, factor.qr):
        for found, wanted in zip(function(x), function(np.delete(x, 1, 0)), strict=True):
            assert np.isnan(found[1]).all()
            assert np.array_equal(np.delete(found, 1, 0), wanted)


def test_what_does_not_converge_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(x: Array, UPLO: str) -> None:
        raise np.linalg.LinAlgError("Eigenvalues did not converge")

    monkeypatch.setattr(np.linalg, "eigh", fails)
    values, vectors = factor.eigh(symmetric(3, 0))
    assert np.isnan(values).all()
    assert vectors.shape == (3, 3)
    assert np.isnan(vectors).all()


def test_results_are_rounded_once() -> None:
    x = symmetric(6, 1).astype(np.float32)
    made = traced(lambda x: eigh(x), f32[6, 6])
    exact = factor.eigh(x.astype(np.float64))
    for found, wanted in zip(evaluate(made, {"x0": x}).values(), exact, strict=True):
        assert found.dtype == np.float32
        assert np.array_equal(found, wanted.astype(np.float32))


@graph(x=f64[dim("n", 1, 8), 5, 5])
def both(x: Tensor) -> dict[str, Tensor]:
    values, vectors = eigh(x)
    q, r = qr(vectors)
    return {"values": values, "q": q, "r": r}


def test_text_round_trip() -> None:
    made = program("p", both).program
    assert parse_program(print_program(made)) == made


# --- on a mesh ------------------------------------------------------------------------------------

MESH = Mesh.of(tp=2)


@pytest.mark.parametrize("function", [eigh, qr])
def test_ranks_factor_their_part_of_a_batch(function: Any) -> None:
    @graph(x=f64[4, 3, 3].with_placement(Placement.of(tp=Shard(0))))
    def each(x: Tensor) -> tuple[Tensor, Tensor]:
        return function(x)

    made = each.graph(MESH)
    first, second = (v.tensor.placement for v in made.output_values)
    assert first == second == Placement.of(tp=Shard(0))
    x = drawn(4, 3, 3)
    found, wanted = run_ranks(made, MESH, {"x": x}), evaluate(made, {"x": x})
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("place", [Shard(1), Shard(2), Partial("sum")])
@pytest.mark.parametrize("function", [eigh, qr])
def test_a_matrix_is_whole(function: Any, place: Any) -> None:
    @graph(x=f64[4, 4, 4].with_placement(Placement.of(tp=place)))
    def each(x: Tensor) -> tuple[Tensor, Tensor]:
        return function(x)

    with pytest.raises(PlacementError, match=r"needs whole|is not linear"):
        each.graph(MESH)


# --- what checks allow ----------------------------------------------------------------------------


def close_pair(n: int, gap: float) -> Array:
    """A matrix with two eigenvalues `gap` apart, and the rest far from them."""
    basis = factor.qr(drawn(n, n, seed=3))[0]
    values = np.arange(1.0, n + 1)
    values[1] = values[0] + gap
    return (basis * values) @ basis.T


def in_float32(x: Array) -> Array:
    """Eigenvectors by a library that computes in float32, with our signs."""
    vectors = torch.linalg.eigh(torch.from_numpy(x.astype(np.float32)))[1].numpy()
    largest = np.argmax(np.abs(vectors), axis=0)
    return np.where(vectors[largest, np.arange(len(x))] < 0, -vectors, vectors)


@pytest.mark.parametrize("n", [4, 12])
@pytest.mark.parametrize("gap", [1.0, 1e-3, 1e-6, 0.0])
def test_an_honest_library_of_float32_passes(n: int, gap: float) -> None:
    x = close_pair(n, gap).astype(np.float32)
    made = traced(lambda x: eigh(x)[1], f32[n, n])
    ideal = evaluate(made, {"x0": x}, reading="ideal")["out"]
    allowed = tolerances(made, {"x0": x})["out"]
    assert check(in_float32(x), ideal, allowed) is None
    if gap == 0.0:
        assert np.abs(in_float32(x) - ideal).max() > 0.01, "else this shows nothing"


def test_a_wrong_vector_is_caught() -> None:
    x = close_pair(6, 1.0).astype(np.float32)
    made = traced(lambda x: eigh(x)[1], f32[6, 6])
    ideal = evaluate(made, {"x0": x}, reading="ideal")["out"]
    allowed = tolerances(made, {"x0": x})["out"]
    turned = in_float32(x)
    assert check(turned, ideal, allowed) is None
    turned[:, 3] *= -1
    assert check(turned, ideal, allowed) is not None
