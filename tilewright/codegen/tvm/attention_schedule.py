"""The free choices of an attention kernel. Needs no TVM."""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.dsl.errors import InvalidSchedule
from tilewright.target.cpu import CpuIsa


@dataclass(frozen=True, slots=True)
class AttentionSchedule:
    """`query_rows` rows (queries times the heads that share keys) meet `key_block` keys at a time.

    Both blocks of keys and values are copied to scratch once for so many rows.
    """

    query_rows: int = 64
    key_block: int = 64


def key_tile(isa: CpuIsa) -> int:
    """Rows of a tile of sums; with two vectors of columns they fit the registers."""
    return 8 if isa.vector_registers == 32 else 4


def default_attention_schedule(isa: CpuIsa) -> AttentionSchedule:
    """Scores [64, 64] stay in the L1 cache beside what they are made of."""
    return AttentionSchedule(query_rows=max(4 * isa.lanes_f32, 32), key_block=64)


def check_attention(schedule: AttentionSchedule, isa: CpuIsa) -> None:
    """Raise `InvalidSchedule` unless blocks are whole tiles."""
    if schedule.query_rows < 1 or schedule.query_rows % (2 * isa.lanes_f32):
        raise InvalidSchedule(f"{schedule}: query_rows must be a multiple of {2 * isa.lanes_f32}")
    if schedule.key_block < 1 or schedule.key_block % key_tile(isa):
        raise InvalidSchedule(f"{schedule}: key_block must be a multiple of {key_tile(isa)}")
