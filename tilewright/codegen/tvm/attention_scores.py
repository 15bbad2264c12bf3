"""The scores of a block of rows and a block of keys, and their running softmax.

Scores are kept transposed, [keys, rows]: a softmax then runs along the keys with one row in each
lane, and nothing is reduced across lanes.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from tilewright.codegen.tvm import math, vector
from tilewright.codegen.tvm.attention_frame import LOWEST, Block, Frame, Task
from tilewright.codegen.tvm.attention_load import ask_ahead, copy_keys
from tilewright.codegen.tvm.attention_mask import Reach, sees
from tilewright.codegen.tvm.attention_schedule import FEW
from tilewright.codegen.tvm.attention_tile import Tile
from tilewright.codegen.tvm.emit import Expr, i64
from tilewright.codegen.tvm.microkernel import rest_of_rows


def tile_scores(frame: Frame, task: Task, rows: Reach, block: Block) -> None:
    """scores [keys, rows] = keys @ columns; keys that fill the last tile are zero.

    Meanwhile the next block is asked for, a little with each tile.
    """
    kernel, count = frame.kernel, block.count
    tile, wide = frame.schedule.key_rows, frame.schedule.query_vectors
    tiles = frame.held(tirx.truncdiv(count + (tile - 1), i64(tile)))
    frame.clear(frame.keys, count * frame.depth, tiles * (tile * frame.depth))
    strips = tirx.truncdiv(rows.end - rows.begin + (wide - 1), i64(wide))
    ask = ask_ahead(frame, task, block, strips * tiles)

    def strip(at: Expr, vectors: int) -> None:
        done = tirx.truncdiv(at - rows.begin * frame.lanes, i64(wide * frame.lanes)) * tiles
        with kernel.loop(0, tiles, 1, "tile") as number:
            ask(done + number)
            left = frame.keys.at(kernel.let(number * (tile * frame.depth), "left"))
            out = frame.scores.at(kernel.let(number * (tile * frame.line) + at, "out"))
            Tile(
                [left.at(r * frame.depth) for r in range(tile)],
                1,
                frame.columns.at(at),
                frame.line,
                [out.at(r * frame.line) for r in range(tile)],
                vectors,
                frame.schedule.unroll,
                lambda r, v: vector.splat(0.0, frame.lanes),
            ).emit(kernel, frame.shape.head_dim)

    frame.strips(rows, frame.schedule.query_vectors, strip)


def dot_scores(frame: Frame, task: Task, first: Expr, count: Expr) -> None:
    """The same for a few rows, each by dot products along the head."""
    kernel, lanes = frame.kernel, frame.lanes
    whole = frame.depth == frame.shape.head_dim
    if not whole:
        copy_keys(frame, task, first, count)

    def part(key: Expr, c: int) -> Expr:
        if not whole:
            return frame.keys.load(key * frame.depth + c, lanes)
        return frame.operands.key(task.batch, first + key, task.group, i64(c), lanes, None)

    def rows(number: int) -> None:
        with kernel.loop(0, count, 1, "key") as key:
            sums = [kernel.register(lanes, vector.splat(0.0, lanes)) for _ in range(number)]
            for c in range(0, frame.depth, lanes):
                found = part(key, c)
                for row, total in enumerate(sums):
                    query = frame.rows.peek(row * frame.depth + c, lanes)
                    total.set(total.peek() + found * query)
            for row, total in enumerate(sums):
                found = vector.reduce_add(kernel, total.get())
                frame.scores.store(key * frame.line + row, found)

    with kernel.loop(0, count, 1, "key") as key:
        frame.scores.store(key * frame.line, vector.splat(0.0, lanes))
    rest_of_rows(kernel, task.count, FEW, rows)


def change_scores(frame: Frame, task: Task, rows: Reach, first: Expr, count: Expr) -> None:
    """The soft cap, and -inf for keys that are hidden."""
    kernel, cap, mask = frame.kernel, frame.scoring.softcap, frame.scoring.mask
    if cap is not None:
        bound = vector.splat(cap, frame.lanes)
        inverse = vector.splat(1.0 / cap, frame.lanes)

        def capped(key: Expr, at: Expr, x: Expr) -> Expr:
            del key, at
            return math.tanh(kernel, x * inverse) * bound

        _each_score(frame, rows.begin, rows.end, count, capped)
    lowest = vector.splat(LOWEST, frame.lanes)
    if mask.clauses:

        def shown(key: Expr, at: Expr, x: Expr) -> Expr:
            query = frame.places.load(at, frame.lanes)
            position = kernel.let(tirx.Cast("int32", first + key), "position")
            return vector.select(sees(mask, query, position), x, lowest)

        _each_score(frame, rows.begin, rows.low, count, shown)
        _each_score(frame, rows.high, rows.end, count, shown)
    if frame.operands.seen is not None:
        with kernel.loop(0, count, 1, "key") as key:
            seen = frame.operands.seen(task.batch, kernel.let(first + key, "position"))
            with kernel.when(tirx.Not(seen)), kernel.loop(0, task.vectors, 1, "strip") as strip:
                frame.scores.store(key * frame.line + strip * frame.lanes, lowest)


def _each_score(
    frame: Frame, begin: Expr, end: Expr, count: Expr, change: Callable[[Expr, Expr, Expr], Expr]
) -> None:
    """scores = change(key, first lane, scores), for vectors of rows from begin up to end."""
    kernel, lanes = frame.kernel, frame.lanes
    if begin is end:
        return
    with (
        kernel.loop(begin, end, 1, "strip") as strip,
        kernel.loop(0, count, 1, "key") as key,
    ):
        at = kernel.let(strip * lanes, "at")
        where = kernel.let(key * frame.line + at, "where")
        frame.scores.store(where, change(key, at, frame.scores.load(where, lanes)))


def running_softmax(frame: Frame, at: Expr, vectors: int, count: Expr) -> None:
    """Scores become exponentials; the running maxima and sums follow, and what decays."""
    kernel, lanes = frame.kernel, frame.lanes
    places = [kernel.let(at + v * lanes, "row") for v in range(vectors)]
    old = [frame.tops.load(place, lanes) for place in places]
    tops = [kernel.register(lanes, value) for value in old]
    with kernel.loop(0, count, 1, "key") as key:
        for place, top in zip(places, tops, strict=True):
            score = frame.scores.peek(key * frame.line + place, lanes)
            top.set(vector.maximum(top.peek(), score))
    lowest, zero = vector.splat(LOWEST, lanes), vector.splat(0.0, lanes)
    shifts: list[Expr] = []
    totals = [kernel.register(lanes) for _ in places]
    for place, top, before, total in zip(places, tops, old, totals, strict=True):
        found = top.get()
        shift = kernel.let(vector.select(tirx.EQ(found, lowest), zero, found), "shift")
        decay = math.exp(kernel, before - shift)
        frame.tops.store(place, found)
        frame.decay.store(place, decay)
        total.set(frame.totals.load(place, lanes) * decay)
        shifts.append(shift)
    with kernel.loop(0, count, 1, "key") as key:
        for place, shift, total in zip(places, shifts, totals, strict=True):
            where = kernel.let(key * frame.line + place, "where")
            power = math.exp(kernel, frame.scores.load(where, lanes) - shift)
            frame.scores.store(where, power)
            total.set(total.peek() + power)
    for place, total in zip(places, totals, strict=True):
        frame.totals.store(place, total.peek())
