"""What a pass promises to preserve. Every fired rewrite is held to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Exact:
    """Bit for bit the same in the faithful reading."""

    def __str__(self) -> str:
        return "exact"


@dataclass(frozen=True, slots=True)
class Reassociates:
    """The same real function; roundings may differ, within the derived tolerance."""

    def __str__(self) -> str:
        return "reassociates"


@dataclass(frozen=True, slots=True)
class Approximates:
    """Another function, at most `bound` away in `metric`, of the rewritten sub-graph alone.

    relative_l2: |b - a| / |a| in the Euclidean norm. max_abs: the largest |b - a|.
    relative_max: the largest |b - a|, over the largest |a|.
    """

    metric: Literal["relative_l2", "relative_max", "max_abs"]
    bound: float
    basis: Literal["proved", "measured"]

    def __str__(self) -> str:
        return f"approximates({self.metric} <= {self.bound:g}, {self.basis})"


Claim = Exact | Reassociates | Approximates

FINE = 2.0**-22
"""What four roundings of f32 add up to. Sums of products are allowed more than that."""


def changes_answers(claim: Claim) -> bool:
    """Whether results may leave the tolerances that are derived from roundings alone."""
    return isinstance(claim, Approximates) and claim.bound > FINE


EXACT = Exact()
REASSOCIATES = Reassociates()
