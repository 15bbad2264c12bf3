"""What is proposed: legal, new, and better than by chance where the space has a slope."""

import random
import statistics

import pytest

from tilewright.autotune.interval import median_interval
from tilewright.autotune.propose import everything, in_order
from tilewright.autotune.records import Result, point_text
from tilewright.autotune.strategy import Strategy, proposer
from tilewright.codegen.space import OneOf, Point, PowerOfTwo, Space


def too_large(point: Point) -> str | None:
    a, b = point["a"], point["b"]
    assert isinstance(a, int)
    assert isinstance(b, int)
    return "it is too large" if a * b > 200 else None


SPACE = Space(
    "test",
    (OneOf("a", tuple(range(12)), 6), PowerOfTwo("b", 2, 64, 8), OneOf("c", ("x", "y"), "x")),
    too_large,
)


def ratio(point: Point) -> float:
    a, b = point["a"], point["b"]
    assert isinstance(a, int)
    assert isinstance(b, int)
    return 0.5 + abs(a - 2) / 10 + abs(b.bit_length() - 6) / 10 + (point["c"] == "x") / 4


def best_of(strategy: Strategy, trials: int, seed: int) -> float:
    propose, known = proposer(SPACE, strategy, seed), dict[str, Result]()
    for _ in range(trials):
        point = propose(known, set())
        assert point is not None
        known[point_text(point)] = Result(ratio(point), 1.0)
    return min(r.ratio or 9 for r in known.values())


@pytest.mark.parametrize("strategy", ["guided", "tpe", "random", "neighbours"])
def test_every_legal_point_is_proposed_once(strategy: Strategy) -> None:
    legal = {point_text(p) for p in SPACE.points()} - {point_text(SPACE.default)}
    propose, known = proposer(SPACE, strategy, 0), dict[str, Result]()
    while (point := propose(known, set())) is not None:
        text = point_text(point)
        assert text in legal
        assert text not in known
        known[text] = Result(ratio(point), 1.0) if len(known) % 5 else Result(failure="it crashed")
    assert known.keys() == legal


def test_what_others_try_is_left_to_them() -> None:
    propose = everything(SPACE)
    legal = [point_text(p) for p in SPACE.points() if p != SPACE.default]
    assert propose({}, set(legal[:5])) is not None
    assert point_text(propose({}, set(legal[:5])) or {}) == legal[5]
    assert propose({}, set(legal)) is None


def test_what_is_given_comes_first() -> None:
    given: list[Point] = [{"a": 11, "b": 64, "c": "x"}, {"a": 4, "b": 4, "c": "y"}]
    propose = in_order(SPACE, given, everything(SPACE))
    assert propose({}, set()) == given[1], "the first one is not legal"
    assert propose({point_text(given[1]): Result(1.0)}, set()) == next(SPACE.points())


@pytest.mark.parametrize("strategy", ["guided", "tpe", "neighbours"])
def test_a_search_finds_more_than_chance(strategy: Strategy) -> None:
    found = [
        statistics.median(best_of(s, 20, seed) for seed in range(9)) for s in (strategy, "random")
    ]
    assert found[0] < found[1]


def test_the_interval_holds_the_median() -> None:
    draw, held = random.Random(0), 0
    for _ in range(400):
        low, high = median_interval([draw.lognormvariate(0, 1) for _ in range(9)])
        held += low <= 1 <= high
    assert 0.93 < held / 400 < 0.99
    assert median_interval([1.0, 2.0, 9.0]) == (1.0, 9.0)
    assert median_interval([*range(1, 10)]) == (2, 8)
