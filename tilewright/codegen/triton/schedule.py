"""Block sizes of kernels, with defaults that are always legal."""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.dsl.dims import Dim, bounds
from tilewright.dsl.dtypes import DType
from tilewright.target.spec import Target


@dataclass(frozen=True, slots=True)
class LoopSchedule:
    """A program holds `block` elements, or whole rows of up to `row` where rows are reduced.

    Longer rows are read in pieces of `block`.
    """

    block: int = 1024
    row: int = 16384
    warps: int = 4


@dataclass(frozen=True, slots=True)
class MatmulSchedule:
    """A program computes `rows` x `columns` sums, `inner` products at a time.

    Programs that run side by side share their operands in bands of `band` tiles of rows.
    """

    rows: int = 128
    columns: int = 128
    inner: int = 64
    band: int = 8
    warps: int = 8
    stages: int = 3


def power(n: int) -> int:
    """The least power of two that is not less than n."""
    return 1 << max(n - 1, 0).bit_length()


def loop_tile(rows: Dim, width: Dim, schedule: LoopSchedule, *, whole: bool) -> tuple[int, int]:
    """Rows and columns of a program's tile; `whole` rows where they are reduced and fit."""
    widest = bounds(width)[1]
    fits = whole and widest <= schedule.row
    columns = power(widest) if fits else min(power(widest), schedule.block)
    return min(power(bounds(rows)[1]), max(schedule.block // columns, 1)), columns


def default_matmul(rows: Dim, columns: Dim, dtype: DType, target: Target) -> MatmulSchedule:
    """Tiles of the tensor cores' size, or smaller ones for f32, whose products are scalar."""
    whole = MatmulSchedule() if dtype.bits < 32 else MatmulSchedule(64, 64, 32, warps=4)
    m, n = (
        max(16, min(block, power(bounds(size)[1])))
        for block, size in ((whole.rows, rows), (whole.columns, columns))
    )
    warps = whole.warps if m * n > 64 * 64 else 4
    # Two stages are what CDNA's smaller shared memory holds.
    stages = 2 if target.kind == "hip" else whole.stages
    return MatmulSchedule(m, n, whole.inner, whole.band, warps, stages)
