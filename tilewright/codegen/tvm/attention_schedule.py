"""The free choices of an attention kernel. Needs no TVM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tilewright.codegen.tvm.matmul_schedule import row_stride
from tilewright.dsl.errors import InvalidSchedule
from tilewright.target.cpu import CpuIsa

FEW: Final = 4
"""So many rows, or fewer, take dot products along the head: their lanes would mostly be empty."""

_ROWS: Final = 256
_KEYS: Final = 64
_USUAL_HEAD: Final = 128
"""Rows and keys that meet by default, of heads of this size; fewer of larger ones."""


@dataclass(frozen=True, slots=True)
class AttentionSchedule:
    """`query_rows` rows (queries times the heads that share keys) meet `key_block` keys at a time.

    Both blocks of keys and values are copied to scratch once for so many rows. Scores are summed
    in registers as tiles of `key_rows` keys by `query_vectors` vectors of rows, the result as tiles
    of `sum_rows` rows by `value_vectors` vectors of columns; `unroll` steps of the summed axis
    form one turn of both inner loops. Few rows, which take dot products, meet so many keys at a
    time that these and their values are `few_elements`: they stay in the L1 cache.
    """

    query_rows: int
    key_block: int
    key_rows: int = 4
    query_vectors: int = 2
    sum_rows: int = 4
    value_vectors: int = 2
    unroll: int = 4
    few_elements: int = 8192


def default_attention_schedule(depth: int, width: int, isa: CpuIsa) -> AttentionSchedule:
    """For heads of `depth` elements and values of `width`.

    Keys and values are copied for so many rows that computing takes far longer; a block of them,
    and with it the rows' scores, leaves room in L2.
    """
    rows = 8 if isa.vector_registers == 32 else 6 if isa.fma else 4
    strip, size = 2 * isa.lanes_f32, max(depth, width, _USUAL_HEAD)
    strips = max(1, _ROWS * _USUAL_HEAD // size // strip)
    tiles = max(1, _KEYS * _USUAL_HEAD // size // rows)
    return AttentionSchedule(strips * strip, tiles * rows, key_rows=rows, sum_rows=rows)


def few_keys(elements: int, each: int, block: int) -> int:
    """Keys that a few rows meet at a time, where a key and its value have `each` elements."""
    return min(block, max(8, elements // each))


def tile_registers(rows: int, vectors: int) -> int:
    """Registers of a tile of sums: itself, one row of the right side and one value of the left."""
    return rows * vectors + vectors + 1


def scratch_bytes(schedule: AttentionSchedule, depth: int, width: int) -> int:
    """Stack that a kernel takes for heads of `depth` elements and values of `width`."""
    rows, keys = schedule.query_rows, schedule.key_block
    line, value_line = row_stride(rows), row_stride(width)
    return 4 * (rows * (depth + width + 4) + line * depth + keys * (depth + value_line + line))


def check_attention(schedule: AttentionSchedule, isa: CpuIsa) -> None:
    """Raise `InvalidSchedule` unless sizes are positive and blocks are whole tiles."""
    sizes = (schedule.sum_rows, schedule.value_vectors, schedule.unroll, schedule.few_elements)
    tile = schedule.query_vectors * isa.lanes_f32
    if min(*sizes, tile, schedule.key_rows) < 1:
        raise InvalidSchedule(f"{schedule}: sizes start at 1")
    if schedule.query_rows < 1 or schedule.query_rows % tile:
        raise InvalidSchedule(f"{schedule}: query_rows must be a multiple of {tile}")
    if schedule.key_block < 1 or schedule.key_block % schedule.key_rows:
        raise InvalidSchedule(f"{schedule}: key_block must be a multiple of {schedule.key_rows}")
