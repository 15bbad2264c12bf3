"""Dimensions: integers, or expressions over symbols in a normal form of our own.

    batch, seq = dim("batch", 1, 64), dim("seq", 1, 4096, multiple_of=8)
    rows = batch * seq                  # batch*seq
    blocks = ceil_div(rows, 16)         # (batch*seq + 8) // 16
    known_le(rows, 16 * blocks)         # True: proved for all values in range

Equal dimensions are equal objects; nothing about them is ever guessed. This module is the door to
`dims_atoms`, `dims_normal` and `dims_division` (the form), `dims_order` (proofs), `dims_eval` and
`dims_text`.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from contextlib import suppress
from typing import SupportsIndex

from tilewright.dsl.dims_atoms import EXTENT_LIMIT, Symbol
from tilewright.dsl.dims_eval import (
    DIM_ARITHMETIC,
    DimOp,
    Evaluator,
    Operation,
    arithmetic,
    compile_dim,
    evaluate,
    fold,
    substitute,
    symbols,
)
from tilewright.dsl.dims_normal import Dim, DimExpr, of_symbol
from tilewright.dsl.dims_order import (
    bounds,
    ceil_div,
    dim_max,
    dim_min,
    divisor,
    known_divides,
    known_eq,
    known_le,
    known_lt,
)
from tilewright.dsl.dims_text import DIM_RULES, build_dim, parse_dim
from tilewright.dsl.errors import DimError
from tilewright.dsl.ident import ident

__all__ = [
    "DIM_ARITHMETIC",
    "DIM_RULES",
    "EXTENT_LIMIT",
    "Dim",
    "DimExpr",
    "DimOp",
    "Evaluator",
    "Operation",
    "Symbol",
    "arithmetic",
    "bounds",
    "build_dim",
    "ceil_div",
    "compile_dim",
    "dim",
    "dim_max",
    "dim_min",
    "divisor",
    "evaluate",
    "extent",
    "fold",
    "known_divides",
    "known_eq",
    "known_le",
    "known_lt",
    "of_symbol",
    "parse_dim",
    "product",
    "quotient",
    "substitute",
    "symbols",
    "to_text",
]


def dim(name: str, lo: int = 1, hi: int = EXTENT_LIMIT - 1, multiple_of: int = 1) -> DimExpr:
    """A symbolic dimension called `name` with values in lo..hi, where 0 <= lo <= hi < 2**40.

    Raises InvalidName for a name that is no identifier and DimError for an empty range.
    """
    return of_symbol(Symbol(ident(name), lo, hi, multiple_of))


def extent(size: object) -> Dim:
    """A dimension as a user gives it: an expression, or an integer of Python's or NumPy's.

    Raises DimError for anything else.
    """
    if isinstance(size, DimExpr):
        return size
    if isinstance(size, SupportsIndex) and not isinstance(size, bool):
        with suppress(TypeError):  # an array of several numbers, or of floats
            return operator.index(size)
    raise DimError(
        f"a dimension is an integer or made of dim(...), not a {type(size).__name__}",
        fix='write f32[rows, 4] with rows = dim("rows", 1, 64)',
    )


def to_text(d: Dim) -> str:
    """The canonical text, such as `2*past + seq` or `(seq + 15) // 16`; `parse_dim` reads it."""
    return str(d)


def product(sizes: Iterable[Dim]) -> Dim:
    """The product of all sizes; 1 for none."""
    total: Dim = 1
    for size in sizes:
        total = total * size
    return total


def quotient(a: Dim, b: Dim) -> Dim | None:
    """`a / b` where the division is known to be exact for every value, else None."""
    if isinstance(b, int) and b == 0:
        return None
    if bounds(b)[0] <= 0:
        return None
    found = a // b
    return found if known_eq(found * b, a) else None
