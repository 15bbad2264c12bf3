"""What a search looks for: the shortest time, the least memory, or all that is best between them.

Proposers follow one figure, the ratio of times. For other aims they are told another one in its
place: a mix of time and bytes that is drawn anew for each question, so that each point of the
Pareto set is the best one in its turn, and is searched around (ParEGO, Knowles 2006).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from math import exp, log
from typing import Final, Literal

from tilewright.autotune.pareto import Contender, contenders, pareto
from tilewright.autotune.propose import Proposer
from tilewright.autotune.records import Result, point_text
from tilewright.codegen.space import Point

Aim = Literal["latency", "memory"]
Aims = frozenset[Aim]

LATENCY: Final[Aims] = frozenset(["latency"])

_LITTLE: Final = 0.05
"""The weight of what is not aimed at: it decides between points that are alike otherwise."""
_LINE: Final = 64
"""Bytes that are added to all, since a kernel may need none."""
_WORST: Final = 2.0


def toward(propose: Proposer, aims: Aims, seed: int) -> Proposer:
    """A proposer that looks for these aims by means of one that follows the ratio."""
    if aims == LATENCY:
        return propose
    highest = 1 - _LITTLE if "latency" in aims else _LITTLE

    def proposed(known: Mapping[str, Result], busy: AbstractSet[str]) -> Point | None:
        weight = random.Random(f"{seed}/{len(known)}/aim").uniform(_LITTLE, highest)
        return propose(mixed(known, weight), busy)

    return proposed


def mixed(known: Mapping[str, Result], weight: float) -> dict[str, Result]:
    """The results with a mix in place of the ratio: `weight` of the time and the rest of memory.

    It is 1 for the default, and less for what is better. The mix is the larger one of both parts
    (Tchebycheff) and a little of their sum. Parts are logarithms; the Pareto set goes from 0 to 1
    in each. What has no known bytes counts as failed.
    """
    scale = [_range([part(c) for c in pareto(known)]) for part in _PARTS]

    def score(found: Contender) -> float:
        parts = [
            share * (part(found) - low) / (high - low)
            for share, part, (low, high) in zip((weight, 1 - weight), _PARTS, scale, strict=True)
        ]
        return max(parts) + _LITTLE * sum(parts)

    told = {text: replace(r, ratio=None) for text, r in known.items()}
    everything = contenders(known)
    for found in everything[1:]:
        assert found.point is not None
        text, more = point_text(found.point), score(found) - score(everything[0])
        told[text] = replace(known[text], ratio=exp(min(more, _WORST)))
    return told


def _time(found: Contender) -> float:
    return log(found.ratio)


def _memory(found: Contender) -> float:
    return log(found.bytes + _LINE)


_PARTS: Final = (_time, _memory)


def _range(values: list[float]) -> tuple[float, float]:
    """The least and the largest, at least so far apart that noise is little."""
    low = min(values, default=0.0)
    return low, max(max(values, default=0.0), low + _LITTLE)
