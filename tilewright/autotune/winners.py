"""Schedules that won on machines of known targets, and ship with the package.

Each file of the folder is what `tilewright tune export --won` writes. Only its winning schedules
count: a choice of a plan belongs to one program, and would seldom be met.

A shipped point decides how fast a kernel is, and never what it computes: it was held to the
reference where it won, and the space of the region that is compiled must take it as legal, else the
default is taken. So the versions of the tools that it was measured with are not asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path
from typing import Final

from tilewright.autotune.rows import Row, read_file
from tilewright.codegen.compiler import Options
from tilewright.codegen.space import Schedules
from tilewright.target.cpu import resolve

FOLDER: Final = Path(__file__).with_name("winners")


def shipped_winners() -> tuple[Row, ...]:
    """All schedules that ship. Raises RecordsUnreadable for a file that was damaged."""
    return _read(FOLDER)


@functools.cache
def _read(folder: Path) -> tuple[Row, ...]:
    found = (row for file in sorted(folder.glob("*.json")) for row in read_file(file).rows)
    return tuple(row for row in found if row.won and row.kind == "schedule")


def with_shipped(options: Options, searched: AbstractSet[tuple[str, str]] = frozenset()) -> Options:
    """The options of a compilation with the schedules that ship for its very target.

    What the options say themselves stays. searched: regions and shape classes that were searched on
    this machine: where nothing won, the default is what is best here.
    """
    target = str(resolve(options.target))
    rows = [row for row in shipped_winners() if row.target == target]
    points = {(row.subject, row.shapes): row.candidate for row in rows}
    fresh = {key: point for key, point in points.items() if key not in searched}
    return replace(options, schedules=options.schedules.over(Schedules.of(fresh, "shipped")))
