"""Sampling: which tokens may be drawn, and how often."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.depth import count
from tilewright.dsl.errors import InvalidLogits, InvalidSampling
from tilewright.runtime.sampling import Sampler, Sampling, _remaining

LOGITS = np.log(np.array([0.05, 0.4, 0.1, 0.25, 0.2], np.float32))


def shares(sampling: Sampling, draws: int) -> NDArray[np.float64]:
    sampler = Sampler(sampling)
    picked = [sampler.pick(LOGITS) for _ in range(draws)]
    return np.bincount(picked, minlength=LOGITS.size) / draws


def tempered(temperature: float, kept: list[int]) -> NDArray[np.float64]:
    weights = np.zeros(LOGITS.size)
    weights[kept] = np.exp(LOGITS[kept].astype(np.float64) / temperature)
    return weights / weights.sum()


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(1.0), [0, 1, 2, 3, 4]),
        (Sampling(0.5), [0, 1, 2, 3, 4]),
        (Sampling(3.0, seed=4), [0, 1, 2, 3, 4]),
        (Sampling(1.0, top_k=2), [1, 3]),
        (Sampling(1.0, top_k=9), [0, 1, 2, 3, 4]),
        (Sampling(1.0, top_p=0.6), [1, 3]),
        (Sampling(1.0, top_p=0.7), [1, 3, 4]),
        (Sampling(2.0, top_k=3, top_p=0.5), [1, 3]),
        (Sampling(1.0, top_p=1e-9), [1]),
        (Sampling(1.0, top_k=1), [1]),
    ],
)
def test_tokens_come_as_often_as_they_should(sampling: Sampling, kept: list[int]) -> None:
    draws = count(4000, 100_000)
    wanted = tempered(sampling.temperature, kept)
    # Five standard deviations: a right sampler fails once in a million runs, and seeds are fixed.
    allowed = 5 * np.sqrt(wanted * (1 - wanted) / draws)
    assert (np.abs(shares(sampling, draws) - wanted) <= allowed).all()


def test_greedy_takes_the_first_of_equals() -> None:
    assert Sampler(Sampling()).pick(np.array([1, 3, 2, 3], np.float32)) == 1
    assert Sampler(Sampling()).pick(np.array([-np.inf, -5, -np.inf], np.float32)) == 1


def test_equal_seeds_give_equal_tokens() -> None:
    def drawn(seed: int) -> list[int]:
        sampler = Sampler(Sampling(1.0, seed=seed))
        return [sampler.pick(LOGITS) for _ in range(50)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


@given(
    st.lists(st.integers(-4, 4), min_size=1, max_size=40),
    st.integers(0, 45),
    st.floats(0.01, 1.0),
    st.sampled_from([0.3, 1.0, 2.5]),
)
def test_what_remains_is_what_a_full_sort_keeps(
    values: list[int], top_k: int, top_p: float, temperature: float
) -> None:
    logits = np.array(values, np.float32)
    ids, weights = _remaining(
        logits, float(logits.max()), Sampling(temperature, top_k=top_k, top_p=top_p)
    )
    order = np.argsort(-logits, kind="stable")[: top_k or None]
    chances = np.exp((logits[order].astype(np.float64) - logits.max()) / temperature)
    cumulated = np.cumsum(chances / chances.sum())
    if top_p < 1:
        # Rounding may put a sum on either side of the limit; one token more or less is no fault.
        most = int((cumulated < top_p + 1e-9).sum()) + 1
        least = int((cumulated < top_p - 1e-9).sum()) + 1
        assert least <= ids.size <= most
        assert ids.tolist() == order[: ids.size].tolist()
    else:
        assert sorted(ids.tolist()) == sorted(order.tolist())
    assert np.allclose(weights, np.exp((logits[ids] - logits.max()) / temperature))


def test_impossible_tokens_are_never_drawn() -> None:
    logits = np.full(50, -np.inf, np.float32)
    logits[7] = logits[31] = 2.0
    sampler = Sampler(Sampling(5.0, top_p=0.999))
    assert {sampler.pick(logits) for _ in range(200)} == {7, 31}


@pytest.mark.parametrize("logits", [[1, np.nan, 2], [-np.inf, -np.inf], [np.inf, 1]])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_say_nothing_are_an_error(logits: list[float], temperature: float) -> None:
    with pytest.raises(InvalidLogits):
        Sampler(Sampling(temperature)).pick(np.array(logits, np.float32))


@pytest.mark.parametrize(
    "options",
    [{"temperature": -1.0}, {"temperature": float("nan")}, {"temperature": float("inf")},
     {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_p": float("nan")}, {"seed": -1}],
)  # fmt: skip
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(InvalidSampling):
        Sampling(**options)  # pyright: ignore[reportArgumentType]  # wrong on purpose
