"""Records as a file: its schema, read and written without the packages that a store needs.

Two forms are read. The second also says what the subjects are, by which similar ones are found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from tilewright.dsl.errors import RecordsUnreadable
from tilewright.files import replace_file

Kind = Literal["schedule", "plan"]

_LARGEST: Final = 1 << 28


class Row(Struct, frozen=True, forbid_unknown_fields=True):
    """One candidate; `ratio` and `seconds`, or why it has neither."""

    kind: Kind
    subject: str
    shapes: str
    target: str
    tools: str
    candidate: dict[str, bool | int | str]
    ratio: float | None = None
    seconds: float | None = None
    low: float | None = None
    high: float | None = None
    failure: str | None = None
    won: bool = False
    bytes: int | None = None
    default_bytes: int | None = None

    def __post_init__(self) -> None:
        numbers = (self.ratio, self.seconds, self.low, self.high)
        if not all(n is None or (math.isfinite(n) and n > 0) for n in numbers):
            raise ValueError("a time is not positive and finite")
        if not all(n is None or 0 <= n < 1 << 63 for n in (self.bytes, self.default_bytes)):
            raise ValueError("a number of bytes is none")
        if (self.ratio is None) == (self.failure is None):
            raise ValueError("a candidate has either a ratio or a failure")
        if self.won and self.ratio is None:
            raise ValueError("a candidate that failed has won")


_Doublings = Annotated[float, Meta(ge=0, le=64)]
_Trait = Annotated[str, Meta(max_length=40)]


class Described(Struct, frozen=True, forbid_unknown_fields=True):
    """What the candidates of one key are for: a family of spaces, and traits (`traits.py`)."""

    kind: Kind
    subject: str
    shapes: str
    target: str
    tools: str
    family: Annotated[str, Meta(max_length=100)]
    traits: Annotated[dict[_Trait, _Doublings], Meta(max_length=16)]


class File(
    Struct, frozen=True, forbid_unknown_fields=True, tag_field="form", tag="tilewright records 2"
):
    """What `tune export` writes. No more is described than has rows."""

    rows: Sequence[Row]
    subjects: Sequence[Described] = ()


class _First(
    Struct, frozen=True, forbid_unknown_fields=True, tag_field="form", tag="tilewright records 1"
):
    """What the first versions wrote: nothing says what the subjects are."""

    rows: list[Row]


def write_file(path: Path, file: File) -> None:
    """Writes a file of records; equal records give equal bytes. Raises WriteFailed."""
    replace_file(path, msgspec.json.format(msgspec.json.encode(file), indent=1))


def read_file(path: Path) -> File:
    """A file that `write_file` wrote, now or in its first form. Raises RecordsUnreadable."""
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST >> 20} MB")
        found = msgspec.json.decode(path.read_bytes(), type=File | _First)
        return found if isinstance(found, File) else File(found.rows)
    except (OSError, ValueError, msgspec.DecodeError, RecursionError) as error:
        raise RecordsUnreadable(
            f"these are no records: {error}",
            where=str(path),
            fix="give a file that `tilewright tune export` wrote",
        ) from error
