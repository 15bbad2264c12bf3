"""The values of a plan's sizes."""

import pytest

from tilewright.dsl.dims import Symbol
from tilewright.dsl.errors import SymbolRangeError
from tilewright.dsl.ident import Ident
from tilewright.runtime.dim_table import DimTable


def test_values_are_those_of_the_call() -> None:
    table = DimTable({"n": Symbol(Ident("n"), 1, 99)}, ["n"])
    double = table.number("2*n")
    first = table.evaluate([3])
    assert first[double] == 6
    assert table.evaluate([4])[double] == 8
    assert first[double] == 6, "an earlier call's values stay"
    more = table.number("n + 1")
    assert table.evaluate([4])[more] == 5, "a text that came later counts"
    assert table.value(more, [7]) == 8
    assert table.value(table.number("12"), [7]) == 12


def test_symbols_that_decide_a_value_are_known() -> None:
    table = DimTable({n: Symbol(Ident(n), 1, 99) for n in "kmn"}, ["k", "m", "n"])
    numbers = [table.number(text) for text in ("12", "2*n", "m + n")]
    assert [table.mentions([number]) for number in numbers] == [set(), {"n"}, {"m", "n"}]
    assert table.mentions(numbers) == {"m", "n"}
    assert table.mentions([]) == set()


def test_values_beyond_64_bits_are_refused() -> None:
    table = DimTable({"n": Symbol(Ident("n"), 1, (1 << 40) - 1)}, ["n"])
    square = table.number(f"{1 << 40}*n")
    assert table.value(square, [1]) == 1 << 40
    for run in (lambda: table.value(square, [1 << 39]), lambda: table.evaluate([1 << 39])):
        with pytest.raises(SymbolRangeError):
            run()
