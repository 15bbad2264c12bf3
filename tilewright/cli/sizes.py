"""Values of an artifact's symbols, for what is shown and measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from tilewright.dsl.dims import Symbol, evaluate
from tilewright.dsl.errors import SymbolRangeError
from tilewright.dsl.symbols import check_range
from tilewright.runtime.dim_table import read_dim

if TYPE_CHECKING:
    from tilewright.runtime.schema import GraphPlan

USUAL = 128
"""What a symbol is where nobody says, if its range has that value."""


def read_sizes(texts: Iterable[str], symbols: Mapping[str, Symbol]) -> dict[str, int]:
    """`seq=512` and the like. Raises SymbolRangeError for what is no size of the program."""
    found: dict[str, int] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in symbols or not value.isascii() or not value.isdecimal() or len(value) > 18:
            raise SymbolRangeError(
                f"{text[:80]!r} gives no symbol a value",
                fix=f"write name=value; the symbols are: {', '.join(sorted(symbols)) or 'none'}",
            )
        check_range(symbols[name], int(value))
        found[name] = int(value)
    return found


def sizes_of(
    plan: GraphPlan, symbols: Mapping[str, Symbol], given: Mapping[str, int]
) -> dict[str, int]:
    """A value for each symbol of a graph: the given one, else `USUAL` or what is nearest to it.

    Symbols that are given as scalars (how much a cache holds) begin as low as they may. Raises
    SymbolRangeError where the graph cannot run at these values.
    """
    found: dict[str, int] = {}
    for name in plan.symbols:
        symbol = symbols[name]
        usual = symbol.lo if name in plan.bound else min(max(USUAL, symbol.lo), symbol.hi)
        usual -= usual % symbol.multiple_of
        found[name] = given.get(name, max(usual, symbol.lo))
    for text in plan.requires:
        if value(text, symbols, found) < 0:
            raise SymbolRangeError(
                f"graph {plan.name} cannot run at {listed(found)}: {text} would be negative",
                fix="choose smaller sizes with --at",
            )
    return found


def value(text: str, symbols: Mapping[str, Symbol], sizes: Mapping[str, int]) -> int:
    """What a formula of the manifest comes to."""
    return evaluate(read_dim(text, symbols), sizes)


def shape(
    dims: Sequence[str], symbols: Mapping[str, Symbol], sizes: Mapping[str, int]
) -> list[int]:
    """A port's shape in numbers."""
    return [value(text, symbols, sizes) for text in dims]


def listed(sizes: Mapping[str, int]) -> str:
    """`past=0, seq=128`."""
    return ", ".join(f"{name}={size}" for name, size in sorted(sizes.items())) or "no symbols"
