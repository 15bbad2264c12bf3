"""What all parts of an attention kernel share: sizes, scratch, and the block of rows at hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tvm import tirx

from tilewright.codegen.tvm import vector
from tilewright.codegen.tvm.attention_mask import Reach
from tilewright.codegen.tvm.attention_operands import AttentionOperands, AttentionShape, Scoring
from tilewright.codegen.tvm.attention_schedule import AttentionSchedule, few_keys
from tilewright.codegen.tvm.emit import Expr, Index, KernelBuilder, Pointer, i64
from tilewright.codegen.tvm.matmul_schedule import row_stride
from tilewright.dsl.mask import band

LOWEST: Final = float("-inf")
"""The score of a key that is hidden."""


@dataclass(frozen=True, slots=True)
class Task:
    """A block of rows of one group: `count` rows from the group's row `first` on."""

    batch: Expr
    group: Expr
    first: Expr
    count: Expr
    vectors: Expr


@dataclass(frozen=True, slots=True)
class Block:
    """`count` keys from `first` on; `more` follow in the next block."""

    first: Expr
    count: Expr
    more: Expr


class Frame:
    """A kernel's sizes and scratch, which each thread has for itself.

    A block has up to `most` rows, and meets up to `block` keys at a time.
    """

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

    def held(self, value: Expr) -> Expr:
        """The int64 value through a register: TVM's simplifier would carry the expression along
        into every index that depends on it, and take minutes.
        """
        return self.kernel.register(1, value, "int64").get()

    def clear(self, pointer: Pointer, begin: Index, end: Index) -> None:
        """Zeros from `begin` up to `end` and the rest of the vector there."""
        with self.kernel.loop(begin, end, self.lanes) as at:
            pointer.store(at, vector.splat(0.0, self.lanes))

    def strips(self, rows: Reach, most: int, body: Callable[[Expr, int], None]) -> None:
        """Call body(first lane, vectors) for `most` vectors of rows at a time, then one by one."""
        kernel, begin, end = self.kernel, rows.begin, rows.end
        whole = kernel.let(begin + tirx.truncdiv(end - begin, i64(most)) * most, "whole")
        with kernel.loop(begin, whole, most, "strip") as strip:
            body(kernel.let(strip * self.lanes, "at"), most)
        with kernel.loop(whole, end, 1, "strip") as strip:
            body(kernel.let(strip * self.lanes, "at"), 1)

    def query_of(self, task: Task, row: Expr) -> tuple[Expr, Expr]:
        """The query and the head of a row of the block."""
        kernel, each = self.kernel, self.shape.each
        flat = kernel.let(task.first + row, "flat")
        if each == 1:
            return flat, task.group
        query = kernel.let(tirx.truncdiv(flat, i64(each)), "query")
        return query, kernel.let(task.group * each + (flat - query * each), "head")
