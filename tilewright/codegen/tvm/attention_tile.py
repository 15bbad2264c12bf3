"""The register tile of both of attention's products: scores, and sums of values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx

from tilewright.codegen.tvm import vector
from tilewright.codegen.tvm.emit import Expr, Index, KernelBuilder, Pointer, i64


@dataclass(frozen=True, slots=True)
class Tile:
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
        """Compute the tile over so many steps, and store its sums."""
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
