"""The ways to search a space, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from tilewright.autotune.guided import guided
from tilewright.autotune.propose import Proposer, anything, neighbours
from tilewright.autotune.records import Similar
from tilewright.autotune.sampled import sampled
from tilewright.autotune.traits import Traits
from tilewright.codegen.space import Space

Strategy = Literal["guided", "tpe", "cmaes", "gp", "random", "neighbours"]

DEFAULT: Final[Strategy] = "guided"
"""Needs the fewest trials on recorded landscapes (`benchmarks/sample_efficiency.py`)."""


def proposer(
    space: Space,
    strategy: Strategy,
    seed: int,
    traits: Traits | None = None,
    others: Sequence[Similar] = (),
) -> Proposer:
    """The proposer of that name; `guided` begins with what similar kernels say."""
    match strategy:
        case "guided":
            return guided(space, {} if traits is None else traits, others, seed)
        case "random":
            return anything(space, seed)
        case "neighbours":
            return neighbours(space, seed)
        case _:
            return sampled(space, strategy, seed)
