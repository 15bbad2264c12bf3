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
class KeyRange:
    """The keys [begin, end) that rows between query positions `low` and `high` may see."""

    begin: Expr
    end: Expr
    low: Expr
    high: Expr


def key_range(kernel: KernelBuilder, mask: Mask, low: Expr, high: Expr, keys: Expr) -> KeyRange:
    """The keys inside the mask's band."""
    back, ahead = band(mask)
    begin: Expr = i64(0)
    end = keys
    if back is not None:
        begin = tirx.Max(begin, low - back)
    if ahead is not None:
        end = tirx.Min(end, high + (ahead + 1))
    return KeyRange(kernel.let(begin, "begin"), kernel.let(end, "end"), low, high)


def crosses(mask: Mask, keys: KeyRange, first: Expr, last: Expr) -> Expr | None:
    """Whether some row may not see some of the keys first .. last; None: ask the clauses."""
    if not is_band(mask):
        return None
    back, ahead = band(mask)
    found: Expr = tirx.const(0, "bool")
    if back is not None:
        found = tirx.Or(found, first < keys.high - back)
    if ahead is not None:
        found = tirx.Or(found, last > keys.low + ahead)
    return found


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
