"""Symbol values of a study: those at which time is taken, and smaller ones for the reference.

The reference computes in float64, element by element of the meaning: it is given what it can do in
a second or two, whatever the sizes that are timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import prod

import numpy as np

from tilewright.codegen.region_cost import region_cost
from tilewright.codegen.steps import call_requirements
from tilewright.dsl.dims import Dim, Symbol, evaluate
from tilewright.dsl.errors import SymbolRangeError
from tilewright.dsl.graph import Graph
from tilewright.dsl.sampling import draw_symbols
from tilewright.dsl.symbols import check_range, graph_symbols

ROWS = 128
"""Rows at which kernels and graphs are timed where nobody says: those of a prompt."""
_FLOPS = 1 << 30
"""What one evaluation of the reference may cost."""
_TRIES = 16

Sizes = Mapping[str, int]


def typical_sizes(graph: Graph, given: Sizes) -> dict[str, int]:
    """Symbol values at which a whole graph is timed: those given, the rest as large as a prompt.

    Raises SymbolRangeError for a given value that is out of range, or not one of the graph.
    """
    symbols: dict[str, Symbol] = {symbol.name: symbol for symbol in graph_symbols(graph)}
    for name, size in given.items():
        if name not in symbols:
            raise SymbolRangeError(
                f"graph {graph.name} has no symbol {name!r}",
                fix=f"its symbols are: {', '.join(symbols) or 'none'}",
            )
        check_range(symbols[name], size)
    return largest_sizes(graph, lambda sizes: prod(sizes.values()) <= ROWS, given)


def largest_sizes(graph: Graph, fits: Callable[[Sizes], bool], given: Sizes) -> dict[str, int]:
    """The largest symbol values that fit, grown in turn beside the given ones; else the least."""
    first, *more = _growing(graph, given)
    found = first
    for trial in more:
        if not fits(trial):
            break
        found = trial
    return found


def checked_sizes(graph: Graph, timed: Sizes, fits: Callable[[Sizes], bool]) -> list[Sizes]:
    """Two sets: tiny ones, and the largest up to the timed ones that the reference can afford.

    The latter fit, where any do; so a kernel is checked in the shape class that it is for.
    """
    flops = sum((region_cost(node).flops for node in graph.nodes), start=_ZERO)
    fitting = [s for s in _growing(graph, {}, timed) if fits(s)] or [timed]
    modest = fitting[0]
    for trial in fitting:
        if _number(flops, trial) <= _FLOPS:
            modest = trial
    return [_tiny(graph) or modest, modest]


_ZERO: Dim = 0


def _tiny(graph: Graph) -> dict[str, int] | None:
    rng = np.random.default_rng(0)
    for _ in range(_TRIES):
        sizes = draw_symbols(graph, rng)
        if _legal(graph, sizes):
            return sizes
    return None


def _growing(graph: Graph, given: Sizes, last: Sizes | None = None) -> Iterator[dict[str, int]]:
    """The least sizes, then with one after another doubled, up to `last` or all that is legal."""
    symbols = graph_symbols(graph)
    units: dict[str, int] = {s.name: s.multiple_of for s in symbols}
    found: dict[str, int] = {s.name: -(-s.lo // s.multiple_of) * s.multiple_of for s in symbols}
    most: dict[str, int] = {s.name: s.hi // s.multiple_of * s.multiple_of for s in symbols}
    for name, size in given.items():
        found[name] = most[name] = size
    most |= {} if last is None else last
    yield dict(found)
    while any(found[name] < most[name] for name in found):
        for name in sorted(name for name in found if found[name] < most[name]):
            found[name] = min(max(found[name] * 2, units[name]), most[name])
            if _legal(graph, found):
                yield dict(found)


def _legal(graph: Graph, sizes: Sizes) -> bool:
    return all(_number(size, sizes) >= 0 for size in call_requirements(graph))


def _number(size: Dim, sizes: Sizes) -> int:
    return size if isinstance(size, int) else evaluate(size, sizes)
