"""Where we stand beside the best peer: the ratio, its interval, the means and the losses."""

import pytest

from benchmarks.harness import Measured
from benchmarks.summary import print_summary, standing, standings

OURS = Measured("a", "tilewright", (1.0, 2.0, 1.0))


def test_drift_that_slows_both_alike_cancels() -> None:
    peer = Measured("a", "peer", (1.5, 3.0, 1.5))
    found = standing(OURS, peer)
    assert found.speedup == 1.5
    assert found.interval == (1.5, 1.5)


def test_the_interval_holds_the_ratio_and_grows_with_the_noise() -> None:
    blocks = [1.0, 1.1, 0.9, 1.3, 0.8, 1.0, 1.05]
    found = standing(Measured("a", "tilewright", (1.0,) * 7), Measured("a", "peer", tuple(blocks)))
    assert found.interval is not None
    low, high = found.interval
    assert 0.8 <= low < found.speedup == 1.0 < high <= 1.3


def test_one_round_has_no_interval() -> None:
    found = standing(Measured("a", "tilewright", (1.0,)), Measured("a", "peer", (2.0,)))
    assert found.interval is None


def test_the_best_peer_is_the_fastest_of_the_same_case_and_none_of_ours() -> None:
    results = [
        OURS,
        Measured("a", "tilewright-f32", (0.1,) * 3),
        Measured("a", "slow", (3.0,) * 3),
        Measured("a", "fast", (2.0,) * 3),
        Measured("b", "fast", (0.1,) * 3),
        Measured("b", "tilewright", (0.2,) * 3),
        Measured("c", "tilewright", (0.2,) * 3),
    ]
    assert [(s.case, s.peer) for s in standings(results)] == [("a", "fast"), ("b", "fast")]
    assert [s.case for s in standings(results, "slow")] == ["a"]


def test_means_and_losses_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    results = [
        Measured("won", "tilewright", (1.0,) * 4), Measured("won", "peer", (2.0,) * 4),
        Measured("lost", "tilewright", (1.0,) * 4), Measured("lost", "peer", (0.5,) * 4),
        Measured("open", "tilewright", (1.0,) * 4), Measured("open", "peer", (0.5, 1.0, 1.0, 1.0)),
    ]  # fmt: skip
    print_summary(results)
    printed = capsys.readouterr().out
    assert "geometric mean over 3 cases: 1.00x of the best peer" in printed
    assert "geometric mean over 3 cases: 1.00x of peer" in printed
    below, _, reaching = printed.partition("not below")
    assert "0.97x: 1 cases\n  lost " in below
    assert reaching.count("\n  open ") == 1
    assert "won" not in reaching
