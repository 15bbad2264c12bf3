"""Fits the network model's constants to measured collectives.

    python benchmarks/network_fit.py [--arch sm_90 ...]

Prints each architecture's constants from all rows of at least 1 MiB, as `hardware.py` holds them.
The residuals are logarithms, so that a row of 30 us weighs as much as one of 30 ms.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from network_rows import Predictor, Row, load, predictor
from numpy.typing import NDArray
from scipy.optimize import least_squares

from tilewright.target.network import Network

US, GB = 1e-6, 1e9
# A search of the logarithms may not wander off: no constant is a million times its start.
LIMIT = 14.0
STARTS = 4
MOST_STEPS = 60  # a search that has not ended by then is in a corner
SPREAD = 0.4


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a calibration starts (data sheets and round figures), and what it may change."""

    start: Network
    free: tuple[str, ...]


_SWITCH = ("bandwidth", "launch", "hop", "fill", "switch_bandwidth", "switch_hop")
_PAIRS = ("copy", "reduce")
_NVLINK = Network(
    "nvlink", "switch", bandwidth=400 * GB, launch=10 * US, hop=1 * US, memory=2600 * GB,
    fill=3 * US, copy=1000 * GB, reduce=700 * GB, switch_bandwidth=350 * GB, switch_hop=5 * US,
)  # fmt: skip
_XGMI = Network(
    "xgmi", "mesh", bandwidth=50 * GB, launch=0.0, hop=3 * US, memory=5000 * GB, start=20 * US,
    reduce=1000 * GB,
)  # fmt: skip

# The memory's rate on NVIDIA is not fitted: it is what the table's all-reduces take longer than the
# same ones in place elsewhere (H100 at 256 MiB: 1262 against 1095 us of MSCCL++'s figure; B200 843
# against 715 us on GCP's A4), for twice the bytes.
PLANS = {
    "sm_90": Plan(_NVLINK, (*_SWITCH, *_PAIRS)),
    "sm_100_B200": Plan(
        replace(_NVLINK, bandwidth=800 * GB, switch_bandwidth=600 * GB, memory=4000 * GB),
        (*_SWITCH, *_PAIRS),
    ),
    "sm_100_GB200": Plan(
        replace(
            _NVLINK, bandwidth=800 * GB, switch_bandwidth=600 * GB, memory=4000 * GB,
            copy=float("inf"), reduce=float("inf"),
        ),
        _SWITCH,
    ),
    "sm_103": Plan(
        replace(
            _NVLINK, bandwidth=800 * GB, switch_bandwidth=600 * GB, memory=4000 * GB,
            copy=float("inf"), reduce=float("inf"),
        ),
        _SWITCH,
    ),
    "gfx942": Plan(
        replace(_XGMI, protocols=("low_latency", "bulk"), flag_latency=0.7),
        ("bandwidth", "start", "hop", "reduce", "reduce_bf16", "memory", "flag_latency"),
    ),
    "gfx950": Plan(
        replace(_XGMI, start=50 * US, second_phase=0.0, bandwidth=65 * GB, reduce=500 * GB),
        (
            "bandwidth", "start", "hop", "scatter_hop", "reduce", "reduce_bf16", "reduce_pair",
            "memory",
        ),
    ),
}  # fmt: skip


def fit(plan: Plan, rows: Sequence[Row]) -> Network:
    """The network whose predictions are nearest to `rows` in least squares of logarithms."""
    measured = np.log([row.seconds for row in rows])

    def network(logs: NDArray[np.float64]) -> Network:
        values = {name: float(v) for name, v in zip(plan.free, np.exp(logs), strict=True)}
        return replace(plan.start, **values)

    def residuals(logs: NDArray[np.float64]) -> NDArray[np.float64]:
        predict = predictor(network(logs))
        return np.log([predict(row) for row in rows]) - measured

    first = np.log([getattr(plan.start, name) for name in plan.free])
    # Which protocol serves a row switches with the constants, so a search may end in a corner: the
    # best of several starts is taken, by the given rows alone.
    draws = np.random.default_rng(0).normal(0.0, SPREAD, (STARTS - 1, len(first)))
    return network(_least(residuals, [first, *(first + draw for draw in draws)]))


def alpha_beta(rows: Sequence[Row]) -> tuple[Predictor, int]:
    """Latency and bandwidth of each (op, ranks) alone, and how many constants those are."""
    lines: dict[tuple[str, int], NDArray[np.float64]] = {}
    for key in sorted({(row.op, row.ranks) for row in rows}):
        chosen = [row for row in rows if (row.op, row.ranks) == key]
        sizes = np.array([row.bytes for row in chosen], dtype=np.float64)
        measured = np.array([row.seconds for row in chosen])

        def residuals(
            logs: NDArray[np.float64],
            sizes: NDArray[np.float64] = sizes,
            measured: NDArray[np.float64] = measured,
        ) -> NDArray[np.float64]:
            alpha, beta = np.exp(logs)
            return np.log((alpha + sizes / beta) / measured)

        lines[key] = np.exp(_least(residuals, [np.log([20 * US, 300 * GB])]))

    def predict(row: Row) -> float:
        alpha, beta = lines[row.op, row.ranks]
        return float(alpha + row.bytes / beta)

    return predict, 2 * len(lines)


def _least(
    residuals: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    starts: Sequence[NDArray[np.float64]],
) -> NDArray[np.float64]:
    low, high = starts[0] - LIMIT, starts[0] + LIMIT
    found = [
        least_squares(residuals, start, bounds=(low, high), max_nfev=MOST_STEPS) for start in starts
    ]
    best = int(np.argmin([one.cost for one in found]))
    return np.asarray(found[best].x, dtype=np.float64)


def shown(network: Network, free: Sequence[str]) -> str:
    """The fitted constants in the units of `hardware.py`."""
    parts: list[str] = []
    for name in free:
        value = float(getattr(network, name))
        if name in ("launch", "start", "hop", "fill", "switch_hop"):
            parts.append(f"{name}={value / US:.2f} * _US")
        elif name in ("bandwidth", "copy", "reduce", "memory", "switch_bandwidth"):
            parts.append(f"{name}={value / GB:.4g} * _GB")
        else:
            parts.append(f"{name}={value:.3g}")
    return ", ".join(parts)


def main() -> None:
    """Prints the constants fitted to all rows."""
    parser = argparse.ArgumentParser(description="Fits the network model's constants.")
    parser.add_argument("--arch", nargs="*", default=list(PLANS), choices=list(PLANS))
    for arch in parser.parse_args().arch:
        plan = PLANS[arch]
        print(f"{arch}: {shown(fit(plan, load(arch)), plan.free)}")


if __name__ == "__main__":
    main()
