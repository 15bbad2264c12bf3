"""The free choices of a loop. Needs no TVM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tilewright.dsl.dims import bounds
from tilewright.dsl.errors import InvalidSchedule
from tilewright.dsl.graph import Graph, Node
from tilewright.passes.kinds import is_row_reduction, loop_space
from tilewright.target.cpu import CpuIsa

Keep = Literal["none", "dear", "all"]
"""Which values that several passes over a row need are kept in scratch by the first of them."""

# Sums that do not wait for one another: an addition takes three or four cycles.
_SUMS = 4


@dataclass(frozen=True, slots=True)
class LoopSchedule:
    """`block` columns form one unit of work where rows have no reductions.

    `scratch` bytes may hold one row of what several passes need, and `keep` says which rows these
    are. A reduction along a row has `sums` vectors of its own that are combined at its end;
    `unroll` vectors are stored in one turn of the loop over columns.
    """

    block: int = 4096
    scratch: int = 1 << 17
    keep: Keep = "dear"
    sums: int = 1
    unroll: int = 1


def default_loop_schedule(body: Graph, isa: CpuIsa) -> LoopSchedule:
    """Good for every size: a reduction waits for its own sums unless it has several."""
    sums = 1
    while sums < _SUMS and 2 * sums * isa.lanes_f32 <= most_columns(body):
        sums *= 2
    return LoopSchedule(sums=sums if row_reductions(body) else 1)


def row_reductions(body: Graph) -> list[Node]:
    """The reductions along the rows of a loop."""
    return [node for node in body.nodes if is_row_reduction(node)]


def most_columns(body: Graph) -> int:
    """The largest number of columns that a loop can have."""
    space = loop_space(body) or (1,)
    return bounds(space[-1])[1]


def check_loop(schedule: LoopSchedule) -> None:
    """Raise `InvalidSchedule` for sizes below 1."""
    if min(schedule.block, schedule.sums, schedule.unroll) < 1 or schedule.scratch < 0:
        raise InvalidSchedule(f"{schedule}: sizes start at 1")
