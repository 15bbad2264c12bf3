"""The sums of values that make a block's rows, from their start to what is stored."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from tilewright.codegen.tvm import math, vector
from tilewright.codegen.tvm.attention_frame import LOWEST, Frame, Task
from tilewright.codegen.tvm.attention_mask import Reach
from tilewright.codegen.tvm.attention_operands import Row
from tilewright.codegen.tvm.attention_tile import Tile
from tilewright.codegen.tvm.emit import Expr, Index, i64


def start_rows(frame: Frame, task: Task) -> None:
    """Before any key: maxima of -inf, sums of zero."""
    kernel, lanes = frame.kernel, frame.lanes
    with kernel.loop(0, task.vectors * lanes, lanes, "row") as row:
        frame.tops.store(row, vector.splat(LOWEST, lanes))
        frame.totals.store(row, vector.splat(0.0, lanes))
    rows = task.vectors * lanes
    frame.clear(frame.sums, 0, (rows + frame.spare) * frame.width)
    if frame.spare:
        _leave_alone(frame, frame.held(rows), i64(frame.block))


def tile_sums(frame: Frame, task: Task, rows: Reach, count: Expr) -> None:
    """sums [rows, value_dim] = decay * sums + scores^T @ values, by whole tiles of rows."""
    kernel, tile, vectors = frame.kernel, frame.schedule.sum_rows, frame.schedule.value_vectors
    begin = frame.held(rows.begin * frame.lanes)
    end = frame.held(tirx.Min(rows.end * frame.lanes, task.count))
    if frame.spare and rows.end is not task.vectors:
        with kernel.when(rows.end < task.vectors):
            _leave_alone(frame, end, count)
    with kernel.loop(begin, end, tile, "row") as row:
        _sums_of(frame, row, tile, vectors, count)


def few_sums(frame: Frame, rows: int, count: Expr) -> None:
    """The same for the first `rows` rows, with as many vectors of columns as registers hold."""
    _sums_of(frame, i64(0), rows, 8 // rows, count)


def _leave_alone(frame: Frame, row: Expr, count: Expr) -> None:
    """Rows beyond those that see the keys, of which some are in the last tile of sums.

    What never written memory holds there may be NaN, which no later decay would end.
    """
    lanes = frame.lanes
    for at in range(0, frame.spare, lanes):
        frame.decay.store(row + at, vector.splat(1.0, lanes))
        with frame.kernel.loop(0, count, 1, "key") as key:
            frame.scores.store(key * frame.line + (row + at), vector.splat(0.0, lanes))


def _sums_of(frame: Frame, row: Expr, rows: int, vectors: int, count: Expr) -> None:
    kernel, lanes = frame.kernel, frame.lanes
    number = frame.width // lanes

    def strip(column: Index, wide: int) -> None:
        out = frame.sums.at(kernel.let(row * frame.width + column, "out"))

        def start(r: int, v: int) -> Expr:
            decay = vector.splat(frame.decay.peek(row + r), lanes)
            return out.peek(r * frame.width + v * lanes, lanes) * decay

        Tile(
            [frame.scores.at(kernel.let(row + r, "left")) for r in range(rows)],
            frame.line,
            frame.values.at(column),
            frame.value_line,
            [out.at(r * frame.width) for r in range(rows)],
            wide,
            frame.schedule.unroll,
            start,
        ).emit(kernel, count)

    whole = number // vectors * vectors * lanes
    if whole:
        with kernel.loop(0, whole, vectors * lanes, "column") as column:
            strip(column, vectors)
    if number % vectors:
        strip(whole, number % vectors)


def finish(frame: Frame, task: Task) -> None:
    """Divide by the sums and store; a row that saw no key is 0, its log-sum-exp -inf."""
    kernel, lanes = frame.kernel, frame.lanes
    zero, one = vector.splat(0.0, lanes), vector.splat(1.0, lanes)
    with kernel.loop(0, task.vectors * lanes, lanes, "row") as row:
        total = frame.totals.load(row, lanes)
        lse = math.log(kernel, total) + frame.tops.load(row, lanes)
        frame.tops.store(row, lse)
        divisor = vector.select(tirx.EQ(total, zero), one, total)
        frame.decay.store(row, one / divisor)
    with kernel.loop(0, task.count, 1, "row") as row:
        query, head = frame.query_of(task, row)
        factor = frame.decay.load(row)

        def columns(body: Callable[[Expr, Expr, Expr | None], None]) -> None:
            def finish(at: Expr, wide: int, mask: Expr | None) -> None:
                value = frame.sums.load(row * frame.width + at, wide)
                body(at, kernel.let(value * vector.splat(factor, wide)), mask)

            vector.vector_loop(kernel, 0, frame.shape.value_dim, finish)

        found = Row(task.batch, query, head, frame.tops.load(row))
        frame.operands.store(found, columns)
