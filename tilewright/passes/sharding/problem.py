"""The choice of placements on one axis, as an integer linear program.

Every input, node and output is a site that takes one of its options; a value that is made in one
placement and read in another is moved, once for all who read it so. The objective is the sum of
work and moves, without overlap. As facility location is formulated: a move is opened only where its
source is what the producer's option gives. Solved by HiGHS (Huangfu and Hall, 2018) through scipy.

Source: intra-operator parallelism as an ILP, Alpa (Zheng et al., OSDI 2022); here one axis at a
time, and with moves shared between readers.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tilewright.dsl.errors import MissingPackage
from tilewright.dsl.placement import AxisPlacement
from tilewright.passes.sharding.options import Option

Key = Hashable
"""A value: its graph and its name."""
MoveCost = Callable[[Key, AxisPlacement, AxisPlacement], float | None]
"""Seconds to bring a value from one placement to another; None: there is no way."""
_MICRO = 1e6


@dataclass(frozen=True, slots=True)
class Site:
    """What takes one of its options: it reads values and makes values."""

    options: tuple[Option, ...]
    seconds: tuple[float, ...]
    reads: tuple[Key, ...] = ()
    makes: tuple[Key, ...] = ()


@dataclass
class Problem:
    """Sites, and pairs of sites that take the same of equally many options."""

    sites: list[Site] = field(default_factory=list[Site])
    ties: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    def add(self, site: Site) -> int:
        """The number of a new site."""
        self.sites.append(site)
        return len(self.sites) - 1

    def solve(self, move: MoveCost) -> list[int] | None:
        """The option that each site takes at least cost in all; None where nothing is legal.

        Raises MissingPackage without scipy.
        """
        if any(not site.options for site in self.sites):
            return None
        return _Program(self, move).solve()


class _Program:
    """Rows and columns under construction."""

    def __init__(self, problem: Problem, move: MoveCost) -> None:
        self.problem = problem
        self.move = move
        self.costs: list[float] = []
        self.rows: list[tuple[dict[int, float], float, float]] = []
        self.first: list[int] = []
        for site in problem.sites:
            self.first.append(len(self.costs))
            self.costs.extend(seconds * _MICRO for seconds in site.seconds)
        self.integers = len(self.costs)

    def solve(self) -> list[int] | None:
        """The chosen options."""
        for number, site in enumerate(self.problem.sites):
            self._row({column: 1.0 for column in self._columns(number)}, 1.0, 1.0)
            for place, key in enumerate(site.makes):
                self._value(number, place, key)
        for one, other in self.problem.ties:
            for a, b in zip(self._columns(one), self._columns(other), strict=True):
                self._row({a: 1.0, b: -1.0}, 0.0, 0.0)
        found = _milp(self.costs, self.rows, self.integers)
        if found is None:
            return None
        return [int(np.argmax(found[list(self._columns(n))])) for n in range(len(self.first))]

    def _columns(self, site: int) -> range:
        start = self.first[site]
        return range(start, start + len(self.problem.sites[site].options))

    def _row(self, row: dict[int, float], low: float, high: float) -> None:
        self.rows.append((row, low, high))

    def _value(self, maker: int, place: int, key: Key) -> None:
        """Moves of one value, from where it may be made to where it may be read."""
        made = self._by_place(maker, lambda option: option.results[place])
        wanted: dict[AxisPlacement, dict[int, float]] = {}
        for reader, operand in self._readers(key):
            demands = self._by_place(reader, lambda option, at=operand: option.operands[at])
            for target, columns in demands.items():
                moves = wanted.setdefault(target, self._moves(key, made, target))
                self._row({**dict.fromkeys(columns, 1.0), **moves}, -np.inf, 0.0)

    def _moves(
        self, key: Key, made: dict[AxisPlacement, list[int]], target: AxisPlacement
    ) -> dict[int, float]:
        """New columns, one for each placement that can be brought to `target`."""
        found: dict[int, float] = {}
        for source, columns in made.items():
            seconds = self.move(key, source, target)
            if seconds is not None:
                column = len(self.costs)
                self.costs.append(seconds * _MICRO)
                self._row({column: 1.0, **dict.fromkeys(columns, -1.0)}, -np.inf, 0.0)
                found[column] = -1.0
        return found

    def _by_place(
        self, site: int, place: Callable[[Option], AxisPlacement]
    ) -> dict[AxisPlacement, list[int]]:
        found: dict[AxisPlacement, list[int]] = {}
        for column, option in zip(
            self._columns(site), self.problem.sites[site].options, strict=True
        ):
            found.setdefault(place(option), []).append(column)
        return found

    def _readers(self, key: Key) -> Sequence[tuple[int, int]]:
        if not hasattr(self, "_reading"):
            self._reading: dict[Key, list[tuple[int, int]]] = {}
            for number, site in enumerate(self.problem.sites):
                for operand, read in enumerate(site.reads):
                    self._reading.setdefault(read, []).append((number, operand))
        return self._reading.get(key, [])


def _milp(
    costs: Sequence[float], rows: Sequence[tuple[dict[int, float], float, float]], integers: int
) -> Any:
    """The values of the columns, each in 0..1, the first `integers` of them whole numbers."""
    try:
        optimize = importlib.import_module("scipy.optimize")
        sparse = importlib.import_module("scipy.sparse")
    except ImportError as missing:
        raise MissingPackage(
            "placements are chosen by HiGHS, which comes with scipy",
            fix="pip install 'tilewright[mesh]'",
        ) from missing
    entries = [(r, c, x) for r, (row, _, _) in enumerate(rows) for c, x in row.items()]
    at_row, at_column, values = zip(*entries, strict=True)
    matrix = sparse.csr_matrix((values, (at_row, at_column)), shape=(len(rows), len(costs)))
    limits = optimize.LinearConstraint(matrix, [low for _, low, _ in rows], [h for _, _, h in rows])
    whole = np.zeros(len(costs))
    whole[:integers] = 1
    found = optimize.milp(
        costs, constraints=limits, integrality=whole, bounds=optimize.Bounds(0, 1)
    )
    return found.x
