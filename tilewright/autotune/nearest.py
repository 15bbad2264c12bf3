"""What to try first: schedules that won for the same kernel elsewhere, the nearest machines first.

The same region on another processor, or with other versions of the tools, has a space of its own;
but what is a good block there is a good guess here, and a guess costs one trial.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from tilewright.autotune.exchange import key_of
from tilewright.autotune.records import RecordKey, Records, point_text
from tilewright.autotune.winners import shipped_winners
from tilewright.codegen.space import Point, Space
from tilewright.dsl.errors import UnknownTarget, UnknownTargetFeature
from tilewright.target.nearness import Apart, apart
from tilewright.target.spec import parse_target

_GUESSES: Final = 3
"""So many of them are proposed: the nearest machine's, and two more in case it is none of ours."""


def nearest_winners(key: RecordKey, space: Space, records: Records) -> list[Point]:
    """Legal points that won under other keys of the same subject and shape class.

    Those of the nearest targets come first, at equal distance what the store knows, then what
    ships; each once.
    """
    shipped = [(key_of(row), row.candidate) for row in shipped_winners()]
    found = [
        (distance, place, point)
        for place, (other, point) in enumerate([*records.winners(key), *shipped])
        if other != key
        and replace(other, target=key.target, tools=key.tools) == key
        and space.refusal(point) is None
        and (distance := _apart(key.target, other.target)) is not None
    ]
    found.sort(key=lambda each: each[:2])
    return list({point_text(point): point for _, _, point in found}.values())[:_GUESSES]


def _apart(ours: str, theirs: str) -> Apart | None:
    """The distance of two targets by their texts; None where a record names no target."""
    try:
        return apart(parse_target(ours), parse_target(theirs))
    except (UnknownTarget, UnknownTargetFeature):
        return None
