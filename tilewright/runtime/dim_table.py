"""Dimension texts of a plan, compiled: all their values at once, or a few of them again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tilewright.dsl.dims import Dim, Evaluator, Symbol, compile_dim, of_symbol, parse_dim
from tilewright.dsl.dims import symbols as symbols_of
from tilewright.dsl.errors import SymbolRangeError
from tilewright.dsl.ident import ident
from tilewright.runtime.schema import SymbolRecord


def symbol_table(records: Iterable[SymbolRecord]) -> dict[str, Symbol]:
    """The symbols by name. Raises InvalidName and DimError."""
    return {r.name: Symbol(ident(r.name), r.lo, r.hi, r.multiple_of) for r in records}


def read_dim(text: str, symbols: Mapping[str, Symbol]) -> Dim:
    """`parse_dim`, without a parser for numbers and lone symbols. Raises DimError."""
    if text.isascii() and text.isdecimal() and len(text) <= 18:
        return int(text)
    return of_symbol(symbols[text]) if text in symbols else parse_dim(text, symbols)


class DimTable:
    """Numbers each distinct text; `evaluate` gives the values by number.

    Raises DimError for a text that does not parse over the symbols named in `order`.
    """

    def __init__(self, symbols: Mapping[str, Symbol], order: Sequence[str]) -> None:
        self.order = tuple(order)
        self._symbols = {name: symbols[name] for name in order}
        self._numbers: dict[str, int] = {}
        self._values: list[int] = []
        self._evaluators: dict[int, Evaluator] = {}
        self._mentions: dict[int, frozenset[str]] = {}

    def number(self, text: str) -> int:
        """The number of a text."""
        known = self._numbers.get(text)
        if known is not None:
            return known
        size = read_dim(text, self._symbols)
        found = len(self._values)
        if isinstance(size, int):
            self._values.append(size)
        else:
            self._values.append(0)
            self._evaluators[found] = compile_dim(size, self.order)
            self._mentions[found] = frozenset(symbol.name for symbol in symbols_of(size))
        self._numbers[text] = found
        return found

    def numbers(self, texts: Iterable[str]) -> NDArray[np.intp]:
        """The numbers of several texts, to gather their values by."""
        return np.array([self.number(text) for text in texts], np.intp)

    def mentions(self, numbers: Iterable[int]) -> frozenset[str]:
        """Names of the symbols on which the values of these numbers depend."""
        found: set[str] = set()
        for number in numbers:
            found |= self._mentions.get(number, frozenset())
        return frozenset(found)

    def evaluate(self, symbols: Sequence[int]) -> NDArray[np.int64]:
        """All values for the symbols' values in order. Raises SymbolRangeError beyond 64 bits."""
        values = self._values.copy()
        for number, evaluator in self._evaluators.items():
            values[number] = evaluator(symbols)
        try:
            return np.array(values, np.int64)
        except OverflowError:
            raise _too_large() from None

    def value(self, number: int, symbols: Sequence[int]) -> int:
        """One value, as `evaluate` gives it. Raises SymbolRangeError beyond 64 bits."""
        evaluator = self._evaluators.get(number)
        found = self._values[number] if evaluator is None else evaluator(symbols)
        if not -1 << 63 <= found < 1 << 63:
            raise _too_large()
        return found


def _too_large() -> SymbolRangeError:
    return SymbolRangeError(
        "these sizes are too large: a buffer would not fit any memory", fix="use smaller inputs"
    )
