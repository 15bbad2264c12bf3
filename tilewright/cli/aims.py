"""How a command line names aims: `latency,memory`, and `memory:5%` for what is preferred."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, cast

from tilewright.dsl.errors import InvalidAim, InvalidPreference

if TYPE_CHECKING:
    from tilewright.autotune.aims import Aim, Aims

_AIMS: Final = ("latency", "memory")
_PREFERENCE: Final = re.compile(r"memory:(\d{1,3}(?:\.\d{1,6})?)%", re.ASCII)


def read_aims(text: str) -> Aims:
    """The aims of `latency`, `memory` or `latency,memory`. Raises InvalidAim."""
    found = text.split(",")
    if len(set(found)) < len(found) or not set(found) <= set(_AIMS):
        raise InvalidAim(
            f"a search cannot aim at {text[:40]!r}", fix="write latency, memory or latency,memory"
        )
    return frozenset(cast("list[Aim]", found))


def read_slack(text: str) -> float:
    """The 0.05 of `memory:5%`. Raises InvalidPreference."""
    found = _PREFERENCE.fullmatch(text)
    if found is None:
        raise InvalidPreference(
            f"{text[:40]!r} is nothing to prefer",
            fix="write memory and how much slower a kernel may be for it: memory:5%",
        )
    return float(found[1]) / 100
