"""The normal form of dimensions: polynomials over symbols and over what is not polynomial.

A `DimExpr` is a sum of monomials with coefficients; a monomial is a product of powers of atoms; an
atom is a `Symbol` or an `Opaque` (floor division, remainder, minimum, maximum). Two expressions are
equal exactly if their normal forms are.

A coefficient is an integer, or a fraction p/q where q provably divides p * monomial for all values
of the symbols: `s // 8` of a symbol that is a multiple of 8 *is* the monomial s with 1/8, so that
`8 * (s // 8) == s`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from functools import reduce
from math import gcd
from typing import Final, NoReturn, TypeAlias, final

from tilewright.dsl.dims_atoms import (
    Coefficient,
    Interval,
    Monomial,
    Opaque,
    OpaqueOp,
    Symbol,
    atom_order,
    call_text,
    sum_text,
    term_order,
)
from tilewright.dsl.errors import DimError

COEFFICIENT_LIMIT: Final = 2**128
_MAX_DEGREE: Final = 16
_MAX_PRODUCT_TERMS: Final = 4096
_MAX_DEPTH: Final = 32
_MAX_ATOM_TEXT: Final = 8192

Dim: TypeAlias = "int | DimExpr"


@final
class DimExpr:
    """A symbolic dimension in normal form; never a constant, which is always a plain int.

    Immutable and hashable. `+ - * // %` work with ints and with each other, `//` and `%` floor;
    `==` compares normal forms. Ordering and truth raise DimError: they would be guesses.
    """

    __slots__ = ("_bounds", "_text", "coefficients", "table")

    coefficients: Mapping[Monomial, Coefficient]
    table: Mapping[str, Symbol]
    _bounds: Interval | None
    _text: str | None

    def __init__(
        self, coefficients: Mapping[Monomial, Coefficient], table: Mapping[str, Symbol]
    ) -> None:
        """Take a normal form as it is; the way in for users is `dim` and the operators."""
        init = object.__setattr__
        init(self, "coefficients", coefficients)
        init(self, "table", table)
        init(self, "_bounds", None)
        init(self, "_text", None)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"dimensions are immutable, cannot set {name}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"dimensions are immutable, cannot delete {name}")

    def __reduce__(self) -> tuple[type[DimExpr], tuple[object, ...]]:
        return DimExpr, (dict(self.coefficients), dict(self.table))

    @property
    def terms(self) -> tuple[tuple[Monomial, Coefficient], ...]:
        """The terms in canonical order: by degree, falling, then by the atoms' texts."""
        return tuple(sorted(self.coefficients.items(), key=term_order))

    @property
    def bounds(self) -> Interval:
        """An interval that holds all values."""
        if self._bounds is None:
            object.__setattr__(self, "_bounds", _interval(self.coefficients))
        assert self._bounds is not None
        return self._bounds

    @property
    def divisor(self) -> int:
        """The greatest number known to divide all values."""
        return reduce(gcd, (term_divisor(m, c) for m, c in self.coefficients.items()), 0)

    def __str__(self) -> str:
        if self._text is None:
            object.__setattr__(self, "_text", sum_text(self))
        assert self._text is not None
        return self._text

    def __repr__(self) -> str:
        return f"DimExpr({self})"

    def __hash__(self) -> int:
        return hash(str(self))

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return type(other) is DimExpr and self.coefficients == other.coefficients

    def __add__(self, other: Dim) -> Dim:
        if type(other) is DimExpr:
            if len(other.coefficients) > len(self.coefficients):
                return _sum(other, self.coefficients, self.table, 1)
            return _sum(self, other.coefficients, other.table, 1)
        if type(other) is int:
            return _sum(self, {(): other}, {}, 1)
        return NotImplemented

    __radd__ = __add__

    def __sub__(self, other: Dim) -> Dim:
        if type(other) is DimExpr:
            return _sum(self, other.coefficients, other.table, -1)
        return _sum(self, {(): other}, {}, -1) if type(other) is int else NotImplemented

    def __rsub__(self, other: Dim) -> Dim:
        return self * -1 + other if type(other) is int else NotImplemented

    def __mul__(self, other: Dim) -> Dim:
        if type(other) is int:
            return scaled(self, other)
        return _product(self, other) if type(other) is DimExpr else NotImplemented

    __rmul__ = __mul__

    def __neg__(self) -> Dim:
        return scaled(self, -1)

    def __pos__(self) -> Dim:
        return self

    # Division simplifies with the arithmetic of this module, so it comes after it: late imports.

    def __floordiv__(self, other: Dim) -> Dim:
        from tilewright.dsl.dims_division import floordiv

        return floordiv(self, other) if is_dim(other) else NotImplemented

    def __rfloordiv__(self, other: Dim) -> Dim:
        from tilewright.dsl.dims_division import floordiv

        return floordiv(other, self) if is_dim(other) else NotImplemented

    def __mod__(self, other: Dim) -> Dim:
        from tilewright.dsl.dims_division import mod

        return mod(self, other) if is_dim(other) else NotImplemented

    def __rmod__(self, other: Dim) -> Dim:
        from tilewright.dsl.dims_division import mod

        return mod(other, self) if is_dim(other) else NotImplemented

    def __bool__(self) -> NoReturn:
        raise DimError(
            f"the truth of the symbolic dimension {self} is not known",
            fix="compare with `==`, or ask `known_lt(0, d)`",
        )

    def _refuse_order(self, other: object) -> NoReturn:
        raise DimError(
            f"the order of {self} and {other} would be a guess",
            fix="ask `known_le(a, b)` or `known_lt(a, b)`, or take `dim_min` or `dim_max`",
        )

    __lt__ = __le__ = __gt__ = __ge__ = _refuse_order


def is_dim(value: object) -> bool:
    """Whether `value` is a plain int (no bool) or a DimExpr."""
    return type(value) is int or type(value) is DimExpr


def of_symbol(symbol: Symbol) -> DimExpr:
    """The expression that is `symbol` alone."""
    return DimExpr({((symbol, 1),): 1}, symbol.table)


def of_terms(coefficients: Mapping[Monomial, Coefficient]) -> Dim:
    """The sum of the terms; zero coefficients must be left out, monomials be in order."""
    if not coefficients:
        return 0
    if len(coefficients) == 1 and () in coefficients:
        return int(coefficients[()])
    for c in coefficients.values():
        _require_small(c)
    return DimExpr(coefficients, _merged(a.table for m in coefficients for a, _ in m))


def opaque(op: OpaqueOp, args: tuple[Dim, ...], low: int, high: int, divisor: int) -> Dim:
    """The expression that is one opaque atom, or its value if that is known to be only one.

    Raises DimError if it nests too deep or is too long.

    Depth and length are bounded so that walking an expression is, too.
    """
    if low == high:
        return low
    atoms = [a for d in args if type(d) is DimExpr for m in d.coefficients for a, _ in m]
    depth = 1 + max((a.depth for a in atoms), default=0)
    for d in args:
        _require_small(d if type(d) is int else 0)
    if depth > _MAX_DEPTH:
        raise DimError(f"a dimension nests more than {_MAX_DEPTH} divisions, minima or maxima")
    text = call_text(op, args)
    if len(text) > _MAX_ATOM_TEXT:
        raise DimError(f"a dimension grows beyond {_MAX_ATOM_TEXT} characters: {text[:60]}...")
    table = _merged(d.table for d in args if type(d) is DimExpr)
    return DimExpr({((Opaque(op, args, text, low, high, divisor, depth, table), 1),): 1}, table)


# --- arithmetic -----------------------------------------------------------------------------------


def whole(c: Coefficient) -> Coefficient:
    """A fraction without denominator becomes an int, so that equal coefficients are one value."""
    return c.numerator if type(c) is Fraction and c.denominator == 1 else c


def term_divisor(monomial: Monomial, coefficient: Coefficient) -> int:
    """The greatest number known to divide the term; exact for fractions by their invariant."""
    value: Coefficient = abs(coefficient)
    for atom, power in monomial:
        value *= atom.divisor**power
    return int(value)


def scaled(d: Dim, factor: Coefficient) -> Dim:
    """`factor * d`; a fraction must be known to leave a whole number of every term."""
    if type(d) is not DimExpr:
        return int(int(d) * factor)
    if factor in (0, 1):
        return d if factor else 0
    product = {m: whole(c * factor) for m, c in d.coefficients.items()}
    for c in product.values():
        _require_small(c)
    return DimExpr(product, d.table)


def monomial_product(a: Monomial, b: Monomial) -> Monomial:
    """The product of two monomials, its atoms in order of their texts."""
    if not a or not b:
        return a or b
    powers = dict(a)
    for atom, power in b:
        powers[atom] = powers.get(atom, 0) + power
    if sum(powers.values()) > _MAX_DEGREE:
        raise DimError(f"a product of dimensions has more than {_MAX_DEGREE} factors")
    return tuple(sorted(powers.items(), key=atom_order))


def _require_small(c: Coefficient) -> None:
    """Bound coefficients, so that texts stay readable and no text can make numbers explode."""
    if not (-COEFFICIENT_LIMIT < c < COEFFICIENT_LIMIT and c.denominator < COEFFICIENT_LIMIT):
        raise DimError("a coefficient of a dimension leaves 128 bits")


def _sum(
    a: DimExpr, b: Mapping[Monomial, Coefficient], b_table: Mapping[str, Symbol], sign: int
) -> Dim:
    """`a + sign * b`."""
    total = dict(a.coefficients)
    vanished = False
    for monomial, coefficient in b.items():
        c = whole(total.get(monomial, 0) + sign * coefficient)
        if c:
            _require_small(c)
            total[monomial] = c
        elif monomial in total:
            del total[monomial]
            vanished = True
    if vanished:
        _merged((a.table, b_table))  # clashing symbols are an error even where they cancel
        return of_terms(total)
    return DimExpr(total, _merged((a.table, b_table)))


def _product(a: DimExpr, b: DimExpr) -> Dim:
    if len(a.coefficients) * len(b.coefficients) > _MAX_PRODUCT_TERMS:
        raise DimError(f"a product of dimensions has more than {_MAX_PRODUCT_TERMS} terms")
    table = _merged((a.table, b.table))
    total: dict[Monomial, Coefficient] = {}
    for ma, ca in a.coefficients.items():
        for mb, cb in b.coefficients.items():
            m = monomial_product(ma, mb)
            c = whole(total.get(m, 0) + ca * cb)
            if c:
                _require_small(c)
                total[m] = c
            else:
                total.pop(m, None)
    return DimExpr(total, table)


def _merged(tables: Iterable[Mapping[str, Symbol]]) -> Mapping[str, Symbol]:
    """The union of symbol tables; raises DimError if one name stands for two symbols."""
    union: Mapping[str, Symbol] = {}
    for table in tables:
        large, small = (union, table) if len(union) >= len(table) else (table, union)
        grown = False
        for name, symbol in small.items():
            known = large.get(name)
            if known is None:
                grown = True
            elif known is not symbol and known != symbol:
                raise DimError(
                    f"two symbols are called {name}: {_range(known)} and {_range(symbol)}",
                    fix="declare a symbol once and use that one, or rename one of the two",
                )
        union = {**large, **small} if grown else large
    return union


def _range(s: Symbol) -> str:
    multiple = f" in steps of {s.multiple_of}" if s.multiple_of > 1 else ""
    return f"{s.lo}..{s.hi}{multiple}"


def _interval(coefficients: Mapping[Monomial, Coefficient]) -> Interval:
    """Interval arithmetic, term by term."""
    low: Coefficient = 0
    high: Coefficient = 0
    for monomial, c in coefficients.items():
        lo, hi = 1, 1
        for atom, power in monomial:
            at_low, at_high = atom.low**power, atom.high**power
            if atom.low < 0 and power % 2 == 0:
                at_low, at_high = 0 if atom.high >= 0 else at_high, max(at_low, at_high)
            corners = (lo * at_low, lo * at_high, hi * at_low, hi * at_high)
            lo, hi = min(corners), max(corners)
        low += c * (lo if c > 0 else hi)
        high += c * (hi if c > 0 else lo)
    return int(low), int(high)
