"""What tiles of sums cost by the rules of the machine: a prior for searches, never a decision.

A core issues two vector multiply-adds and two vector loads a cycle, and a multiply-add waits four
cycles for the one before it on the same sum; that holds for x86 cores since 2013 and large Arm
cores. Costs are over the time that multiply-adds alone would take.
"""

from __future__ import annotations

from typing import Final

_FMAS, _LOADS, _WAIT = 2, 2, 4
_TURN: Final = 0.5
"""Cycles that the end of a loop's turn costs beside vector work."""
_L1, _L2 = 32 << 10, 512 << 10
"""Bytes that even small cores have; priors need not know more."""
_COPY: Final = 3.0
"""Cycles to copy a vector to scratch, with its address."""
_SPILL: Final = 0.15
"""What it costs where a block exceeds the cache that it should stay in."""


def tile_cost(rows: int, vectors: int, unroll: int, chains: int | None = None) -> float:
    """Of a step along the summed axis of a tile of `rows` by `vectors` sums; 1 at best.

    chains: sums that do not wait for each other, by default one for each of the tile.
    """
    products = rows * vectors
    busy = max(products / _FMAS, (rows + vectors) / _LOADS)
    waiting = _WAIT * products / (products if chains is None else chains)
    return (max(busy, waiting) + _TURN / unroll) / (products / _FMAS)


def product_cost(
    mr: int, nv: int, kc: int, mc: int, unroll: int, lanes: int, *, packed: bool
) -> float:
    """Of a matrix product by tiles of mr x nv vectors, see `MatmulSchedule`; `packed` where every
    panel's rows are copied first.
    """
    sets = max(1, min(unroll, 8 // (mr * nv)))
    cost = tile_cost(mr, nv, unroll, mr * nv * sets)
    cost += 2 * _FMAS / kc  # sums rest in memory between parts
    cost += _FMAS * lanes / (4 * mc)  # a panel comes from beyond L2 for so many rows
    if packed:
        cost += _COPY * _FMAS * (1 / (nv * lanes) + 1 / mc)
    if 4 * kc * nv * lanes > _L1 // 2:
        cost += _SPILL
    return cost + (_SPILL if 4 * mc * kc > _L2 else 0.0)


def attention_cost(
    rows: int, keys: int, scores: tuple[int, int], sums: tuple[int, int], unroll: int
) -> float:
    """Of attention: tiles (rows, vectors) of scores and of sums, see `AttentionSchedule`."""
    cost = (tile_cost(*scores, unroll) + tile_cost(*sums, unroll)) / 2
    cost += _COPY * _FMAS / rows  # keys and values are copied for so many rows
    cost += 2 * _FMAS / keys  # sums rest in memory between blocks of keys
    return cost + (_SPILL if 4 * rows * keys > _L1 // 2 else 0.0)
