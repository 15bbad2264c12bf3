"""The choice of placements on one axis, as an integer linear program.

Every input, node and output is a site that takes one of its options; a value that is made in one
placement and read in another is moved, once for all who read it so. Sites that look alike, as those
of equal layers do, are decided once. The objective is the sum of work and moves, without overlap.
As facility location is formulated: a move is opened only where its source is what the producer's
option gives. Solved by HiGHS (Huangfu and Hall, 2018) through scipy.

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
    """What takes one of its options: it reads values and makes values.

    kind: sites are alike only where theirs are equal.
    """

    options: tuple[Option, ...]
    seconds: tuple[float, ...]
    reads: tuple[Key, ...] = ()
    makes: tuple[Key, ...] = ()
    kind: Hashable = None


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


_ROUNDS = 4
"""How far around a site another one must look alike to be one with it."""


class _Classes:
    """Sites that look alike take the same option: one set of columns for all layers of a model.

    Two sites are alike whose kinds, options and costs are equal, and whose makers and readers are,
    up to `_ROUNDS` steps away (colour refinement). What is chosen is legal for every single site,
    since every pair of a maker and a reader is a pair of their classes; it is the best among
    choices that treat like sites alike.
    """

    def __init__(self, problem: Problem) -> None:
        sites = problem.sites
        made = {key: (n, i) for n, site in enumerate(sites) for i, key in enumerate(site.makes)}
        readers: list[list[tuple[int, int, int]]] = [[] for _ in sites]
        for number, site in enumerate(sites):
            for operand, key in enumerate(site.reads):
                maker, result = made[key]
                readers[maker].append((result, number, operand))
        tied = {n for pair in problem.ties for n in pair}
        colours: list[Hashable] = [
            (site.kind, site.options, site.seconds, n if n in tied else None)
            for n, site in enumerate(sites)
        ]
        self.of = _numbered(colours)
        for _ in range(_ROUNDS):
            refined: list[Hashable] = []
            for number, site in enumerate(sites):
                above = tuple((self.of[made[k][0]], made[k][1]) for k in site.reads)
                below = sorted({(r, self.of[n], operand) for r, n, operand in readers[number]})
                refined.append((self.of[number], above, tuple(below)))
            self.of = _numbered(refined)
        self.members: list[list[int]] = [[] for _ in range(max(self.of, default=-1) + 1)]
        for number, colour in enumerate(self.of):
            self.members[colour].append(number)
        self.readers = readers


def _numbered(colours: Sequence[Hashable]) -> list[int]:
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(colour, len(numbers)) for colour in colours]


class _Program:
    """Rows and columns under construction: columns of a class's options, then those of moves."""

    def __init__(self, problem: Problem, move: MoveCost) -> None:
        self.problem = problem
        self.move = move
        self.classes = _Classes(problem)
        self.costs: list[float] = []
        self.rows: list[tuple[dict[int, float], float, float]] = []
        self.first: list[int] = []
        for members in self.classes.members:
            self.first.append(len(self.costs))
            seconds = problem.sites[members[0]].seconds
            self.costs.extend(len(members) * each * _MICRO for each in seconds)
        self.integers = len(self.costs)

    def solve(self) -> list[int] | None:
        """The chosen option of every site."""
        for colour, members in enumerate(self.classes.members):
            self._row({column: 1.0 for column in self._columns(colour)}, 1.0, 1.0)
            for result in range(len(self.problem.sites[members[0]].makes)):
                self._value(colour, result)
        for one, other in self.problem.ties:
            pairs = zip(*(self._columns(self.classes.of[n]) for n in (one, other)), strict=True)
            for a, b in pairs:
                self._row({a: 1.0, b: -1.0}, 0.0, 0.0)
        found = _milp(self.costs, self.rows, self.integers)
        if found is None:
            return None
        taken = [int(np.argmax(found[list(self._columns(c))])) for c in range(len(self.first))]
        return [taken[colour] for colour in self.classes.of]

    def _columns(self, colour: int) -> range:
        start = self.first[colour]
        return range(start, start + len(self._options(colour)))

    def _options(self, colour: int) -> tuple[Option, ...]:
        return self.problem.sites[self.classes.members[colour][0]].options

    def _row(self, row: dict[int, float], low: float, high: float) -> None:
        self.rows.append((row, low, high))

    def _value(self, maker: int, result: int) -> None:
        """Moves of the values that a class makes, from where they are made to where they are read.

        All members' values are moved alike, and each costs its own.
        """
        members = self.classes.members[maker]
        keys = [self.problem.sites[n].makes[result] for n in members]
        made = self._by_place(maker, lambda option: option.results[result])
        pairs = {
            (self.classes.of[reader], operand)
            for n in members
            for at, reader, operand in self.classes.readers[n]
            if at == result
        }
        wanted: dict[AxisPlacement, dict[int, float]] = {}
        for reader, operand in sorted(pairs):
            demands = self._by_place(reader, lambda option, at=operand: option.operands[at])
            for target, columns in demands.items():
                if target not in wanted:
                    wanted[target] = self._moves(keys, made, target)
                self._row({**dict.fromkeys(columns, 1.0), **wanted[target]}, -np.inf, 0.0)

    def _moves(
        self, keys: Sequence[Key], made: dict[AxisPlacement, list[int]], target: AxisPlacement
    ) -> dict[int, float]:
        """New columns, one for each placement that can be brought to `target`."""
        found: dict[int, float] = {}
        for source, columns in made.items():
            seconds = [self.move(key, source, target) for key in keys]
            legal = [each for each in seconds if each is not None]
            if len(legal) == len(keys):
                column = len(self.costs)
                self.costs.append(sum(legal) * _MICRO)
                self._row({column: 1.0, **dict.fromkeys(columns, -1.0)}, -np.inf, 0.0)
                found[column] = -1.0
        return found

    def _by_place(
        self, colour: int, place: Callable[[Option], AxisPlacement]
    ) -> dict[AxisPlacement, list[int]]:
        found: dict[AxisPlacement, list[int]] = {}
        for column, option in zip(self._columns(colour), self._options(colour), strict=True):
            found.setdefault(place(option), []).append(column)
        return found


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
