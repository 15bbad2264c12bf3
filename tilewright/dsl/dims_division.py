"""Floor division and remainder of dimensions in normal form.

Both take out what divides exactly, decide by intervals where they can, and leave one canonical
opaque atom for the rest. Every step is an identity of floor arithmetic for a positive divisor.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from math import gcd, lcm

from tilewright.dsl.dims_atoms import Coefficient, Interval, Monomial, Opaque, Symbol
from tilewright.dsl.dims_normal import (
    Dim,
    DimExpr,
    of_terms,
    opaque,
    scaled,
    term_divisor,
    whole,
)
from tilewright.dsl.errors import DimError

_MAX_DIVISION_STEPS = 64
_REMEMBERED = 8192  # a model divides the same few sizes at each of its layers


def interval(d: Dim) -> Interval:
    """An interval that holds all values of `d`."""
    return d.bounds if type(d) is DimExpr else (int(d), int(d))


def floordiv(num: Dim, den: Dim) -> Dim:
    """`num // den`, rounded down; raises DimError unless `den` is known to be positive."""
    _require_positive(num, den)
    if type(den) is DimExpr:
        return _by_expression(num, den)[0]
    return _floordiv_by_int(num, int(den)) if type(num) is DimExpr else int(num) // int(den)


def mod(num: Dim, den: Dim) -> Dim:
    """`num % den`, in 0..den-1; raises DimError unless `den` is known to be positive."""
    _require_positive(num, den)
    if type(den) is DimExpr:
        return _by_expression(num, den)[1]
    return _mod_by_int(num, int(den)) if type(num) is DimExpr else int(num) % int(den)


def _require_positive(num: Dim, den: Dim) -> None:
    low, _ = interval(den)
    if low < 1:
        raise DimError(
            f"division of {num} by {den}, which may be as small as {low}",
            fix="divide by what is at least 1, for example a symbol declared with lo=1",
        )


# --- a constant divisor ---------------------------------------------------------------------------


@lru_cache(_REMEMBERED)
def _floordiv_by_int(num: DimExpr, k: int) -> Dim:
    """Law: (k*q + r) // k = q + r // k, and (x // a + c) // k = (x + a*c) // (a*k)."""
    if k == 1:
        return num
    quotient, rest = _split(num, k)
    if type(rest) is not DimExpr:
        return quotient
    low, high = rest.bounds
    if low // k == high // k:
        return quotient + low // k
    numerator, k, _, _ = _reduced(rest, k)
    if (inner := _inner_floor(numerator, k)) is not None:
        return quotient + inner
    low, high = numerator.bounds
    return quotient + opaque("//", (numerator, k), low // k, high // k, 1)


@lru_cache(_REMEMBERED)
def _mod_by_int(num: DimExpr, k: int) -> Dim:
    """Law: (k*q + r) % k = r % k, and (g*x) % (g*k) = g * (x % k)."""
    _, rest = _split(num, k)
    if type(rest) is not DimExpr:
        return rest
    low, high = rest.bounds
    if low // k == high // k:
        return rest - low // k * k
    if (opened := _opened_remainders(rest, k)) is not None:
        return mod(opened, k)
    numerator, k, ratio, offset = _reduced(rest, k)
    step = gcd(numerator.divisor, k)
    remainder = opaque("%", (numerator, k), 0, k - step, step)
    return scaled(remainder, ratio) + offset


def _split(num: DimExpr, k: int) -> tuple[Dim, Dim]:
    """`(q, r)` with num = k*q + r, r holding no term that k divides and no k times a symbol.

    An opaque term is taken out whole or not at all: in two places it would double the text, again
    at each level of `(3*d) // 2` of `(3*d) // 2`.
    """
    quotient: dict[Monomial, Coefficient] = {}
    rest: dict[Monomial, Coefficient] = {}
    for monomial, c in num.coefficients.items():
        if monomial and term_divisor(monomial, c) % k == 0:
            quotient[monomial] = whole(Fraction(c) / k)
            continue
        # A constant rounds down; a symbolic term rounds towards 0, so that -n stays -n.
        q = c // k if c >= 0 or not monomial else -(-c // k)
        if q and all(type(atom) is Symbol for atom, _ in monomial):
            quotient[monomial] = q
            c = whole(c - q * k)
        if c:
            rest[monomial] = c
    return of_terms(quotient), of_terms(rest)


def _reduced(rest: DimExpr, k: int) -> tuple[DimExpr, int, Coefficient, int]:
    """`(n, d, ratio, offset)`: rest = ratio*n + offset and k = ratio*d, n and d with integer
    coefficients and no common factor, `offset` too small to matter: rest // k = n // d.
    """
    constant = int(rest.coefficients.get((), 0))
    symbolic = {m: c for m, c in rest.coefficients.items() if m}
    offset = constant % gcd(k, *(term_divisor(m, c) for m, c in symbolic.items()))
    scale = lcm(*(c.denominator for c in symbolic.values()))
    terms = {m: int(c * scale) for m, c in symbolic.items()}
    if constant != offset:
        terms[()] = (constant - offset) * scale
    content = gcd(k * scale, *terms.values())
    numerator = of_terms({m: c // content for m, c in terms.items()})
    assert type(numerator) is DimExpr
    return numerator, k * scale // content, whole(Fraction(content, scale)), offset


def _inner_floor(num: DimExpr, k: int) -> Dim | None:
    """(x // a + c) // k as (x + a*c) // (a*k), or None where `num` is not of that form."""
    symbolic = [(m, c) for m, c in num.coefficients.items() if m]
    if len(symbolic) != 1 or symbolic[0][1] != 1:
        return None
    atom = _sole_opaque(symbolic[0][0])
    if atom is None or atom.op != "//" or type(atom.args[1]) is not int:
        return None
    constant = int(num.coefficients.get((), 0))
    return floordiv(atom.args[0] + atom.args[1] * constant, atom.args[1] * k)


def _opened_remainders(num: DimExpr, k: int) -> Dim | None:
    """`num` with c * (x % a) replaced by c * x wherever k divides c*a; None if nowhere."""
    opened: Dim | None = None
    for monomial, c in num.coefficients.items():
        atom = _sole_opaque(monomial)
        if atom is None or atom.op != "%" or type(atom.args[1]) is not int:
            continue
        if c * atom.args[1] % k == 0 and type(atom.args[0]) is DimExpr:
            before = num if opened is None else opened
            opened = before - of_terms({monomial: c}) + scaled(atom.args[0], c)
    return opened


def _sole_opaque(monomial: Monomial) -> Opaque | None:
    if len(monomial) == 1 and monomial[0][1] == 1 and type(monomial[0][0]) is Opaque:
        return monomial[0][0]
    return None


# --- a symbolic divisor ---------------------------------------------------------------------------


def _by_expression(num: Dim, den: DimExpr) -> tuple[Dim, Dim]:
    """`(num // den, num % den)`."""
    quotient, rest = _polynomial_division(num, den)
    for q, r in ((0, num), (quotient, rest)):
        if (more := _decided(r, den)) is not None:
            return q + more, r - den * more
    if len(den.coefficients) > 1:
        # A sum has no unique quotient but the exact one; n // (m + n) is better left alone.
        quotient, rest = 0, num
    (low, high), (den_low, den_high) = interval(rest), den.bounds
    floors = [n // d for n in (low, high) for d in (den_low, den_high)]
    floor = opaque("//", (rest, den), min(floors), max(floors), 1)
    step = gcd(rest.divisor if type(rest) is DimExpr else int(rest), den.divisor)
    top = den_high - step if low < 0 else min(den_high - step, high)
    return quotient + floor, opaque("%", (rest, den), 0, top, step)


def _decided(num: Dim, den: DimExpr) -> int | None:
    """The one value that num // den has over all the ranges, if intervals show it."""
    (low, high), (den_low, den_high) = interval(num), den.bounds
    floors = {n // d for n in (low, high) for d in (den_low, den_high)}
    if len(floors) == 1:
        return floors.pop()
    if low >= 0 and interval(den - num)[0] > 0:
        return 0
    if high < 0 and interval(den + num)[0] >= 0:
        return -1
    return None


def _polynomial_division(num: Dim, den: DimExpr) -> tuple[Dim, Dim]:
    """`(q, r)` with num = den*q + r: long division by the leading term of `den`.

    By a single term every divisible term is taken out; by a sum, division stops at the first
    leading term that does not divide.
    Source: Cox, Little, O'Shea, "Ideals, Varieties, and Algorithms", section 2.3.
    """
    lead = den.terms[0]
    quotient: Dim = 0
    if len(den.coefficients) == 1:
        terms = num.terms if type(num) is DimExpr else ()
        for term in terms:
            if (step := _term_quotient(term, lead)) is not None:
                quotient = quotient + step
        return quotient, num - den * quotient
    rest = num
    for _ in range(_MAX_DIVISION_STEPS):
        step = _term_quotient(rest.terms[0], lead) if type(rest) is DimExpr else None
        if step is None:
            break
        quotient = quotient + step
        rest = rest - den * step
    return quotient, rest


def _term_quotient(
    num: tuple[Monomial, Coefficient], den: tuple[Monomial, Coefficient]
) -> Dim | None:
    """The exact quotient, if it is a monomial with whole values."""
    powers = dict(num[0])
    for atom, power in den[0]:
        powers[atom] = powers.get(atom, 0) - power
    if any(power < 0 for power in powers.values()):
        return None
    ratio = Fraction(num[1]) / den[1]
    value = ratio
    for atom, power in powers.items():
        value *= atom.divisor**power
    if value.denominator != 1:
        return None
    return of_terms({tuple((a, p) for a, p in powers.items() if p): whole(ratio)})
