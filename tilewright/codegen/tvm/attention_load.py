"""What comes into an attention kernel: a block's queries, keys and values as f32 in scratch."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from tilewright.codegen.tvm import vector
from tilewright.codegen.tvm.attention_frame import Block, Frame, Task
from tilewright.codegen.tvm.attention_operands import Load
from tilewright.codegen.tvm.attention_schedule import FEW
from tilewright.codegen.tvm.emit import Expr, Pointer, i64
from tilewright.codegen.tvm.transpose import transposed


def clear_ends(frame: Frame) -> None:
    """Zeros behind the last elements, since dot products take whole vectors (and what lies on
    the stack may be denormals, which are slow even where no one looks at the result).
    """
    zero, head, value = vector.splat(0.0, frame.lanes), frame.depth, frame.width
    ends = [(frame.rows, frame.most, head, head), (frame.keys, frame.block, head, head)]
    if head == frame.shape.head_dim:
        ends = []
    if value != frame.shape.value_dim:
        ends.append((frame.values, frame.block, frame.value_line, value))
    for pointer, rows, line, width in ends:
        with frame.kernel.loop(0, rows, 1, "row") as row:
            pointer.store(row * line + (width - frame.lanes), zero)


def load_queries(frame: Frame, task: Task) -> None:
    """The rows, scaled; rows that fill the last tile are zero."""
    kernel, shape = frame.kernel, frame.shape
    with kernel.loop(0, task.count, 1, "row") as row:
        query, head = frame.query_of(task, row)

        def copy(at: Expr, lanes: int, mask: Expr | None) -> None:
            found = frame.operands.query(task.batch, query, head, at, lanes, mask)
            scaled = found * vector.splat(frame.scoring.scale, lanes)
            # Under a mask the lanes that are off are zeros, for which there is room.
            frame.rows.store(row * frame.depth + at, scaled)

        vector.vector_loop(kernel, 0, shape.head_dim, copy)
    filled = tirx.Select(task.count <= FEW, i64(FEW), task.vectors * frame.lanes)
    frame.clear(frame.rows, task.count * frame.depth, filled * frame.depth)


def turn_queries(frame: Frame, task: Task) -> None:
    """The rows as columns [head_dim, rows]."""
    kernel, lanes = frame.kernel, frame.lanes
    with (
        kernel.loop(0, task.vectors, 1, "strip") as strip,
        kernel.loop(0, frame.depth, lanes, "c") as c,
    ):
        source = frame.rows.at(kernel.let(strip * (lanes * frame.depth) + c, "source"))
        target = frame.columns.at(kernel.let(c * frame.line + strip * lanes, "target"))
        square = [source.load(r * frame.depth, lanes) for r in range(lanes)]
        for number, column in enumerate(transposed(kernel, square)):
            target.store(number * frame.line, column)


def place_rows(frame: Frame, task: Task, shift: Expr) -> None:
    """The query position of each row; the last query stands at the last key."""
    kernel = frame.kernel
    with kernel.loop(0, task.vectors * frame.lanes, 1, "row") as row:
        query = tirx.truncdiv(task.first + row, i64(frame.shape.each))
        frame.places.store(row, tirx.Cast("int32", query + shift))


def copy_keys(frame: Frame, task: Task, first: Expr, count: Expr) -> None:
    """A block of keys, as f32."""
    size = frame.shape.head_dim
    _copy(frame, frame.operands.key, task, first, count, frame.keys, size, frame.depth)


def copy_values(frame: Frame, task: Task, first: Expr, count: Expr) -> None:
    """A block of values, as f32."""
    size = frame.shape.value_dim
    _copy(frame, frame.operands.value, task, first, count, frame.values, size, frame.value_line)


def ask_ahead(frame: Frame, task: Task, block: Block, turns: Expr) -> Callable[[Expr], None]:
    """Asks for the keys and values after a block, a part of them in each of so many turns.

    One head's keys lie as far apart as all heads are wide: the hardware's prefetchers see too short
    a run, and fetch other heads beyond it.
    """
    kernel = frame.kernel
    most = tirx.Max(turns, i64(1))
    each = frame.held(tirx.truncdiv(block.more + (most - 1), most))

    def ask(turn: Expr) -> None:
        begin = kernel.let(turn * each, "begin")
        with kernel.loop(begin, tirx.Min(begin + each, block.more), 1, "key") as key:
            position = kernel.let(block.first + block.count + key, "position")
            frame.operands.ask(task.batch, position, task.group)

    return ask


def _copy(
    frame: Frame,
    load: Load,
    task: Task,
    first: Expr,
    count: Expr,
    target: Pointer,
    size: int,
    line: int,
) -> None:
    """Rows of `size` elements to every `line`-th element of `target`."""
    kernel = frame.kernel
    with kernel.loop(0, count, 1, "key") as key:
        position = kernel.let(first + key, "position")

        def copy(at: Expr, lanes: int, mask: Expr | None) -> None:
            found = load(task.batch, position, task.group, at, lanes, mask)
            target.store(key * line + at, found)

        vector.vector_loop(kernel, 0, size, copy)
