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
    """Another function, at most `bound` away in `metric`, of the rewritten sub-graph alone."""

    metric: Literal["relative_l2", "max_abs"]
    bound: float
    basis: Literal["proved", "measured"]

    def __str__(self) -> str:
        return f"approximates({self.metric} <= {self.bound:g}, {self.basis})"


Claim = Exact | Reassociates | Approximates
EXACT = Exact()
REASSOCIATES = Reassociates()
