"""What can be proved about the order of dimensions; minima, maxima and ceilings."""

from __future__ import annotations

from functools import lru_cache
from math import gcd

from tilewright.dsl.dims_atoms import Coefficient, Opaque
from tilewright.dsl.dims_division import floordiv, interval
from tilewright.dsl.dims_normal import Dim, DimExpr, of_terms, opaque
from tilewright.dsl.errors import DimError

_MAX_ARGUMENTS = 32
_PROOF_STEPS = 64
_REMEMBERED = 8192


def bounds(d: Dim) -> tuple[int, int]:
    """`(low, high)` such that every value of `d` lies in low..high; not always the tightest."""
    return interval(d)


def divisor(d: Dim) -> int:
    """The greatest number known to divide every value of `d`; 0 for the constant zero."""
    return d.divisor if type(d) is DimExpr else abs(int(d))


def dim_min(*dims: Dim) -> Dim:
    """The least of `dims`; arguments that another one never exceeds are dropped."""
    return _extremum("min", dims)


def dim_max(*dims: Dim) -> Dim:
    """The greatest of `dims`; arguments that never exceed another one are dropped."""
    return _extremum("max", dims)


def ceil_div(a: Dim, b: Dim) -> Dim:
    """`a / b` rounded up; raises DimError unless `b` is known to be positive."""
    return floordiv(a + b - 1, b)


def known_eq(a: Dim, b: Dim) -> bool:
    """Whether the normal forms are equal; False may also mean that equality was not seen."""
    return a == b


def known_le(a: Dim, b: Dim) -> bool:
    """Whether a <= b is proved for all values of the symbols; False means not proved."""
    return _Proof().never_positive(a - b)


def known_lt(a: Dim, b: Dim) -> bool:
    """Whether a < b is proved for all values of the symbols; False means not proved."""
    return _Proof().never_positive(a - b + 1)


def known_divides(k: int, d: Dim) -> bool:
    """Whether `k` is proved to divide `d` for all values; raises DimError for k < 1."""
    if k < 1:
        raise DimError(f"divisibility by {k} was asked for", fix="ask for a divisor of at least 1")
    return divisor(d) % k == 0


class _Proof:
    """A bounded search for a proof that a difference is never positive.

    Intervals decide most cases. Where they do not, one opaque atom is replaced by what bounds it
    (min(x, y) <= x, x - (k-1) <= k*(x // k) <= x, x % k <= x for x >= 0) and the rest must follow.
    Beside another floor of the same number, n*(x // (m*n)) <= x // m too.
    Opaque atoms inside products and floors of a symbolic divisor are left to the intervals.
    """

    def __init__(self) -> None:
        self.steps = _PROOF_STEPS

    def never_positive(self, d: Dim) -> bool:
        if interval(d)[1] <= 0:
            return True
        if type(d) is not DimExpr or self.steps <= 0:
            return False
        self.steps -= 1
        for monomial, c in d.terms:
            if len(monomial) != 1 or monomial[0][1] != 1 or type(monomial[0][0]) is not Opaque:
                continue
            atom = monomial[0][0]
            for cases in [*_bounding(atom, upper=c > 0), *_coarser(atom, d, upper=c > 0)]:
                if all(self._follows(d, atom, c, *case) for case in cases):
                    return True
        return False

    def _follows(self, d: DimExpr, atom: Opaque, c: Coefficient, k: int, bound: Dim) -> bool:
        """Whether d <= 0 follows from bounding `k * atom` by `bound` in its term `c * atom`."""
        scale = k * c.denominator
        others = d - of_terms({((atom, 1),): c})
        # Values are integers, so d <= 0 follows from scale * d <= scale - 1.
        return self.never_positive(others * scale + bound * c.numerator - (scale - 1))


def _bounding(atom: Opaque, *, upper: bool) -> list[list[tuple[int, Dim]]]:
    """Ways to bound an atom: of each list all cases `(k, d)`, meaning k*atom <= d, must do.

    With `upper` false the cases mean k*atom >= d.
    """
    match atom.op, atom.args:
        case (("min" | "max"), args):
            cases: list[tuple[int, Dim]] = [(1, d) for d in args]
            return [[case] for case in cases] if (atom.op == "min") == upper else [cases]
        case "//", (num, int(k)):
            return [[(k, num if upper else num - (k - gcd(k, divisor(num))))]]
        case "%", (num, _) if upper and interval(num)[0] >= 0:
            return [[(1, num)]]
        case _:
            return []


def _coarser(atom: Opaque, d: DimExpr, *, upper: bool) -> list[list[tuple[int, Dim]]]:
    """Ways to bound x // (m*n) by the x // m that stand beside it, as `_bounding` gives them."""
    match atom.op, atom.args:
        case "//", (num, int(k)):
            pass
        case _:
            return []
    found: list[list[tuple[int, Dim]]] = []
    for monomial, _ in d.terms:
        other = monomial[0][0] if len(monomial) == 1 and monomial[0][1] == 1 else atom
        if type(other) is not Opaque or other.op != "//" or other.args[0] != num:
            continue
        m = other.args[1]
        if type(m) is int and m < k and k % m == 0:
            finer = of_terms({((other, 1),): 1})
            found.append([(k // m, finer if upper else finer - (k // m - 1))])
    return found


@lru_cache(_REMEMBERED)
def _extremum(op: str, dims: tuple[Dim, ...]) -> Dim:
    if not dims:
        raise DimError(f"dim_{op} needs at least one dimension")
    kept: list[Dim] = []
    for d in dims:
        parts = _arguments(op, d)
        if not kept:
            kept = parts
            continue
        for part in parts:
            _admit(op, part, kept)
        if len(kept) > _MAX_ARGUMENTS:
            raise DimError(f"a {op} of dimensions has more than {_MAX_ARGUMENTS} arguments")
    if len(kept) == 1:
        return kept[0]
    kept.sort(key=lambda d: (type(d) is int, str(d)))
    lows, highs = zip(*map(interval, kept), strict=True)
    args, step = tuple(kept), gcd(*map(divisor, kept))
    if op == "min":
        return opaque("min", args, min(lows), min(highs), step)
    return opaque("max", args, max(lows), max(highs), step)


def _arguments(op: str, d: Dim) -> list[Dim]:
    """The arguments of `d` if it is an `op` itself, none of which dominates another; else `d`."""
    if type(d) is DimExpr and len(d.coefficients) == 1:
        ((monomial, c),) = d.coefficients.items()
        if c == 1 and len(monomial) == 1 and monomial[0][1] == 1:
            atom = monomial[0][0]
            if type(atom) is Opaque and atom.op == op:
                return list(atom.args)
    return [d]


def _admit(op: str, d: Dim, kept: list[Dim]) -> None:
    """Add `d` to `kept`, unless one there makes it redundant; drop those that `d` does."""
    for other in kept:
        low, high = interval(other - d if op == "min" else d - other)
        # Of two that are always equal the constant stays, or else the first in order of text.
        if high < 0 or (high == 0 and not (low == 0 and _precedes(d, other))):
            return
    kept[:] = [o for o in kept if interval(d - o if op == "min" else o - d)[1] > 0]
    kept.append(d)


def _precedes(a: Dim, b: Dim) -> bool:
    return (type(a) is not int, str(a)) < (type(b) is not int, str(b))
