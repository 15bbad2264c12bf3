"""Time and memory together: what no other beats in both, what to take, and where to look."""

import random
from collections.abc import Mapping
from dataclasses import replace

import pytest

from tilewright.autotune.aims import LATENCY, Aims, mixed, toward
from tilewright.autotune.pareto import contenders, pareto
from tilewright.autotune.prefer import preferred
from tilewright.autotune.propose import Proposer, neighbours
from tilewright.autotune.records import Result, point_text
from tilewright.autotune.strategy import Strategy, proposer
from tilewright.codegen.space import OneOf, Point, Space, integer

DEFAULT_BYTES = 1000
BOTH: Aims = frozenset({"latency", "memory"})
MEMORY: Aims = frozenset({"memory"})


def result(
    ratio: float,
    taken: int | None,
    default: int = DEFAULT_BYTES,
    low: float = 0.99,
    high: float = 1.01,
) -> Result:
    """A result whose interval reaches from `low` to `high` times its ratio."""
    return Result(ratio, 1.0, None, low * ratio, high * ratio, taken, default)


def known(**results: Result) -> dict[str, Result]:
    return {point_text({"name": name}): found for name, found in results.items()}


def names(results: Mapping[str, Result]) -> list[object]:
    return ["default" if c.point is None else c.point["name"] for c in pareto(results)]


def test_the_front_is_what_no_other_beats_in_both() -> None:
    found = known(
        fast=result(0.5, 3000),
        between=result(0.8, 1500),
        beaten=result(0.85, 1500),
        also_beaten=result(0.8, 2000),
        small=result(1.5, 200),
        large_and_slow=result(1.5, 2000),
        wrong=Result(failure="wrong: 1 of 2", bytes=1, default_bytes=DEFAULT_BYTES),
        unknown=result(0.4, None),
    )
    assert names(found) == ["fast", "between", "default", "small"]


@pytest.mark.parametrize(
    ("rival", "front"),
    [
        (result(1.0, DEFAULT_BYTES), ["default"]),
        (result(0.9, DEFAULT_BYTES, high=1.2), ["default"]),  # by luck, perhaps
        (result(0.98, DEFAULT_BYTES, high=1.001), ["default"]),  # by too little
        (result(0.9, DEFAULT_BYTES), ["rival"]),
        (result(1.02, DEFAULT_BYTES - 1), ["rival"]),
        (result(0.98, DEFAULT_BYTES + 1), ["default"]),
        (result(1.2, DEFAULT_BYTES - 1, low=0.8), ["default", "rival"]),
        (result(1.2, DEFAULT_BYTES - 1), ["default", "rival"]),
        (Result(0.9, bytes=DEFAULT_BYTES, default_bytes=DEFAULT_BYTES), ["rival"]),
    ],
)
def test_ties_go_to_the_default(rival: Result, front: list[str]) -> None:
    assert names(known(rival=rival)) == front


def test_the_front_is_that_of_the_definition() -> None:
    draw = random.Random(0)
    for _ in range(50):
        found = known(
            **{
                f"c{number}": result(
                    draw.choice((0.5, 0.7, 0.9, 1.0, 1.4)), draw.randrange(6) * 400
                )
                for number in range(draw.randrange(1, 12))
            }
        )
        everything = {(c.time, c.bytes) for c in contenders(found)}
        kept = {
            (t, b)
            for t, b in everything
            if not any(o != (t, b) and o[0] <= t and o[1] <= b for o in everything)
        }
        assert {(c.time, c.bytes) for c in pareto(found)} == kept
        assert len(pareto(found)) == len(kept), "of equal ones there is one"


def test_nothing_is_compared_without_bytes_or_with_those_of_other_threads() -> None:
    assert pareto({}) == []
    assert pareto(known(a=Result(0.5, 1.0))) == []
    other = replace(result(0.1, 4), default_bytes=4000)
    assert names(known(a=result(0.5, 500), b=result(0.4, 600), other=other)) == ["b", "a"]


@pytest.mark.parametrize(
    ("slack", "taken"), [(0.0, "winner"), (0.05, "winner"), (0.1, "near"), (0.6, "small")]
)
def test_what_is_preferred_has_the_fewest_bytes_within_the_slack(slack: float, taken: str) -> None:
    found = known(
        winner=result(0.8, 3000),
        near=result(0.83, 1500),  # up to 0.838, which is 1.048 of the winner's time
        noisy=result(0.83, 100, high=2.0),
        small=result(1.2, 200),
    )
    found[point_text({"name": "near"})] = replace(found[point_text({"name": "near"})], high=0.85)
    chosen = preferred(found, {"name": "winner"}, slack)
    assert chosen == {"name": taken}


def test_the_default_is_preferred_too() -> None:
    found = known(winner=result(0.96, 3000), large=result(0.97, 2000))
    assert preferred(found, {"name": "winner"}, 0.05) is None
    assert preferred(found, {"name": "winner"}, 0.03) == {"name": "large"}
    assert preferred(known(small=result(1.01, 10)), None, 0.05) == {"name": "small"}
    assert preferred(known(equal=result(0.99, DEFAULT_BYTES)), None, 0.05) is None
    untold = known(winner=Result(0.5, 1.0), small=result(0.5, 10))
    assert preferred(untold, {"name": "winner"}, 0.5) == {"name": "winner"}


SPACE = Space(
    "test",
    (OneOf("a", tuple(range(16)), 8), OneOf("b", tuple(range(16)), 8), OneOf("c", (0, 1, 2, 3), 1)),
)


def measured(point: Point) -> Result:
    """The larger a, the faster and the larger in memory; b is best at 3 and c at 3."""
    time, taken = _planted(point)
    usual, default = _planted(SPACE.default)
    return result(time / usual, taken, default)


def _planted(point: Point) -> tuple[float, int]:
    a, b, c = (integer(point[name]) for name in ("a", "b", "c"))
    return 1.2 - 0.02 * a + abs(b - 3) / 20 + (3 - c) / 16, 100 + 100 * a


def tried(propose: Proposer, trials: int) -> dict[str, Result]:
    found: dict[str, Result] = {}
    for _ in range(trials):
        point = propose(found, set())
        assert point is not None
        found[point_text(point)] = measured(point)
    return found


def test_each_point_of_the_front_is_the_best_in_its_turn() -> None:
    found = {point_text(p): measured(p) for p in SPACE.points() if p["c"] == 3}
    front = {point_text(c.point) for c in pareto(found) if c.point is not None}
    best: set[str] = set()
    for number in range(1, 100):
        mix = mixed(found, number / 100)
        best.add(min(found, key=lambda text: mix[text].ratio or 9))
    assert best <= front
    assert len(best) > 0.8 * len(front)


def test_a_mix_keeps_what_has_failed_as_known() -> None:
    found = known(a=result(0.5, 500), b=Result(failure="it crashed"), c=Result(0.5, 1.0))
    mix = mixed(found, 0.5)
    assert mix.keys() == found.keys()
    assert [r.ratio is None for r in mix.values()] == [False, True, True]
    assert mixed(known(c=Result(0.5, 1.0)), 0.5)[point_text({"name": "c"})].ratio is None


@pytest.mark.parametrize("strategy", ["neighbours", "guided"])
def test_a_search_with_two_aims_finds_more_of_the_front(strategy: Strategy) -> None:
    fast, both, small = (
        [tried(toward(proposer(SPACE, strategy, seed), aims, seed), 40) for seed in range(3)]
        for aims in (LATENCY, BOTH, MEMORY)
    )
    assert sum(map(_covered, both)) > 1.05 * sum(map(_covered, fast))
    assert [min(r.bytes or 0 for r in found.values()) for found in small] == [100] * 3


def _covered(found: Mapping[str, Result]) -> float:
    """The part of the times and bytes that the front beats (its hypervolume)."""
    area, edge = 0.0, 1700.0
    for place in sorted(pareto(found), key=lambda c: c.time):
        area += max(0.0, 1.5 - place.time) * max(0.0, edge - place.bytes)
        edge = min(edge, place.bytes)
    return area


def test_latency_alone_is_searched_as_ever() -> None:
    propose = neighbours(SPACE, 0)
    assert toward(propose, LATENCY, 0) is propose
