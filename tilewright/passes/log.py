"""The decision log: what fired, what was refused, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Decision:
    """One rewrite that was made or declined at one place."""

    outcome: Literal["fired", "refused"]
    rule: str
    graph: str
    anchor: str
    reason: str
    gain_bytes: int | None = None
    """Predicted traffic saved per call at the symbols' upper bounds; None where not predicted."""

    def __str__(self) -> str:
        gain = "" if self.gain_bytes is None else f" (saves {self.gain_bytes:,} bytes)"
        return f"{self.outcome:7} {self.rule} at {self.graph}/{self.anchor}: {self.reason}{gain}"


@dataclass
class DecisionLog:
    """Decisions in the order they were taken."""

    decisions: list[Decision] = field(default_factory=list[Decision])

    def fired(
        self, rule: str, graph: str, anchor: str, reason: str, gain_bytes: int | None = None
    ) -> None:
        """Records a rewrite."""
        self.decisions.append(Decision("fired", rule, graph, anchor, reason, gain_bytes))

    def refused(self, rule: str, graph: str, anchor: str, reason: str) -> None:
        """Records why a rewrite that could have matched did not fire."""
        self.decisions.append(Decision("refused", rule, graph, anchor, reason))

    def of_rule(self, rule: str) -> Iterator[Decision]:
        """The decisions of one rule."""
        return (d for d in self.decisions if d.rule == rule)
