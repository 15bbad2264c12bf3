"""The values of a plan's sizes."""

from tilewright.dsl.dims import Symbol
from tilewright.dsl.ident import Ident
from tilewright.runtime.dim_table import DimTable


def test_values_are_those_of_the_call() -> None:
    table = DimTable({"n": Symbol(Ident("n"), 1, 99)}, ["n"])
    double = table.number("2*n")
    first = table.evaluate([3])
    assert first[double] == 6
    assert table.evaluate([4])[double] == 8
    assert first[double] == 6, "an earlier call's values stay"
    assert table.evaluate([4]) is table.evaluate([4])
    more = table.number("n + 1")
    assert table.evaluate([4])[more] == 5, "a text that came later counts"
    assert not table.evaluate([4]).flags.writeable
