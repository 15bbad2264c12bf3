"""Measured collectives, how they are split for calibration, and the errors of predictions."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tilewright.target.network import Cluster, Network, seconds
from tilewright.target.network.algorithms import Op

TABLE = Path(__file__).resolve().parent.parent / "tests" / "data" / "network" / "collectives.csv"
MIB = 1 << 20
JUDGED: tuple[Op, ...] = ("all_gather", "all_reduce", "reduce_scatter")

Predictor = Callable[["Row"], float]


@dataclass(frozen=True, slots=True)
class Row:
    """One collective of the table, in bytes and seconds."""

    arch: str
    op: Op
    dtype: str
    ranks: int
    pattern: str
    bytes: int
    seconds: float

    @property
    def step(self) -> int:
        """Place on the grid of sizes, which grows fourfold from 1 MiB (or near it)."""
        return round(math.log2(self.bytes / MIB) / 2)


def load(arch: str, ops: Sequence[Op] = JUDGED, least: int = MIB) -> list[Row]:
    """The rows of one architecture of at least `least` bytes."""
    names: dict[str, Op] = {
        "all-gather": "all_gather",
        "all-reduce": "all_reduce",
        "reduce-scatter": "reduce_scatter",
        "all-to-all": "all_to_all",
        "collective-permute": "permute",
    }
    with TABLE.open(encoding="utf-8", newline="") as file:
        lines = csv.DictReader(line for line in file if not line.startswith("#"))
        rows = [
            Row(
                line["arch"],
                names[line["op"]],
                line["dtype"],
                int(line["devices_per_group"]),
                line["pattern"],
                int(line["bytes"]),
                float(line["us"]) * 1e-6,
            )
            for line in lines
            if line["arch"] == arch
        ]
    return [row for row in rows if row.op in ops and row.bytes >= least]


def halves(rows: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """Every second size of the grid, and the others."""
    even, odd = [], []
    for row in rows:
        (odd if row.step % 2 else even).append(row)
    return even, odd


def predictor(network: Network) -> Predictor:
    """The model's seconds for a row; XLA's all-reduces count as out of place.

    The table does not say so: they take longer than in-place ones elsewhere by two passes over
    memory, at all sizes.
    """

    def predict(row: Row) -> float:
        cluster = Cluster(network, row.ranks)
        return seconds(row.op, row.ranks, row.bytes, cluster, dtype=row.dtype, in_place=False)

    return predict


@dataclass(frozen=True, slots=True)
class Error:
    """geometric: exp(mean |ln(predicted / measured)|) - 1.

    absolute: mean |predicted / measured - 1|.
    """

    geometric: float
    absolute: float
    rows: int

    @classmethod
    def of(cls, predict: Predictor, rows: Sequence[Row]) -> Error:
        ratios = [predict(row) / row.seconds for row in rows]
        logs = sum(abs(math.log(ratio)) for ratio in ratios) / len(ratios)
        return cls(
            math.exp(logs) - 1, sum(abs(ratio - 1) for ratio in ratios) / len(ratios), len(ratios)
        )

    @classmethod
    def mean(cls, errors: Sequence[Error]) -> Error:
        return cls(
            sum(e.geometric for e in errors) / len(errors),
            sum(e.absolute for e in errors) / len(errors),
            sum(e.rows for e in errors),
        )
