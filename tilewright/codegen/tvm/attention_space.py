"""The space of schedules of an attention kernel. Needs no TVM."""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.codegen.space import Dimension, OneOf, Point, Space, integer
from tilewright.codegen.tvm.attention_schedule import (
    FEW,
    AttentionSchedule,
    check_attention,
    few_keys,
    scratch_bytes,
    tile_registers,
)
from tilewright.codegen.tvm.tile_model import attention_cost
from tilewright.dsl.dims import Dim, bounds
from tilewright.dsl.errors import InvalidSchedule
from tilewright.dsl.graph import Node
from tilewright.target.cpu import CpuIsa

FAMILY = "tvm.attention"

_MOST_KEYS = 512
_MOST_SCRATCH = 3 << 18
"""Bytes of a thread's stack that a kernel may take."""


@dataclass(frozen=True, slots=True)
class AttentionSizes:
    """What decides about the schedules of an attention: the rows of a group, the sizes of heads."""

    rows: Dim
    head_dim: int
    value_dim: int


def attention_sizes(anchor: Node) -> AttentionSizes:
    """The sizes of an `attention` node, whose numbers and sizes of heads are fixed."""
    q, k, v = (operand.tensor.shape for operand in anchor.operands[:3])
    heads, groups, head_dim, value_dim = q[2], k[2], q[3], v[3]
    assert isinstance(heads, int)
    assert isinstance(groups, int)
    assert isinstance(head_dim, int)
    assert isinstance(value_dim, int)
    return AttentionSizes(q[1] * (heads // groups), head_dim, value_dim)


def attention_space(sizes: AttentionSizes, default: AttentionSchedule, isa: CpuIsa) -> Space:
    """All schedules around the one that is taken untuned.

    What only many rows meet is left out where there are always few, and the other way round.
    """

    def constraint(point: Point) -> str | None:
        return _refusal(attention_at(point, default, isa), sizes, isa)

    def cost(point: Point) -> float:
        s = attention_at(point, default, isa)
        scores, sums = (s.key_rows, s.query_vectors), (s.sum_rows, s.value_vectors)
        return attention_cost(s.query_rows, s.key_block, scores, sums, s.unroll)

    low, high = bounds(sizes.rows)
    dimensions: list[Dimension] = []
    if high > FEW:
        dimensions += _of_many(default, isa)
    block = _MOST_KEYS if high > FEW else default.key_block
    few = _few_elements(sizes, default.few_elements, block, isa)
    if low <= FEW and len(few) > 1:
        dimensions.append(OneOf("few_elements", few, default.few_elements))
    return Space(FAMILY, tuple(dimensions), constraint, cost if high > FEW else None)


def attention_at(point: Point, default: AttentionSchedule, isa: CpuIsa) -> AttentionSchedule:
    """The schedule of a point; blocks are counted in strips of rows and tiles of keys."""
    values = {**_values(default, isa), **{name: integer(v) for name, v in point.items()}}
    strips, tiles = values.pop("query_strips"), values.pop("key_tiles")
    query_rows = strips * values["query_vectors"] * isa.lanes_f32
    return AttentionSchedule(query_rows, tiles * values["key_rows"], **values)


def _values(schedule: AttentionSchedule, isa: CpuIsa) -> dict[str, int]:
    """A schedule in the dimensions of the space."""
    return {
        "query_strips": schedule.query_rows // (schedule.query_vectors * isa.lanes_f32),
        "key_tiles": schedule.key_block // schedule.key_rows,
        "key_rows": schedule.key_rows,
        "query_vectors": schedule.query_vectors,
        "sum_rows": schedule.sum_rows,
        "value_vectors": schedule.value_vectors,
        "unroll": schedule.unroll,
        "few_elements": schedule.few_elements,
    }


def _of_many(default: AttentionSchedule, isa: CpuIsa) -> list[Dimension]:
    values = _values(default, isa)
    rows = (2, 4, 6, 8, 10, 12, 14)
    offered = {
        "query_strips": (1, 2, 4, 8, 12, 16),
        "key_tiles": (2, 4, 8, 12, 16, 24, 32),
        "key_rows": rows,
        "query_vectors": (1, 2, 3, 4),
        "sum_rows": rows,
        "value_vectors": (1, 2, 3, 4),
        "unroll": (1, 2, 4, 8),
    }
    return [
        OneOf(name, tuple(sorted({*choices, values[name]})), values[name])
        for name, choices in offered.items()
    ]


def _few_elements(sizes: AttentionSizes, default: int, block: int, isa: CpuIsa) -> tuple[int, ...]:
    """Numbers of elements that make different numbers of keys, of up to `block`."""
    each = sum(-(-d // isa.lanes_f32) * isa.lanes_f32 for d in (sizes.head_dim, sizes.value_dim))
    ways: dict[int, int] = {}
    for elements in (default, *(1 << e for e in range(11, 17))):
        ways.setdefault(few_keys(elements, each, block), elements)
    return tuple(sorted(ways.values()))


def _refusal(schedule: AttentionSchedule, sizes: AttentionSizes, isa: CpuIsa) -> str | None:
    tiles = (
        ("scores", schedule.key_rows, schedule.query_vectors),
        ("sums", schedule.sum_rows, schedule.value_vectors),
    )
    for name, rows, vectors in tiles:
        registers = tile_registers(rows, vectors)
        if registers > isa.vector_registers:
            return f"{registers} vectors for {name} do not fit {isa.vector_registers} registers"
    needed = scratch_bytes(schedule, sizes.head_dim, sizes.value_dim)
    if needed > _MOST_SCRATCH:
        return f"{needed} bytes of scratch are more than {_MOST_SCRATCH}"
    try:
        check_attention(schedule, isa)
    except InvalidSchedule as mistake:
        return str(mistake)
    return None
