"""Where we stand: our time over the best peer's in each case, with an interval, and the means."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

OURS = "tilewright"
PAR = 0.97
"""From here on a case counts as no loss."""
_CONFIDENCE = 0.95
_RESAMPLES = 9999


class Timed(Protocol):
    """One system on one case: the seconds of its blocks, which alternate with the others'."""

    @property
    def case(self) -> str: ...
    @property
    def system(self) -> str: ...
    @property
    def blocks(self) -> Sequence[float]: ...
    @property
    def seconds(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Standing:
    """How many times as fast we are as a peer on one case; no interval after one round."""

    case: str
    peer: str
    speedup: float
    interval: tuple[float, float] | None

    def __str__(self) -> str:
        low, high = self.interval or (float("nan"), float("nan"))
        shown = f"[{low:.2f} .. {high:.2f}]" if self.interval else "(no interval)"
        return f"{self.case:32s} {self.speedup:6.2f}x of {self.peer:16s} {shown}"


def standing(ours: Timed, peer: Timed) -> Standing:
    """The median of the rounds' ratios: what drifts from round to round slows both alike."""
    ratios = [theirs / mine for mine, theirs in zip(ours.blocks, peer.blocks, strict=True)]
    return Standing(ours.case, peer.system, statistics.median(ratios), _interval(ratios))


def standings(results: Sequence[Timed], peer: str | None = None) -> list[Standing]:
    """For each case that we ran, beside one peer, or beside the one that was fastest there."""
    found: list[Standing] = []
    for ours in (result for result in results if result.system == OURS):
        others = [r for r in results if r.case == ours.case and not r.system.startswith(OURS)]
        others = [r for r in others if peer in (None, r.system)]
        if others:
            found.append(standing(ours, min(others, key=lambda result: result.seconds)))
    return found


def print_summary(results: Sequence[Timed]) -> None:
    """Each case beside its best peer, the geometric means, and the cases that we lose."""
    best = standings(results)
    if not best:
        return
    print("\nour speed over the best peer's, with a 95 % interval")
    for one in best:
        print(one)
    peers = dict.fromkeys(r.system for r in results if not r.system.startswith(OURS))
    for name, cases in [("the best peer", best), *((p, standings(results, p)) for p in peers)]:
        if cases:
            mean = statistics.geometric_mean(case.speedup for case in cases)
            print(f"geometric mean over {len(cases)} cases: {mean:.2f}x of {name}")
    lost = [case for case in best if case.speedup < PAR]
    open_ = [c for c in best if c.speedup >= PAR and c.interval and c.interval[0] < PAR]
    _print_list(f"below {PAR}x", lost)
    _print_list(f"not below, but the interval reaches below {PAR}x", open_)


def _print_list(title: str, cases: Sequence[Standing]) -> None:
    print(f"{title}: {len(cases)} cases")
    for case in cases:
        print(f"  {case}")


def _interval(ratios: Sequence[float]) -> tuple[float, float] | None:
    """Of the median, by resampling the rounds (Efron's percentile bootstrap)."""
    if len(ratios) < 2:
        return None
    import numpy as np
    from scipy import stats

    found: Any = stats.bootstrap(
        (np.asarray(ratios),),
        np.median,
        confidence_level=_CONFIDENCE,
        n_resamples=_RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)
