"""Attention by blocks of keys with a running maximum and sum (FlashAttention; Dao, 2022 and 2023).

The rows of a block are queries times the heads that share their keys. Scores are kept transposed,
[keys, rows]: a softmax then runs along the keys with one row in each lane, nothing is reduced
across lanes, and keys and values are only copied, never transposed. A few rows (decoding) take dot
products instead.
"""

from __future__ import annotations

from tvm import tirx

from tilewright.codegen.tvm.attention_frame import Block, Frame, Task
from tilewright.codegen.tvm.attention_load import (
    clear_ends,
    copy_keys,
    copy_values,
    load_queries,
    place_rows,
    turn_queries,
)
from tilewright.codegen.tvm.attention_mask import RowBlock, key_range, reach
from tilewright.codegen.tvm.attention_schedule import FEW
from tilewright.codegen.tvm.attention_scores import (
    change_scores,
    dot_scores,
    running_softmax,
    tile_scores,
)
from tilewright.codegen.tvm.attention_sums import few_sums, finish, start_rows, tile_sums
from tilewright.codegen.tvm.emit import Expr, i64
from tilewright.codegen.tvm.microkernel import rest_of_rows


def attention_kernel(frame: Frame) -> None:
    """Emit the attention of all rows, shared among the team by blocks of rows."""
    kernel, shape = frame.kernel, frame.shape
    clear_ends(frame)
    rows = kernel.let(shape.seq * shape.each, "rows")
    size = frame.held(_rows_of_task(frame, shape.batch * shape.groups * rows))
    blocks = kernel.let(tirx.truncdiv(rows + (size - 1), size), "blocks")
    begin, end = kernel.share(shape.batch * shape.groups * blocks)
    with kernel.loop(begin, end, 1, "task") as task:
        outer = kernel.let(tirx.truncdiv(task, blocks), "outer")
        batch = kernel.let(tirx.truncdiv(outer, i64(shape.groups)), "batch")
        turn = kernel.let(task - outer * blocks, "turn")
        half = kernel.let(tirx.truncdiv(turn, i64(2)), "half")
        # First, last, second, last but one: equal runs are equal work under a causal mask.
        odd = tirx.EQ(turn - half * 2, i64(1))
        block = tirx.Select(odd, blocks - 1 - half, half)
        first = frame.held(block * size)
        count = frame.held(tirx.Min(size, rows - first))
        vectors = frame.held(tirx.truncdiv(count + (frame.lanes - 1), i64(frame.lanes)))
        group = frame.held(outer - batch * shape.groups)
        _run(frame, Task(frame.held(batch), group, first, count, vectors))


def _rows_of_task(frame: Frame, total: Expr) -> Expr:
    """Rows of a block: fewer than the schedule's where else threads would be idle."""
    kernel, lanes = frame.kernel, frame.lanes
    team = i64(kernel.size)
    fair = kernel.let(tirx.truncdiv(total + (team - 1), team), "fair")
    # Under a causal mask two blocks, an early one and a late one, are a thread's fair share.
    share = fair if frame.ahead is None else tirx.truncdiv(fair + 1, i64(2))
    whole = tirx.truncdiv(share + (lanes - 1), i64(lanes)) * lanes
    even = tirx.Select(fair <= FEW, tirx.Max(fair, i64(1)), whole)
    return kernel.let(tirx.Min(even, i64(frame.most)), "size")


def _keys_of_block(frame: Frame, few: Expr) -> Expr:
    """Keys that are met at a time: under a causal mask fewer of a short sequence, since what a
    block has above the diagonal is computed in vain.
    """
    most, tile = i64(frame.block), frame.schedule.key_rows
    if frame.ahead is not None:
        eighth = tirx.truncdiv(frame.shape.keys, i64(8 * tile)) * tile
        most = tirx.Min(most, tirx.Max(eighth, i64(4 * tile)))
    return tirx.Select(few, i64(frame.few_block), most)


def _run(frame: Frame, task: Task) -> None:
    """One block of rows, and all the blocks of keys that it meets."""
    kernel, shape = frame.kernel, frame.shape
    few = task.count <= FEW
    block = frame.held(_keys_of_block(frame, few))
    load_queries(frame, task)
    with kernel.when(task.count > FEW):
        turn_queries(frame, task)
    start_rows(frame, task)
    shift = kernel.let(shape.keys - shape.seq, "shift")
    low = frame.held(tirx.truncdiv(task.first, i64(shape.each)) + shift)
    last = task.first + task.count - 1
    high = frame.held(tirx.truncdiv(last, i64(shape.each)) + shift)
    if frame.scoring.mask.clauses:
        place_rows(frame, task, shift)
    rows = RowBlock(task.first, task.vectors, shape.each, shift)
    mask = frame.scoring.mask
    begin, end = key_range(kernel, mask, low, high, shape.keys)
    parts = kernel.let(tirx.truncdiv(tirx.Max(end - begin, i64(0)) + (block - 1), block))
    with kernel.loop(0, parts, 1, "part") as part:
        first = frame.held(begin + part * block)
        count = frame.held(tirx.Min(block, end - first))
        last = first + count - 1
        found = reach(kernel, mask, rows, first, last, frame.schedule.query_vectors)
        copy_values(frame, task, first, count)
        with kernel.when(few):
            dot_scores(frame, task, first, count)
        with kernel.otherwise():
            copy_keys(frame, task, first, count)
            more = frame.held(tirx.Max(tirx.Min(block, end - last - 1), i64(0)))
            tile_scores(frame, task, found, Block(first, count, more))
        change_scores(frame, task, found, first, count)
        frame.strips(found, 4, lambda at, n: running_softmax(frame, at, n, count))
        with kernel.when(few):
            rest_of_rows(kernel, task.count, FEW, lambda n: few_sums(frame, n, count))
        with kernel.otherwise():
            tile_sums(frame, task, found, count)
    finish(frame, task)
