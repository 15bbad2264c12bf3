"""Attention by blocks of keys with a running maximum and sum (FlashAttention; Dao, 2022 and 2023).

The rows of a block are queries times the heads that share their keys. Scores are kept transposed,
[keys, rows]: a softmax then runs along the keys with one row in each lane, nothing is reduced
across lanes, and keys and values are only copied, never transposed. A few rows (decoding) take dot
products instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tvm import tirx

from tilewright.codegen.tvm import math, vector
from tilewright.codegen.tvm.attention_mask import Reach, RowBlock, key_range, reach, sees
from tilewright.codegen.tvm.attention_schedule import FEW, AttentionSchedule, few_keys
from tilewright.codegen.tvm.emit import Expr, Index, KernelBuilder, Pointer, i64
from tilewright.codegen.tvm.matmul_schedule import row_stride
from tilewright.codegen.tvm.microkernel import rest_of_rows
from tilewright.codegen.tvm.transpose import transposed
from tilewright.dsl.mask import Mask, band

_LOWEST = float("-inf")

Load: TypeAlias = Callable[[Expr, Expr, Expr, Expr, int, Expr | None], Expr]
"""(batch, position, head, column, lanes, mask) -> f32 lanes from that column on."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the result: its batch, query and head, and the log-sum-exp of its scores."""

    batch: Expr
    query: Expr
    head: Expr
    lse: Expr


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """`seq` queries of `heads` heads meet `keys` keys of `groups` heads."""

    batch: Expr
    seq: Expr
    keys: Expr
    heads: int
    groups: int
    head_dim: int
    value_dim: int

    @property
    def each(self) -> int:
        """Query heads of a group."""
        return self.heads // self.groups


@dataclass(frozen=True, slots=True)
class AttentionOperands:
    """Where queries, keys and values come from, and where rows of the result go.

    `seen(batch, key)` is a scalar bool that hides keys. `store(row, columns)` stores one row, whose
    values `columns(body)` hands out as body(column, value, mask).
    """

    query: Load
    key: Load
    value: Load
    seen: Callable[[Expr, Expr], Expr] | None
    store: Callable[[Row, Callable[[Callable[[Expr, Expr, Expr | None], None]], None]], None]


@dataclass(frozen=True, slots=True)
class Scoring:
    """How scores are made of products."""

    mask: Mask
    scale: float
    softcap: float | None


def attention_kernel(
    kernel: KernelBuilder,
    shape: AttentionShape,
    operands: AttentionOperands,
    scoring: Scoring,
    schedule: AttentionSchedule,
) -> None:
    """Emit the attention of all rows, shared among the team by blocks of rows."""
    _Attention(kernel, shape, operands, scoring, schedule).emit()


@dataclass(frozen=True, slots=True)
class _Task:
    """A block of rows of one group: `count` rows from the group's row `first` on."""

    batch: Expr
    group: Expr
    first: Expr
    count: Expr
    vectors: Expr


@dataclass(frozen=True, slots=True)
class _Tile:
    """sums[r, :] = start(r, v) + left[r][0:depth] @ right[0:depth, :], in registers.

    Step k of row r is at k * `stride`, row k of the right side at k * `width`.
    """

    left: Sequence[Pointer]
    stride: int
    right: Pointer
    width: int
    sums: Sequence[Pointer]
    vectors: int
    unroll: int
    start: Callable[[int, int], Expr]

    def emit(self, kernel: KernelBuilder, depth: Index) -> None:
        lanes = kernel.isa.lanes_f32
        sums = [
            [kernel.register(lanes, self.start(r, v)) for v in range(self.vectors)]
            for r in range(len(self.left))
        ]

        def step(k: Expr) -> None:
            at = kernel.let(k * self.width, "at")
            columns = [self.right.load(at + v * lanes, lanes) for v in range(self.vectors)]
            for row, left in zip(sums, self.left, strict=True):
                value = kernel.let(vector.splat(left.peek(k * self.stride), lanes), "a")
                for total, column in zip(row, columns, strict=True):
                    total.set(total.peek() + value * column)

        turn = self.unroll
        whole: Index = (
            depth // turn * turn
            if isinstance(depth, int)
            else kernel.let(tirx.truncdiv(depth, i64(turn)) * turn, "whole")
        )
        with kernel.loop(0, whole, turn, "k") as k:
            for number in range(turn):
                step(k + number)
        if not isinstance(whole, int) or whole != depth:
            with kernel.loop(whole, depth, 1, "k") as k:
                step(k)
        for row, target in zip(sums, self.sums, strict=True):
            for v, total in enumerate(row):
                target.store(v * lanes, total.peek())


class _Attention:
    def __init__(
        self,
        kernel: KernelBuilder,
        shape: AttentionShape,
        operands: AttentionOperands,
        scoring: Scoring,
        schedule: AttentionSchedule,
    ) -> None:
        self.kernel = kernel
        self.shape = shape
        self.operands = operands
        self.scoring = scoring
        self.schedule = schedule
        _, self.ahead = band(scoring.mask)
        self.most = schedule.query_rows
        self.block = schedule.key_block
        self.lanes = lanes = kernel.isa.lanes_f32
        self.depth = -(-shape.head_dim // lanes) * lanes
        self.width = -(-shape.value_dim // lanes) * lanes
        # Columns of scratch are read downwards: lines that are a power of two apart would share
        # a few sets of the L1 cache.
        self.line, self.value_line = row_stride(self.most), row_stride(self.width)
        each = self.depth + self.width
        self.few_block = few_keys(schedule.few_elements, each, self.block)
        # The last tile of sums may go beyond the last vector of rows: a line has room for that.
        self.spare = 0
        if lanes % schedule.sum_rows:
            self.spare = -(-schedule.sum_rows // lanes) * lanes
        self.rows = kernel.scratch("f32", self.most * self.depth, "queries")
        self.columns = kernel.scratch("f32", self.line * self.depth, "columns")
        self.keys = kernel.scratch("f32", self.block * self.depth, "keys")
        self.values = kernel.scratch("f32", self.block * self.value_line, "values")
        self.scores = kernel.scratch("f32", self.block * self.line, "scores")
        self.sums = kernel.scratch("f32", (self.most + self.spare) * self.width, "sums")
        self.tops = kernel.scratch("f32", self.most, "tops")
        self.totals = kernel.scratch("f32", self.most, "totals")
        self.decay = kernel.scratch("f32", self.most + self.spare, "decay")
        self.places = kernel.scratch("i32", self.most, "places")

    # --- tasks ---

    def emit(self) -> None:
        kernel, shape = self.kernel, self.shape
        self._clear_ends()
        rows = kernel.let(shape.seq * shape.each, "rows")
        size = self._held(self._rows_of_task(shape.batch * shape.groups * rows))
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
            first = self._held(block * size)
            count = self._held(tirx.Min(size, rows - first))
            vectors = self._held(tirx.truncdiv(count + (self.lanes - 1), i64(self.lanes)))
            group = self._held(outer - batch * shape.groups)
            self._task(_Task(self._held(batch), group, first, count, vectors))

    def _held(self, value: Expr) -> Expr:
        """The int64 value through a register: TVM's simplifier would carry the expression along
        into every index that depends on it, and take minutes.
        """
        return self.kernel.register(1, value, "int64").get()

    def _rows_of_task(self, total: Expr) -> Expr:
        """Rows of a block: fewer than the schedule's where else threads would be idle."""
        kernel, lanes = self.kernel, self.lanes
        team = i64(kernel.size)
        fair = kernel.let(tirx.truncdiv(total + (team - 1), team), "fair")
        # Under a causal mask two blocks, an early one and a late one, are a thread's fair share.
        share = fair if self.ahead is None else tirx.truncdiv(fair + 1, i64(2))
        whole = tirx.truncdiv(share + (lanes - 1), i64(lanes)) * lanes
        even = tirx.Select(fair <= FEW, tirx.Max(fair, i64(1)), whole)
        return kernel.let(tirx.Min(even, i64(self.most)), "size")

    def _keys_of_block(self, few: Expr) -> Expr:
        """Keys that are met at a time: under a causal mask fewer of a short sequence, since what a
        block has above the diagonal is computed in vain.
        """
        most, tile = i64(self.block), self.schedule.key_rows
        if self.ahead is not None:
            eighth = tirx.truncdiv(self.shape.keys, i64(8 * tile)) * tile
            most = tirx.Min(most, tirx.Max(eighth, i64(4 * tile)))
        return tirx.Select(few, i64(self.few_block), most)

    def _clear_ends(self) -> None:
        """Zeros behind the last elements, since dot products take whole vectors (and what lies on
        the stack may be denormals, which are slow even where no one looks at the result).
        """
        zero, head, value = vector.splat(0.0, self.lanes), self.depth, self.width
        ends = [(self.rows, self.most, head, head), (self.keys, self.block, head, head)]
        if head == self.shape.head_dim:
            ends = []
        if value != self.shape.value_dim:
            ends.append((self.values, self.block, self.value_line, value))
        for pointer, rows, line, width in ends:
            with self.kernel.loop(0, rows, 1, "row") as row:
                pointer.store(row * line + (width - self.lanes), zero)

    def _clear(self, pointer: Pointer, begin: Index, end: Index) -> None:
        """Zeros from `begin` up to `end` and the rest of the vector there."""
        with self.kernel.loop(begin, end, self.lanes) as at:
            pointer.store(at, vector.splat(0.0, self.lanes))

    def _task(self, task: _Task) -> None:
        kernel, shape = self.kernel, self.shape
        few = task.count <= FEW
        block = self._held(self._keys_of_block(few))
        self._load_queries(task)
        with kernel.when(task.count > FEW):
            self._turn_queries(task)
        self._start(task)
        shift = kernel.let(shape.keys - shape.seq, "shift")
        low = self._held(tirx.truncdiv(task.first, i64(shape.each)) + shift)
        last = task.first + task.count - 1
        high = self._held(tirx.truncdiv(last, i64(shape.each)) + shift)
        if self.scoring.mask.clauses:
            self._place_rows(task, shift)
        rows = RowBlock(task.first, task.vectors, shape.each, shift)
        mask = self.scoring.mask
        begin, end = key_range(kernel, mask, low, high, shape.keys)
        parts = kernel.let(tirx.truncdiv(tirx.Max(end - begin, i64(0)) + (block - 1), block))
        with kernel.loop(0, parts, 1, "part") as part:
            first = self._held(begin + part * block)
            count = self._held(tirx.Min(block, end - first))
            last = first + count - 1
            found = reach(kernel, mask, rows, first, last, self.schedule.query_vectors)
            self._copy_values(task, first, count)
            with kernel.when(few):
                self._dot_scores(task, first, count)
            with kernel.otherwise():
                self._copy_keys(task, first, count)
                self._tile_scores(found, count)
            self._change_scores(task, found, first, count)
            self._strips(found, 4, lambda at, n: self._softmax(at, n, count))
            with kernel.when(few):
                rest_of_rows(kernel, task.count, FEW, lambda n: self._few_sums(n, count))
            with kernel.otherwise():
                self._tile_sums(task, found, count)
        self._finish(task)

    # --- what comes in ---

    def _load_queries(self, task: _Task) -> None:
        """The rows, scaled; rows that fill the last tile are zero."""
        kernel, shape = self.kernel, self.shape
        with kernel.loop(0, task.count, 1, "row") as row:
            query, head = self._query_of(task, row)

            def copy(at: Expr, lanes: int, mask: Expr | None) -> None:
                found = self.operands.query(task.batch, query, head, at, lanes, mask)
                scaled = found * vector.splat(self.scoring.scale, lanes)
                # Under a mask the lanes that are off are zeros, for which there is room.
                self.rows.store(row * self.depth + at, scaled)

            vector.vector_loop(kernel, 0, shape.head_dim, copy)
        filled = tirx.Select(task.count <= FEW, i64(FEW), task.vectors * self.lanes)
        self._clear(self.rows, task.count * self.depth, filled * self.depth)

    def _query_of(self, task: _Task, row: Expr) -> tuple[Expr, Expr]:
        kernel, each = self.kernel, self.shape.each
        flat = kernel.let(task.first + row, "flat")
        if each == 1:
            return flat, task.group
        query = kernel.let(tirx.truncdiv(flat, i64(each)), "query")
        return query, kernel.let(task.group * each + (flat - query * each), "head")

    def _turn_queries(self, task: _Task) -> None:
        """The rows as columns [head_dim, rows]."""
        kernel, lanes = self.kernel, self.lanes
        with (
            kernel.loop(0, task.vectors, 1, "strip") as strip,
            kernel.loop(0, self.depth, lanes, "c") as c,
        ):
            source = self.rows.at(kernel.let(strip * (lanes * self.depth) + c, "source"))
            target = self.columns.at(kernel.let(c * self.line + strip * lanes, "target"))
            square = [source.load(r * self.depth, lanes) for r in range(lanes)]
            for number, column in enumerate(transposed(kernel, square)):
                target.store(number * self.line, column)

    def _start(self, task: _Task) -> None:
        kernel, lanes = self.kernel, self.lanes
        with kernel.loop(0, task.vectors * lanes, lanes, "row") as row:
            self.tops.store(row, vector.splat(_LOWEST, lanes))
            self.totals.store(row, vector.splat(0.0, lanes))
        rows = task.vectors * lanes
        self._clear(self.sums, 0, (rows + self.spare) * self.width)
        if self.spare:
            self._leave_alone(self._held(rows), i64(self.block))

    def _place_rows(self, task: _Task, shift: Expr) -> None:
        """The query position of each row; the last query stands at the last key."""
        kernel = self.kernel
        with kernel.loop(0, task.vectors * self.lanes, 1, "row") as row:
            query = tirx.truncdiv(task.first + row, i64(self.shape.each))
            self.places.store(row, tirx.Cast("int32", query + shift))

    def _copy_keys(self, task: _Task, first: Expr, count: Expr) -> None:
        """A block of keys, as f32."""
        size = self.shape.head_dim
        self._copy(self.operands.key, task, first, count, self.keys, size, self.depth)

    def _copy_values(self, task: _Task, first: Expr, count: Expr) -> None:
        """A block of values, as f32."""
        size = self.shape.value_dim
        self._copy(self.operands.value, task, first, count, self.values, size, self.value_line)

    def _copy(
        self,
        load: Load,
        task: _Task,
        first: Expr,
        count: Expr,
        target: Pointer,
        size: int,
        line: int,
    ) -> None:
        """Rows of `size` elements to every `line`-th element of `target`."""
        kernel = self.kernel
        with kernel.loop(0, count, 1, "key") as key:
            position = kernel.let(first + key, "position")

            def copy(at: Expr, lanes: int, mask: Expr | None) -> None:
                found = load(task.batch, position, task.group, at, lanes, mask)
                target.store(key * line + at, found)

            vector.vector_loop(kernel, 0, size, copy)

    # --- scores ---

    def _strips(self, rows: Reach, most: int, body: Callable[[Expr, int], None]) -> None:
        """Call body(first lane, vectors) for `most` vectors of rows at a time, then one by one."""
        kernel, begin, end = self.kernel, rows.begin, rows.end
        whole = kernel.let(begin + tirx.truncdiv(end - begin, i64(most)) * most, "whole")
        with kernel.loop(begin, whole, most, "strip") as strip:
            body(kernel.let(strip * self.lanes, "at"), most)
        with kernel.loop(whole, end, 1, "strip") as strip:
            body(kernel.let(strip * self.lanes, "at"), 1)

    def _tile_scores(self, rows: Reach, count: Expr) -> None:
        """scores [keys, rows] = keys @ columns; keys that fill the last tile are zero."""
        kernel, tile = self.kernel, self.schedule.key_rows
        tiles = self._held(tirx.truncdiv(count + (tile - 1), i64(tile)))
        self._clear(self.keys, count * self.depth, tiles * (tile * self.depth))

        def strip(at: Expr, vectors: int) -> None:
            with kernel.loop(0, tiles, 1, "tile") as number:
                left = self.keys.at(kernel.let(number * (tile * self.depth), "left"))
                out = self.scores.at(kernel.let(number * (tile * self.line) + at, "out"))
                _Tile(
                    [left.at(r * self.depth) for r in range(tile)],
                    1,
                    self.columns.at(at),
                    self.line,
                    [out.at(r * self.line) for r in range(tile)],
                    vectors,
                    self.schedule.unroll,
                    lambda r, v: vector.splat(0.0, self.lanes),
                ).emit(kernel, self.shape.head_dim)

        self._strips(rows, self.schedule.query_vectors, strip)

    def _dot_scores(self, task: _Task, first: Expr, count: Expr) -> None:
        """The same for a few rows, each by dot products along the head."""
        kernel, lanes = self.kernel, self.lanes
        whole = self.depth == self.shape.head_dim
        if not whole:
            self._copy_keys(task, first, count)

        def part(key: Expr, c: int) -> Expr:
            if not whole:
                return self.keys.load(key * self.depth + c, lanes)
            return self.operands.key(task.batch, first + key, task.group, i64(c), lanes, None)

        def rows(number: int) -> None:
            with kernel.loop(0, count, 1, "key") as key:
                sums = [kernel.register(lanes, vector.splat(0.0, lanes)) for _ in range(number)]
                for c in range(0, self.depth, lanes):
                    found = part(key, c)
                    for row, total in enumerate(sums):
                        query = self.rows.peek(row * self.depth + c, lanes)
                        total.set(total.peek() + found * query)
                for row, total in enumerate(sums):
                    found = vector.reduce_add(kernel, total.get())
                    self.scores.store(key * self.line + row, found)

        with kernel.loop(0, count, 1, "key") as key:
            self.scores.store(key * self.line, vector.splat(0.0, lanes))
        rest_of_rows(kernel, task.count, FEW, rows)

    def _change_scores(self, task: _Task, rows: Reach, first: Expr, count: Expr) -> None:
        """The soft cap, and -inf for keys that are hidden."""
        kernel, cap, mask = self.kernel, self.scoring.softcap, self.scoring.mask
        if cap is not None:
            bound = vector.splat(cap, self.lanes)
            inverse = vector.splat(1.0 / cap, self.lanes)

            def capped(key: Expr, at: Expr, x: Expr) -> Expr:
                del key, at
                return math.tanh(kernel, x * inverse) * bound

            self._each_score(rows.begin, rows.end, count, capped)
        lowest = vector.splat(_LOWEST, self.lanes)
        if mask.clauses:

            def shown(key: Expr, at: Expr, x: Expr) -> Expr:
                query = self.places.load(at, self.lanes)
                position = kernel.let(tirx.Cast("int32", first + key), "position")
                return vector.select(sees(mask, query, position), x, lowest)

            self._each_score(rows.begin, rows.low, count, shown)
            self._each_score(rows.high, rows.end, count, shown)
        if self.operands.seen is not None:
            with kernel.loop(0, count, 1, "key") as key:
                seen = self.operands.seen(task.batch, kernel.let(first + key, "position"))
                with kernel.when(tirx.Not(seen)), kernel.loop(0, task.vectors, 1, "strip") as strip:
                    self.scores.store(key * self.line + strip * self.lanes, lowest)

    def _each_score(
        self, begin: Expr, end: Expr, count: Expr, change: Callable[[Expr, Expr, Expr], Expr]
    ) -> None:
        """scores = change(key, first lane, scores), for vectors of rows from begin up to end."""
        kernel, lanes = self.kernel, self.lanes
        if begin is end:
            return
        with (
            kernel.loop(begin, end, 1, "strip") as strip,
            kernel.loop(0, count, 1, "key") as key,
        ):
            at = kernel.let(strip * lanes, "at")
            where = kernel.let(key * self.line + at, "where")
            self.scores.store(where, change(key, at, self.scores.load(where, lanes)))

    def _softmax(self, at: Expr, vectors: int, count: Expr) -> None:
        """Scores become exponentials; the running maxima and sums follow, and what decays."""
        kernel, lanes = self.kernel, self.lanes
        places = [kernel.let(at + v * lanes, "row") for v in range(vectors)]
        old = [self.tops.load(place, lanes) for place in places]
        tops = [kernel.register(lanes, value) for value in old]
        with kernel.loop(0, count, 1, "key") as key:
            for place, top in zip(places, tops, strict=True):
                score = self.scores.peek(key * self.line + place, lanes)
                top.set(vector.maximum(top.peek(), score))
        lowest, zero = vector.splat(_LOWEST, lanes), vector.splat(0.0, lanes)
        shifts: list[Expr] = []
        totals = [kernel.register(lanes) for _ in places]
        for place, top, before, total in zip(places, tops, old, totals, strict=True):
            found = top.get()
            shift = kernel.let(vector.select(tirx.EQ(found, lowest), zero, found), "shift")
            decay = math.exp(kernel, before - shift)
            self.tops.store(place, found)
            self.decay.store(place, decay)
            total.set(self.totals.load(place, lanes) * decay)
            shifts.append(shift)
        with kernel.loop(0, count, 1, "key") as key:
            for place, shift, total in zip(places, shifts, totals, strict=True):
                where = kernel.let(key * self.line + place, "where")
                power = math.exp(kernel, self.scores.load(where, lanes) - shift)
                self.scores.store(where, power)
                total.set(total.peek() + power)
        for place, total in zip(places, totals, strict=True):
            self.totals.store(place, total.peek())

    # --- sums of values ---

    def _tile_sums(self, task: _Task, rows: Reach, count: Expr) -> None:
        """sums [rows, value_dim] = decay * sums + scores^T @ values, by whole tiles of rows."""
        kernel, tile, vectors = self.kernel, self.schedule.sum_rows, self.schedule.value_vectors
        begin = self._held(rows.begin * self.lanes)
        end = self._held(tirx.Min(rows.end * self.lanes, task.count))
        if self.spare and rows.end is not task.vectors:
            with kernel.when(rows.end < task.vectors):
                self._leave_alone(end, count)
        with kernel.loop(begin, end, tile, "row") as row:
            self._sums_of(row, tile, vectors, count)

    def _leave_alone(self, row: Expr, count: Expr) -> None:
        """Rows beyond those that see the keys, of which some are in the last tile of sums.

        What never written memory holds there may be NaN, which no later decay would end.
        """
        lanes = self.lanes
        for at in range(0, self.spare, lanes):
            self.decay.store(row + at, vector.splat(1.0, lanes))
            with self.kernel.loop(0, count, 1, "key") as key:
                self.scores.store(key * self.line + (row + at), vector.splat(0.0, lanes))

    def _few_sums(self, rows: int, count: Expr) -> None:
        self._sums_of(i64(0), rows, 8 // rows, count)

    def _sums_of(self, row: Expr, rows: int, vectors: int, count: Expr) -> None:
        kernel, lanes = self.kernel, self.lanes
        number = self.width // lanes

        def strip(column: Index, wide: int) -> None:
            out = self.sums.at(kernel.let(row * self.width + column, "out"))

            def start(r: int, v: int) -> Expr:
                decay = vector.splat(self.decay.peek(row + r), lanes)
                return out.peek(r * self.width + v * lanes, lanes) * decay

            _Tile(
                [self.scores.at(kernel.let(row + r, "left")) for r in range(rows)],
                self.line,
                self.values.at(column),
                self.value_line,
                [out.at(r * self.width) for r in range(rows)],
                wide,
                self.schedule.unroll,
                start,
            ).emit(kernel, count)

        whole = number // vectors * vectors * lanes
        if whole:
            with kernel.loop(0, whole, vectors * lanes, "column") as column:
                strip(column, vectors)
        if number % vectors:
            strip(whole, number % vectors)

    def _finish(self, task: _Task) -> None:
        """Divide by the sums and store; a row that saw no key is 0, its log-sum-exp -inf."""
        kernel, lanes = self.kernel, self.lanes
        zero, one = vector.splat(0.0, lanes), vector.splat(1.0, lanes)
        with kernel.loop(0, task.vectors * lanes, lanes, "row") as row:
            total = self.totals.load(row, lanes)
            lse = math.log(kernel, total) + self.tops.load(row, lanes)
            self.tops.store(row, lse)
            divisor = vector.select(tirx.EQ(total, zero), one, total)
            self.decay.store(row, one / divisor)
        with kernel.loop(0, task.count, 1, "row") as row:
            query, head = self._query_of(task, row)
            factor = self.decay.load(row)

            def columns(body: Callable[[Expr, Expr, Expr | None], None]) -> None:
                def finish(at: Expr, wide: int, mask: Expr | None) -> None:
                    value = self.sums.load(row * self.width + at, wide)
                    body(at, kernel.let(value * vector.splat(factor, wide)), mask)

                vector.vector_loop(kernel, 0, self.shape.value_dim, finish)

            found = Row(task.batch, query, head, self.tops.load(row))
            self.operands.store(found, columns)
