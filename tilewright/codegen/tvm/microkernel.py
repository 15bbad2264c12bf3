"""The innermost loop of a matmul: a tile of sums kept in vector registers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx

from tilewright.codegen.tvm import vector
from tilewright.codegen.tvm.emit import (
    Expr,
    Index,
    KernelBuilder,
    Pointer,
    Register,
    broadcast,
    i64,
)
from tilewright.codegen.tvm.intrin import bf16_dot
from tilewright.codegen.tvm.matmul_schedule import MatmulSchedule, PackedLayout
from tilewright.codegen.tvm.vector import Stored

# Sums that do not wait for one another: two FMA units, each four to five cycles deep.
_CHAINS = 8


@dataclass(frozen=True, slots=True)
class Operands:
    """Where a tile finds its rows, its panel and its sums; `resume` adds to the sums there.

    `layout` is that of the weights, which `panel` may hold as f32. `ahead` is where the part of the
    weights begins that this tile is to prefetch, if any. A tile that `streams` may be the first to
    read its part of the panel, and asks for its own lines.
    """

    rows: Sequence[Pointer]
    panel: Stored
    sums: Pointer
    layout: PackedLayout
    resume: bool
    ahead: Stored | None
    streams: bool

    @property
    def in_pairs(self) -> bool:
        """Whether the rows of the panel lie two by two."""
        return self.panel.dtype in vector.PAIRED


def tile_sums(
    kernel: KernelBuilder, operands: Operands, schedule: MatmulSchedule, k0: Index, k1: Index
) -> None:
    """sums[r, :] (+)= rows[r][k0:k1] @ panel[k0:k1, :], for the rows given.

    k0 and k1 are even for panels in pairs.
    """
    layout, lanes, nv = operands.layout, operands.layout.lanes, schedule.nv
    count = len(operands.rows)
    pairs = 2 if layout.in_pairs else 1
    # A short tile would wait for its own sums: it keeps several, and adds them at the end.
    sets = max(1, min(schedule.unroll, _CHAINS // (count * nv)))
    sums = [
        [
            [kernel.register(lanes, _start(operands, r, v, s, lanes)) for v in range(nv)]
            for r in range(count)
        ]
        for s in range(sets)
    ]

    def step(k: Expr, number: int) -> None:
        _step(kernel, operands, schedule, sums[number % sets], k)

    steps = range(0, schedule.unroll * pairs, 2 if operands.in_pairs else 1)
    turn = schedule.unroll * pairs
    exact = _divides(turn, k0, schedule) and _divides(turn, k1, schedule)
    whole = k1 if exact else kernel.let(k0 + tirx.truncdiv(k1 - k0, turn) * turn)
    if isinstance(k0, int) and isinstance(k1, int):
        whole = k0 + (k1 - k0) // turn * turn
    with kernel.loop(k0, whole, turn, "k") as k:
        if operands.ahead is not None:
            _prefetch(operands.ahead, schedule, k - k0, turn)
        if operands.streams and schedule.stream:
            _prefetch_stream(kernel, operands, schedule, k, turn)
        for number, at in enumerate(steps):
            step(k + at, number)
    if not (isinstance(whole, int) and whole == k1) and not exact:
        with kernel.loop(whole, k1, steps.step, "k") as k:
            step(k, 0)
    for r in range(count):
        for v in range(nv):
            total = sums[0][r][v].peek()
            for extra in sums[1:]:
                total = total + extra[r][v].peek()
            operands.sums.store(r * layout.nr + v * lanes, total)


def widen(
    kernel: KernelBuilder, panel: Stored, wide: Pointer, layout: PackedLayout, k0: Index, k1: Index
) -> None:
    """wide[: k1 - k0, :] = panel[k0:k1, :], converted to f32."""
    nr, lanes, pairs = layout.nr, layout.lanes, 2 if layout.in_pairs else 1
    with kernel.loop(0, i64(k1) - k0, pairs, "k") as k:
        source = panel.at(kernel.let((k + k0) * nr, "source"))
        for column in range(0, nr, lanes):
            if isinstance(source, vector.SplitPointer) or pairs == 2:
                rows = vector.load_pairs(source, column, lanes)
            else:
                rows = (vector.load(source, column, lanes),)
            for number, row in enumerate(rows):
                wide.store((k + number) * nr + column, row)


def rest_of_rows(kernel: KernelBuilder, rest: Expr, most: int, tile: Callable[[int], None]) -> None:
    """Emit tiles for 1 <= rest <= most rows, `tile(rows)` for a few sizes: run the next larger one.

    Sizes are powers of two and `most`, so code stays small and at most half the sums are in vain.
    """
    if most <= 1:
        if most == 1:
            tile(1)
        return
    smaller = 1 << (most - 1).bit_length() - 1
    with kernel.when(rest <= smaller):
        rest_of_rows(kernel, rest, smaller, tile)
    with kernel.otherwise():
        tile(most)


def _start(operands: Operands, row: int, vector_number: int, number: int, lanes: int) -> Expr:
    if operands.resume and number == 0:
        return operands.sums.peek(row * operands.layout.nr + vector_number * lanes, lanes)
    return vector.splat(0.0, lanes)


def _divides(turn: int, bound: Index, schedule: MatmulSchedule) -> bool:
    """Whether `bound` is known to be a multiple of `turn`."""
    return isinstance(bound, int) and bound % turn == 0


def _prefetch(ahead: Stored, schedule: MatmulSchedule, done: Expr, turn: int) -> None:
    line = ahead.line
    at = ahead.kernel.let(tirx.truncdiv(done, turn) * (line * schedule.prefetch), "ahead")
    for number in range(schedule.prefetch):
        ahead.prefetch(at + number * line)


def _prefetch_stream(
    kernel: KernelBuilder, operands: Operands, schedule: MatmulSchedule, k: Expr, turn: int
) -> None:
    """Ask for as many lines as this turn reads, `stream` lines further on."""
    layout = operands.layout
    line = operands.panel.line
    at = kernel.let(k * layout.nr + schedule.stream * line, "stream")
    for number in range(-(-turn * layout.nr // line)):
        operands.panel.prefetch(at + number * line)


def _step(
    kernel: KernelBuilder,
    operands: Operands,
    schedule: MatmulSchedule,
    sums: list[list[Register]],
    k: Expr,
) -> None:
    """One row of the panel (f32, i8), or one row of pairs (bf16, E4M7)."""
    layout, lanes, nv, panel = operands.layout, operands.layout.lanes, schedule.nv, operands.panel
    if operands.in_pairs and schedule.instruction == "fma":
        at = kernel.let(vector.halved(k) * layout.nr, "at")
        split = [vector.load_pairs(panel, at + v * lanes, lanes) for v in range(nv)]
        _add_products(kernel, operands, sums, k, [even for even, _ in split])
        _add_products(kernel, operands, sums, k + 1, [odd for _, odd in split])
        return
    assert isinstance(panel, Pointer)
    at = kernel.let(k * layout.nr, "at")
    if not operands.in_pairs:
        columns = [vector.load(panel, at + v * lanes, lanes) for v in range(nv)]
        _add_products(kernel, operands, sums, k, columns)
    else:
        pairs = [panel.load(at + 2 * v * lanes, 2 * lanes) for v in range(nv)]
        columns = [kernel.let(tirx.reinterpret(f"int32x{lanes}", p), "b") for p in pairs]
        for row, left in zip(sums, operands.rows, strict=True):
            pair = tirx.reinterpret("int32", left.peek(k, 2))
            pair = kernel.let(broadcast(pair, lanes), "a")
            for total, column in zip(row, columns, strict=True):
                total.set(bf16_dot(kernel, total.peek(), pair, column))


def _add_products(
    kernel: KernelBuilder,
    operands: Operands,
    sums: list[list[Register]],
    k: Expr,
    columns: Sequence[Expr],
) -> None:
    lanes = operands.layout.lanes
    for row, left in zip(sums, operands.rows, strict=True):
        value = kernel.let(vector.splat(left.peek(k), lanes), "a")
        for total, column in zip(row, columns, strict=True):
            total.set(total.peek() + value * column)
