"""What was tried for each kernel and choice, in short."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from tilewright.autotune.records import failure_class
from tilewright.codegen.space import Point

if TYPE_CHECKING:
    from tilewright.autotune.history import History

SHORT: Final = 12
"""Digits of a region's hash in the name of its kernel."""


@dataclass(frozen=True, slots=True)
class Row:
    """A subject in short: `failures` by class, `gain` the default's time over the winner's."""

    name: str
    kind: str
    shapes: str
    target: str
    tools: str
    trials: int
    failures: Mapping[str, int]
    winner: Point | None
    gain: float

    @property
    def data(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def summary(history: History, names: Mapping[str, str]) -> Row:
    """One subject. `names` are kernels by the short hash of their region."""
    failures = Counter(
        failure_class(c.failure or "no time") for c in history.candidates if c.ratio is None
    )
    key, won = history.key, history.winner
    return Row(
        subject_name(history, names),
        key.kind,
        key.shapes,
        key.target,
        key.tools,
        len(history.candidates),
        dict(failures.most_common()),
        None if won is None else dict(won.point),
        1 / history.ratio,
    )


def subject_name(history: History, names: Mapping[str, str]) -> str:
    """The kernel of a region, if it is known; of a plan, the choice that its candidates make."""
    short = history.key.subject[:SHORT]
    if history.key.kind == "schedule":
        return names.get(short, f"region {short}")
    choices = dict.fromkeys(name for c in history.candidates for name in c.point)
    return ", ".join(choices) or f"plan {short}"


def point_words(point: Point) -> str:
    """`kc=256, mr=6`, as `explain` writes a point."""
    return ", ".join(f"{name}={value}" for name, value in sorted(point.items()))


def short_names(kernels: Sequence[str]) -> dict[str, str]:
    """Kernels by the hash that ends their names."""
    return {name.rpartition("_")[2]: name for name in kernels}
