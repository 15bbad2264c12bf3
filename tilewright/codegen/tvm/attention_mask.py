"""Attention masks in a kernel: which keys a block of rows meets, and which of them it sees."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

from tvm import tirx

from tilewright.codegen.tvm.emit import Expr, KernelBuilder, broadcast, i64, lanes_of, vector_type
from tilewright.codegen.tvm.index import ARITHMETIC
from tilewright.dsl.dims import Dim, Symbol, fold
from tilewright.dsl.mask import Mask, band, is_band


@dataclass(frozen=True, slots=True)
class RowBlock:
    """`vectors` vectors of rows from the group's row `first` on: `each` rows are one query, and
    query 0 stands at position `shift`.
    """

    first: Expr
    vectors: Expr
    each: int
    shift: Expr

    def row_of(self, position: Expr) -> Expr:
        """The block's row at which the query position begins; it may lie outside."""
        return (position - self.shift) * self.each - self.first


@dataclass(frozen=True, slots=True)
class Reach:
    """Vectors of rows: [begin, end) may see some of a run of keys, [low, high) see all of them."""

    begin: Expr
    low: Expr
    high: Expr
    end: Expr


def key_range(
    kernel: KernelBuilder, mask: Mask, low: Expr, high: Expr, keys: Expr
) -> tuple[Expr, Expr]:
    """The keys [begin, end) that rows between query positions `low` and `high` may see."""
    back, ahead = band(mask)
    begin: Expr = i64(0)
    end = keys
    if back is not None:
        begin = tirx.Max(begin, low - back)
    if ahead is not None:
        end = tirx.Min(end, high + (ahead + 1))
    return kernel.let(begin, "begin"), kernel.let(end, "end")


def reach(
    kernel: KernelBuilder, mask: Mask, rows: RowBlock, first: Expr, last: Expr, strip: int
) -> Reach:
    """Which of the rows meet the keys first .. last; begin and end are at whole strips of vectors.

    Under a mask that is more than a band no row is known to see all.
    """
    lanes = kernel.isa.lanes_f32
    back, ahead = band(mask)
    begin, end = i64(0), rows.vectors

    def vectors(row: Expr, unit: int, up: int) -> Expr:
        """The row's vector, to a multiple of `unit` vectors below, or above where `up` is one."""
        whole = tirx.Max(row, i64(0)) + up * (unit * lanes - 1)
        return tirx.Min(tirx.truncdiv(whole, i64(unit * lanes)) * unit, rows.vectors)

    if ahead is not None:
        begin = kernel.held(vectors(rows.row_of(first - ahead), strip, 0))
    if back is not None:
        end = kernel.held(tirx.Max(vectors(rows.row_of(last + (back + 1)), strip, 1), begin))
    if not is_band(mask):
        return Reach(begin, begin, begin, end)
    low, high = begin, end
    if ahead is not None:
        low = kernel.held(tirx.Min(vectors(rows.row_of(last - ahead), 1, 1), end))
    if back is not None:
        high = kernel.held(tirx.Max(vectors(rows.row_of(first + (back + 1)), 1, 0), low))
    return Reach(begin, low, high, end)


def sees(mask: Mask, query: Expr, key: Expr) -> Expr:
    """The mask for int32 lanes of query positions and one key."""
    lanes = lanes_of(query)
    kind = vector_type("int32", lanes)
    places = {"q": query, "k": broadcast(key, lanes)}

    def constant(value: int) -> Expr:
        return tirx.const(value, kind)

    def symbol(of: Symbol) -> Expr:
        return places[of.name]

    def holds(expression: Dim) -> Expr:
        return tirx.GE(fold(expression, constant, symbol, ARITHMETIC), constant(0))

    false, true = (tirx.const(value, vector_type("bool", lanes)) for value in (0, 1))
    clauses = [reduce(tirx.Or, map(holds, clause), false) for clause in mask.clauses]
    return reduce(tirx.And, clauses, true)
