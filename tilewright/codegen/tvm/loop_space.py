"""The space of schedules of a loop: what its body leaves open. Needs no TVM."""

from __future__ import annotations

from typing import cast

from tilewright.codegen.space import Dimension, OneOf, Point, Space, Value, integer
from tilewright.codegen.tvm.loop_schedule import (
    Keep,
    LoopSchedule,
    most_columns,
    row_reductions,
)
from tilewright.codegen.tvm.row_cache import kept_rows
from tilewright.dsl.graph import Graph
from tilewright.passes.kinds import loop_space as space_of
from tilewright.target.cpu import CpuIsa

FAMILY = "tvm.loop"

_LANED = frozenset({"sum", "max", "min"})
"""Reductions that go along a row by vectors."""


def loop_space(body: Graph, default: LoopSchedule, isa: CpuIsa, *, vectors: bool) -> Space:
    """All schedules around the one that is taken untuned; no dimension that changes nothing.

    vectors: whether the loop has a form with vectors; without, it goes one element at a time.
    """
    columns, reductions = most_columns(body), row_reductions(body)
    dimensions: list[Dimension] = []
    if not reductions and columns > _BLOCKS[0]:
        dimensions.append(OneOf("block", _blocks(columns, default.block), default.block))
    keeping = _keeping(body, default)
    if len(keeping) > 1:
        dimensions.append(OneOf("keep", tuple(keeping), default.keep))
    widths = tuple(n for n in (1, 2, 4, 8) if n * isa.lanes_f32 <= columns)
    if vectors and len(widths) > 1:
        if any(node.op in _LANED for node in reductions):
            dimensions.append(OneOf("sums", widths, default.sums))
        if any(output.value.tensor.shape == space_of(body) for output in body.outputs):
            dimensions.append(OneOf("unroll", widths[:3], default.unroll))
    return Space(FAMILY, tuple(dimensions))


def loop_at(point: Point, default: LoopSchedule) -> LoopSchedule:
    """The schedule of a point; what the loop leaves not open is the default's."""
    values: dict[str, Value] = {"keep": default.keep, "block": default.block}
    values |= {"sums": default.sums, "unroll": default.unroll, **point}
    return LoopSchedule(
        integer(values["block"]),
        default.scratch,
        cast("Keep", values["keep"]),
        integer(values["sums"]),
        integer(values["unroll"]),
    )


_BLOCKS = (512, 1024, 2048, 4096, 8192, 16384, 1 << 16)


def _blocks(columns: int, default: int) -> tuple[int, ...]:
    """Blocks that cut rows differently, and the first that leaves them whole."""
    cutting = {block for block in _BLOCKS if block < columns}
    whole = {block for block in _BLOCKS if block >= columns}
    return tuple(sorted({*cutting, *(min(whole, default=default),), default}))


def _keeping(body: Graph, default: LoopSchedule) -> list[Keep]:
    """Ways to keep rows that keep different ones and have room for them; the default's first."""
    if 4 * most_columns(body) > default.scratch:
        return []
    ways: dict[tuple[str, ...], Keep] = {}
    order: tuple[Keep, ...] = (default.keep, "none", "dear", "all")
    for way in order:
        kept = kept_rows(body, space_of(body), row_reductions(body), way)
        ways.setdefault(tuple(value.name for value in kept), way)
    return sorted(ways.values(), key=order[1:].index)
