"""Lines that differ in numbers alone, told as one: equal layers need one line, not twenty."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from tilewright.codegen.explanation import ChoiceRecord, DecisionRecord

T = TypeVar("T")
_VARYING: Final = re.compile(r"(\bx[0-9a-f]{8}\b|\d+)")


def merged(decisions: Iterable[DecisionRecord]) -> list[DecisionRecord]:
    """Decisions in order, those of one rule and like reasons as one; `*` is what differs.

    Places are those of all, gains add up.
    """
    from msgspec.structs import replace

    found: list[DecisionRecord] = []
    for group in _alike(decisions, lambda d: d.reason, lambda d: (d.rule, d.outcome)):
        gains = [each.gain_bytes for each in group if each.gain_bytes is not None]
        reason = _starred([each.reason for each in group])
        places = [place for each in group for place in each.places]
        total = sum(gains) if gains else None
        found.append(replace(group[0], reason=reason, places=places, gain_bytes=total))
    return found


def merged_choices(choices: Iterable[ChoiceRecord]) -> list[tuple[str, int, ChoiceRecord]]:
    """Choices that were taken alike: the pattern of their ids, how many, and the first."""
    groups = _alike(choices, lambda c: c.id, lambda c: (c.taken, tuple(c.options)))
    return [(_starred([c.id for c in group]), len(group), group[0]) for group in groups]


def _alike(
    items: Iterable[T], text: Callable[[T], str], key: Callable[[T], object]
) -> Iterable[list[T]]:
    groups: dict[tuple[object, str], list[T]] = {}
    for item in items:
        groups.setdefault((key(item), _VARYING.sub("*", text(item))), []).append(item)
    return groups.values()


def _starred(texts: Sequence[str]) -> str:
    """The text that all of these are, with `*` for the numbers in which they differ."""
    columns = zip(*map(_VARYING.split, texts), strict=True)
    return "".join(words[0] if len(set(words)) == 1 else "*" for words in columns)
