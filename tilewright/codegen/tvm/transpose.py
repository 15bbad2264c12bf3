"""Transposing a square of lanes in registers."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx

from tilewright.codegen.tvm.emit import Expr, KernelBuilder


def transposed(kernel: KernelBuilder, rows: Sequence[Expr]) -> list[Expr]:
    """The columns of a square whose rows are vectors: log2(n) rounds of pairwise shuffles.

    In round h, the blocks of h x h beside the diagonal change places (Eklundh, 1972).
    """
    found, count = list(rows), len(rows)
    half = 1
    while half < count:
        for low in range(count):
            if low & half:
                continue
            a, b = found[low], found[low + half]
            upper = [count + lane - half if lane & half else lane for lane in range(count)]
            lower = [count + lane if lane & half else lane + half for lane in range(count)]
            found[low] = kernel.let(_shuffle(a, b, upper), "t")
            found[low + half] = kernel.let(_shuffle(a, b, lower), "t")
        half *= 2
    return found


def _shuffle(a: Expr, b: Expr, lanes: Sequence[int]) -> Expr:
    return tirx.Shuffle([a, b], [tirx.IntImm("int32", lane) for lane in lanes])
