"""Kernels that take less memory, where that costs little time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tilewright.autotune.pareto import contenders
from tilewright.autotune.records import Records, Result, decoding
from tilewright.autotune.winners import with_shipped
from tilewright.codegen.compiler import Options
from tilewright.codegen.space import Point, Schedules
from tilewright.dsl.program import Program
from tilewright.target.cpu import resolve


def applied_within(
    records: Records, program: Program, options: Options, slack: float, *, shipped: bool = True
) -> Options:
    """As `Records.applied`, but with the schedule that is `preferred` for each kernel.

    Choices of the plan stay what has won. Raises what that raises.
    """
    target = str(resolve(options.target))
    with decoding(records.store):
        applied = records.applied(program, options, shipped=False)
        found = {
            place: preferred(results, applied.schedules.find(*place), slack)
            for place, results in records.measured(target).items()
        }
    points = {place: point for place, point in found.items() if point is not None}
    schedules = options.schedules.over(Schedules.of(points, "store"))
    chosen = replace(applied, schedules=schedules)
    return with_shipped(chosen, found.keys()) if shipped else chosen


def preferred(results: Mapping[str, Result], winner: Point | None, slack: float) -> Point | None:
    """Of what is at most so much slower than the winner, the one with the fewest bytes.

    slack: 0.05 is five percent, to which the high end of a ratio is held. winner, and what comes
    back: None is the default. Ties go to the winner, which stays where its bytes are not known.
    """
    found = contenders(results)
    fastest = next((c for c in found if c.point == winner), None)
    if fastest is None:
        return winner
    most = (1 + slack) * fastest.ratio
    close = [c for c in found if c.high <= most or c is fastest]
    return min(close, key=lambda c: (c.bytes, c is not fastest, c.ratio)).point
