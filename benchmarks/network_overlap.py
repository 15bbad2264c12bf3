"""Fuse a product with its collective, or not: the sign, predicted and measured, on public pairs.

    python benchmarks/network_overlap.py [--fit]

The unfused times of a table say how fast its machine multiplies (one factor a table: clocks differ
by up to 20 %); fused times say nothing of that. The constants of an implementation are fitted to
its own fused times; `left out` predicts each pair with constants that were fitted without it.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from network_rows import TABLE
from numpy.typing import NDArray
from scipy.optimize import least_squares

from tilewright.target.network import Cluster, Network, network
from tilewright.target.network.hardware import OVERLAPS
from tilewright.target.network.matmul import MatmulUnit, unit
from tilewright.target.network.overlap import Overlap, Pair, fused_seconds, unfused_seconds

TABLES = TABLE.with_name("pairs.json")
BAR = 0.85
US, GB = 1e-6, 1e9

# Devices without a table of their own: another's constants, scaled by data sheets (dense bfloat16
# 148 and 119.5 against 989 TFLOP/s, memory 4 and 0.864 against 3.35 TB/s; B300 in fp8 twice B200 in
# bfloat16). L20 has no NVLink: its bandwidth is that of the row itself, 88 MB in 11.2 ms.
_H100, _B200 = unit("sm_90"), unit("sm_100_B200")
MACHINES: dict[str, tuple[MatmulUnit, Network]] = {
    "sm_90": (_H100, network("sm_90", queued=True)),
    "sm_100_B200": (_B200, network("sm_100_B200", queued=True)),
    "h20": (
        replace(
            _H100, multiprocessors=78, peak=_H100.peak * 148 / 989, memory=_H100.memory * 4 / 3.35
        ),
        network("sm_90", queued=True),
    ),
    "l20": (
        replace(
            _H100, multiprocessors=92, peak=_H100.peak * 119.5 / 989,
            memory=_H100.memory * 0.864 / 3.35,
        ),
        Network("l20", "switch", bandwidth=7.9 * GB, launch=0.0, hop=5 * US, memory=700 * GB),
    ),
    "b300": (replace(_B200, peak=2 * _B200.peak), network("sm_103", queued=True)),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Measured:
    """A pair of one table: seconds of both ways."""

    source: str
    implementation: str
    hardware: str
    pair: Pair
    unfused: float
    fused: float
    speed: float = 1.0

    @property
    def machine(self) -> tuple[MatmulUnit, Cluster]:
        unit, links = MACHINES[self.hardware]
        return replace(unit, peak=unit.peak * self.speed), Cluster(links, self.pair.ranks)

    def predicted(self, overlap: Overlap) -> tuple[float, float]:
        """Seconds (unfused, fused)."""
        unit, cluster = self.machine
        return (
            unfused_seconds(self.pair, unit, cluster),
            fused_seconds(self.pair, overlap, unit, cluster),
        )

    def right(self, overlap: Overlap) -> bool:
        unfused, fused = self.predicted(overlap)
        return (fused < unfused) == (self.fused < self.unfused)


def pairs() -> list[Measured]:
    """The public pairs, each table with the speed of its machine."""
    rows = [
        _measured(table, row)
        for table in json.loads(TABLES.read_text(encoding="utf-8"))["pairs"]
        for row in table["rows"]
    ]
    speeds = {
        source: speed([row for row in rows if row.source == source])
        for source in {row.source for row in rows}
    }
    return [replace(row, speed=speeds[row.source]) for row in rows]


def speed(rows: Sequence[Measured]) -> float:
    """How fast one table's machine multiplies, relative to the model, from its unfused times."""

    def residuals(logs: NDArray[np.float64]) -> NDArray[np.float64]:
        trial = [replace(row, speed=float(np.exp(logs[0]))) for row in rows]
        return np.array(
            [math.log(unfused_seconds(row.pair, *row.machine) / row.unfused) for row in trial]
        )

    return float(np.exp(least_squares(residuals, [0.0], bounds=(-0.7, 0.3)).x[0]))


def _measured(table: dict[str, object], row: Sequence[float]) -> Measured:
    m, n, k, unfused, fused, *product = row
    pair = Pair(
        "gather_matmul" if table["pattern"] == "gather_matmul" else "matmul_scatter",
        int(str(table["ranks"])),
        int(m),
        int(n),
        int(k),
        int(str(table["itemsize"])),
        product[0] * US if product else None,
        int(str(table["bytes"])) if "bytes" in table else None,
    )
    return Measured(
        str(table["source"]),
        str(table["implementation"]),
        str(table["hardware"]),
        pair,
        unfused * US,
        fused * US,
    )


def fit(start: Overlap, rows: Sequence[Measured]) -> Overlap:
    """The constants of an implementation, nearest to its fused times."""
    # Starts: most of the product's rate, a rate of stores as of NVLink, a few signals.
    first = np.log([0.9, 300 * GB, 5 * US])

    def made(logs: NDArray[np.float64]) -> Overlap:
        compute, rate, peer = (float(v) for v in np.exp(logs))
        return replace(start, compute=compute, rate=rate, peer=peer)

    def residuals(logs: NDArray[np.float64]) -> NDArray[np.float64]:
        overlap = made(logs)
        errors = [math.log(row.predicted(overlap)[1] / row.fused) for row in rows]
        # A weak pull to the start settles what few rows leave open.
        return np.array([*errors, *(0.05 * (logs - first))])

    # Shares end at 1; one row that is off by several times must not decide the others.
    most = np.log([1.0, 1e5 * GB, 1e3 * US])
    return made(
        least_squares(residuals, first, bounds=(first - 9, most), loss="soft_l1", f_scale=0.1).x
    )


def shipped(rows: Sequence[Measured]) -> list[tuple[Measured, Overlap]]:
    """Each pair with the constants of the package."""
    return [(row, OVERLAPS[row.implementation]) for row in rows]


def left_out(rows: Sequence[Measured]) -> list[tuple[Measured, Overlap]]:
    """Each pair with constants that were fitted to the implementation's other pairs."""
    found: list[tuple[Measured, Overlap]] = []
    for row in rows:
        same = [one for one in rows if one.implementation == row.implementation]
        others = [one for one in same if one is not row]
        found.append((row, fit(OVERLAPS[row.implementation], others)))
    return found


def lines(judged: Sequence[tuple[Measured, Overlap]], title: str) -> list[str]:
    """The share of signs that are right, and the pairs where they are not."""
    wrong = [(row, overlap) for row, overlap in judged if not row.right(overlap)]
    found = [
        f"{title}: {1 - len(wrong) / len(judged):.0%} of {len(judged)} signs right (bar {BAR:.0%})"
    ]
    for row, overlap in wrong:
        unfused, fused = row.predicted(overlap)
        found.append(
            f"  missed: {row.source}, {row.pair.ranks} ranks, {row.pair.m}x{row.pair.n}x"
            f"{row.pair.k}: unfused {row.unfused / US:.0f} ({unfused / US:.0f}), fused"
            f" {row.fused / US:.0f} ({fused / US:.0f})"
        )
    return found


def main() -> None:
    """Prints the shares and the misses, or constants fitted anew."""
    parser = argparse.ArgumentParser(description="The sign of fuse / do not fuse.")
    parser.add_argument("--fit", action="store_true", help="print constants fitted anew")
    rows = pairs()
    if parser.parse_args().fit:
        for name, start in OVERLAPS.items():
            one = fit(start, [row for row in rows if row.implementation == name])
            print(
                f"{name}: Overlap({one.compute:.2f}, {one.rate / GB:.0f} * _GB,"
                f" {one.peer / US:.2f} * _US, {one.chunked})"
            )
        return
    print(*lines(shipped(rows), "fuse or not, us measured (predicted)"), sep="\n")
    print(*lines(left_out(rows), "each pair left out of the fit"), sep="\n")


if __name__ == "__main__":
    main()
