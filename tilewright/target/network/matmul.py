"""Seconds of a matrix product alone: tiles in waves over the multiprocessors, or memory.

Sources of the form: the waves of NVIDIA's "Matrix multiplication background user's guide" (2023),
the last of which is shared out as in stream-K (Osama et al., PPoPP 2023); and the roofline.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from tilewright.dsl.errors import UncalibratedNetwork

_TILES: Final = ((128, 256), (128, 128), (64, 128), (64, 64))
_SPLITS: Final = (1, 2, 4, 8)
_US: Final = 1e-6


@dataclass(frozen=True, slots=True)
class MatmulUnit:
    """A device that multiplies.

    multiprocessors: tiles at a time. peak: operations a second that tiles without edges would
    reach. edge: a tile of a x b works like one of a b + edge (a + b). memory: bytes a second.
    launch, start: seconds before the first tile, and of each wave.
    """

    multiprocessors: int
    peak: float
    edge: float
    memory: float
    launch: float
    start: float


# Fitted by benchmarks/network_matmul.py to XLA's table of bfloat16 products (from jax-cuda12-pjrt
# 0.12.0.1, Apache-2.0), 187 shapes each; the error of each fit is printed there.
UNITS: Final[Mapping[str, MatmulUnit]] = MappingProxyType(
    {
        "sm_90": MatmulUnit(132, 1.02e15, 19.7, 2.89e12, 3.79 * _US, 2.0 * _US),
        "sm_100_B200": MatmulUnit(148, 2.1e15, 21.8, 5.75e12, 3.53 * _US, 2.32 * _US),
    }
)


def unit(name: str) -> MatmulUnit:
    """The constants of an architecture. Raises `UncalibratedNetwork`."""
    if name not in UNITS:
        raise UncalibratedNetwork(
            f"no matmul constants for {name!r}; there are some for {', '.join(UNITS)}",
            fix="measure matrix products there and fit them (docs/network-model.md)",
        )
    return UNITS[name]


def matmul_seconds(
    unit: MatmulUnit, m: int, n: int, k: int, *, batch: int = 1, itemsize: int = 2
) -> float:
    """Seconds of `batch` products of (m, k) by (k, n), with the best of the usual tiles and splits
    of k.
    """
    moved = itemsize * batch * (m * k + k * n + m * n) / unit.memory
    waves = min(_waves(unit, batch, m, n, k, tile, split) for tile in _TILES for split in _SPLITS)
    return unit.launch + max(waves, moved)


def _waves(
    unit: MatmulUnit, batch: int, m: int, n: int, k: int, tile: tuple[int, int], split: int
) -> float:
    rows, columns = tile
    tiles = batch * math.ceil(m / rows) * math.ceil(n / columns) * split
    waves = max(tiles / unit.multiprocessors, 1.0)
    area = rows * columns + unit.edge * (rows + columns)
    one = 2 * area * (k / split) / (unit.peak / unit.multiprocessors)
    return waves * (one + unit.start) + (unit.start if split > 1 else 0.0)
