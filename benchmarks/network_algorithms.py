"""Which algorithm of an all-reduce is fastest: predicted and measured, on public tables.

    python benchmarks/network_algorithms.py [--fit]

A point counts where the fastest algorithm is more than 5 % ahead of the next. Columns of one
algorithm by several authors count as one, at the fastest. The constants of H100's kernels were
fitted to these tables; `others` says how many points are right when each table is predicted with
constants fitted to the other tables alone.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from network_rows import TABLE
from numpy.typing import NDArray
from scipy.optimize import least_squares

from tilewright.target.network import Cluster, Network, network, seconds
from tilewright.target.network.algorithms import Algorithm
from tilewright.target.network.hardware import KERNELS, NICS
from tilewright.target.network.kernels import Kernel, kernel_seconds

TABLES = TABLE.with_name("algorithms.json")
GAP = 0.05
BAR = 0.85
US = 1e-6
H100 = "sm_90"
_LIBRARY: Mapping[str, Algorithm] = {
    "library_ring": "ring",
    "library_switch": "switch",
    "ring": "ring",
    "tree": "tree",
}


@dataclass(frozen=True, slots=True)
class Point:
    """One size of one table: measured and predicted seconds by algorithm."""

    source: str
    ranks: int
    bytes: int
    measured: Mapping[str, float]
    predicted: Mapping[str, float]

    @property
    def gap(self) -> float:
        first, second = sorted(self.measured.values())[:2]
        return second / first - 1

    @property
    def right(self) -> bool:
        return _first(self.measured) == _first(self.predicted)


@dataclass(frozen=True, slots=True)
class Table:
    source: str
    hardware: str
    ranks: int
    nodes: int
    algorithms: tuple[str, ...]
    rows: tuple[tuple[float, ...], ...]

    def points(self, links: Network, kernels: Mapping[str, Kernel]) -> list[Point]:
        """What is measured and predicted at each size."""
        cluster = Cluster(links, self.ranks // self.nodes, self.nodes, NICS[self.hardware])
        return [self._point(row, cluster, kernels) for row in self.rows]

    def _point(
        self, row: Sequence[float], cluster: Cluster, kernels: Mapping[str, Kernel]
    ) -> Point:
        size = int(row[0])
        measured: dict[str, float] = {}
        for name, us in zip(self.algorithms, row[1:], strict=True):
            measured[name] = min(us * US, measured.get(name, math.inf))
        predicted = {name: predict(name, self.ranks, size, cluster, kernels) for name in measured}
        return Point(self.source, self.ranks, size, measured, predicted)


def predict(
    name: str, ranks: int, size: int, cluster: Cluster, kernels: Mapping[str, Kernel]
) -> float:
    """Seconds of an all-reduce by the library, a kernel, or one of the library's algorithms."""
    if name == "library":
        return seconds("all_reduce", ranks, size, cluster)
    if name in kernels:
        return kernel_seconds(kernels[name], "all_reduce", ranks, size, cluster)
    return seconds("all_reduce", ranks, size, cluster, _LIBRARY[name])


def tables() -> list[Table]:
    """The public tables."""
    given = json.loads(TABLES.read_text(encoding="utf-8"))["tables"]
    return [
        Table(
            one["source"], one["hardware"], one["ranks"], one["nodes"], tuple(one["algorithms"]),
            tuple(tuple(row) for row in one["rows"]),
        )
        for one in given
    ]  # fmt: skip


def judged(tables: Sequence[Table]) -> list[Point]:
    """The points with a clear winner, predicted with the constants of the package."""
    return [
        point for table in tables for point in table.points(*_shipped(table)) if point.gap > GAP
    ]


def judged_by_others(tables: Sequence[Table]) -> list[Point]:
    """The same points of H100's kernels, each table predicted from the other tables."""
    fitted = [table for table in tables if _is_fitted(table)]
    # Nothing else is known of MSCCL++'s kernel than its own table.
    judged = [table for table in fitted if "mscclpp" not in table.algorithms]
    found: list[Point] = []
    for table in judged:
        links, kernels = fit([other for other in fitted if other is not table])
        found += [point for point in table.points(links, kernels) if point.gap > GAP]
    return found


def fit(tables: Sequence[Table]) -> tuple[Network, Mapping[str, Kernel]]:
    """Kernels of H100 and the wait of a queued library call, nearest to what was measured.

    Calls that were timed one by one from Python share a cost of their own, which is fitted too.
    """
    links, kernels = network(H100, queued=True), KERNELS[H100]
    # Starts: round figures for launches of some microseconds and most of the links' bandwidth.
    first = np.log([5.0, *([8.0, 0.5, 0.8] * len(kernels)), 5.0])

    def made(logs: NDArray[np.float64]) -> tuple[Network, Mapping[str, Kernel], float]:
        values = [float(v) for v in np.exp(logs)]
        given = [values[1 + 3 * i : 4 + 3 * i] for i in range(len(kernels))]
        return (
            replace(links, launch=0.0, switch_hop=values[0] * US),
            {
                name: replace(kernel, launch=launch * US, peer=peer * US, share=share)
                for (name, kernel), (launch, peer, share) in zip(
                    kernels.items(), given, strict=True
                )
            },
            values[-1] * US,
        )

    def residuals(logs: NDArray[np.float64]) -> NDArray[np.float64]:
        links, kernels, call = made(logs)
        errors = [
            math.log((point.predicted[name] + (call if _from_python(table) else 0)) / measured)
            for table in tables
            for point in table.points(links, kernels)
            for name, measured in point.measured.items()
        ]
        # A weak pull to the start settles what the given tables do not speak of.
        return np.array([*errors, *(0.05 * (logs - first))])

    found = made(least_squares(residuals, first).x)
    return found[0], found[1]


def _shipped(table: Table) -> tuple[Network, Mapping[str, Kernel]]:
    return network(table.hardware, queued=True), KERNELS.get(table.hardware, {})


def _is_fitted(table: Table) -> bool:
    return table.hardware == H100 and table.nodes == 1 and len(table.rows) > 1


def _from_python(table: Table) -> bool:
    return "Helion" in table.source


def _first(times: Mapping[str, float]) -> str:
    return min(times, key=lambda name: times[name])


def lines(points: Sequence[Point], title: str) -> list[str]:
    """The share of points that are right, and those that are not."""
    wrong = [point for point in points if not point.right]
    share = 1 - len(wrong) / len(points)
    found = [f"{title}: {share:.0%} of {len(points)} points right (bar {BAR:.0%})"]
    for point in wrong:
        times = ", ".join(
            f"{name} {point.measured[name] / US:.1f} ({point.predicted[name] / US:.1f})"
            for name in point.measured
        )
        where = f"{point.source[:40]}, {point.ranks} ranks, {point.bytes} B"
        found.append(f"  missed: {where}: {times}")
    return found


def main() -> None:
    """Prints the shares and the misses, or constants fitted anew."""
    parser = argparse.ArgumentParser(description="Winners among algorithms of an all-reduce.")
    parser.add_argument("--fit", action="store_true", help="print constants fitted anew")
    if parser.parse_args().fit:
        links, kernels = fit([table for table in tables() if _is_fitted(table)])
        print(f"launch={links.launch / US:.2f} us, switch_hop={links.switch_hop / US:.2f} us")
        for name, k in kernels.items():
            print(f"{name}: {k.launch / US:.2f} us, {k.peer / US:.2f} us, {k.share:.2f}")
        return
    print(*lines(judged(tables()), "winners, seconds in us measured (predicted)"), sep="\n")
    print(*lines(judged_by_others(tables()), "H100's kernels from the other tables"), sep="\n")


if __name__ == "__main__":
    main()
