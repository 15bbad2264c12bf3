"""Fits the constants of matrix products to a public table.

    python benchmarks/network_matmul.py

Prints them, and the error on every second shape after a fit to the others.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from network_rows import TABLE
from numpy.typing import NDArray
from scipy.optimize import least_squares

from tilewright.target.network.matmul import UNITS, MatmulUnit, matmul_seconds

PRODUCTS = TABLE.with_name("gemm.csv")
FREE = ("peak", "edge", "memory", "launch", "start")


@dataclass(frozen=True, slots=True)
class Product:
    arch: str
    batch: int
    m: int
    n: int
    k: int
    seconds: float


def products(arch: str) -> list[Product]:
    """The products of one architecture."""
    with PRODUCTS.open(encoding="utf-8", newline="") as file:
        lines = csv.DictReader(line for line in file if not line.startswith("#"))
        return [_product(line) for line in lines if line["arch"] == arch]


def _product(line: Mapping[str, str]) -> Product:
    b, m, n, k = (int(line[name]) for name in "bmnk")
    return Product(line["arch"], b, m, n, k, 2 * b * m * n * k / float(line["flops_per_s"]))


def predicted(unit: MatmulUnit, one: Product) -> float:
    """Seconds by the model."""
    return matmul_seconds(unit, one.m, one.n, one.k, batch=one.batch)


def error(unit: MatmulUnit, rows: Sequence[Product]) -> float:
    """exp(mean |ln(predicted / measured)|) - 1."""
    logs = [abs(math.log(predicted(unit, one) / one.seconds)) for one in rows]
    return math.exp(sum(logs) / len(logs)) - 1


def fit(multiprocessors: int, rows: Sequence[Product]) -> MatmulUnit:
    """The unit whose predictions are nearest in least squares of logarithms."""
    start = MatmulUnit(multiprocessors, 1e15, 30.0, 3e12, 3e-6, 1e-6)
    first = np.log([getattr(start, name) for name in FREE])

    def made(logs: NDArray[np.float64]) -> MatmulUnit:
        values = [float(v) for v in np.exp(logs)]
        return replace(start, **dict(zip(FREE, values, strict=True)))

    def residuals(logs: NDArray[np.float64]) -> NDArray[np.float64]:
        unit = made(logs)
        return np.array([math.log(predicted(unit, one) / one.seconds) for one in rows])

    return made(least_squares(residuals, first).x)


def main() -> None:
    """Prints fitted constants; the error on every second shape after a fit to the others."""
    for arch, known in UNITS.items():
        rows = products(arch)
        ways = [(rows[::2], rows[1::2]), (rows[1::2], rows[::2])]
        held = [error(fit(known.multiprocessors, given), judged) for given, judged in ways]
        found = fit(known.multiprocessors, rows)
        constants = ", ".join(f"{name}={getattr(found, name):.3g}" for name in FREE)
        print(f"{arch}: {constants}; held-out shapes {sum(held) / 2:.1%}")


if __name__ == "__main__":
    main()
