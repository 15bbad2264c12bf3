"""Searches replayed on recorded landscapes: how many trials they need."""

import statistics
from math import comb

import pytest

from tests.depth import DEEP, count
from tilewright.autotune.landscape import GOOD, Landscape, shipped, similar_to
from tilewright.autotune.records import point_text
from tilewright.autotune.strategy import proposer

TRIALS = 64
SEEDS = count(5, 20)


def good_points(landscape: Landscape) -> int:
    ratios = [p.ratio for p in landscape.points if p.ratio is not None]
    return sum(ratio * GOOD <= min(ratios) for ratio in ratios)


def random_median(landscape: Landscape) -> int:
    """Trials in which drawing without repetition meets a good point, in half of the cases."""
    bad, points = len(landscape.points) - good_points(landscape), len(landscape.points)
    return next(n for n in range(1, points) if comb(bad, n) / comb(points, n) <= 0.5)


def test_there_are_enough_and_they_are_hard() -> None:
    assert sum(random_median(landscape) >= 40 for landscape in shipped()) >= 6
    for landscape in shipped():
        assert len(landscape.points) >= 1000, landscape.name
        assert 0 < landscape.noise < 0.03, landscape.name
        default = landscape.results()[point_text(landscape.default)].ratio
        assert default == pytest.approx(1.0, abs=1e-4), landscape.name


@pytest.mark.parametrize("landscape", shipped(), ids=lambda landscape: landscape.name)
def test_a_search_needs_half_the_trials_of_chance(landscape: Landscape) -> None:
    others = [other for other in shipped() if other is not landscape]
    similar = similar_to(landscape.family, others)
    needed = [
        landscape.trials_needed(
            proposer(landscape.space(), "guided", seed, landscape.traits, similar), TRIALS, seed
        )
        for seed in range(SEEDS)
    ]
    median = statistics.median(needed)
    assert median <= TRIALS, needed
    assert median <= random_median(landscape) / 2, needed


@pytest.mark.skipif(not DEEP, reason="a slow way to see what `random_median` says")
def test_chance_needs_what_is_reckoned() -> None:
    landscape = shipped()[0]
    needed = [
        landscape.trials_needed(proposer(landscape.space(), "random", seed), 1000, seed)
        for seed in range(100)
    ]
    assert statistics.median(needed) == pytest.approx(random_median(landscape), rel=0.4)
