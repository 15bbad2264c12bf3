"""What dimensions are made of: symbols and opaque terms, their order and their text.

A monomial is a product of powers of atoms; an atom is a `Symbol` or an `Opaque` (floor division,
remainder, minimum, maximum). Atoms are ordered by their texts, so the canonical form depends on
nothing but the expression.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, final

from tilewright.dsl.errors import DimError
from tilewright.dsl.ident import Ident, ident

if TYPE_CHECKING:
    from tilewright.dsl.dims_normal import Dim, DimExpr

EXTENT_LIMIT: Final = 2**40

OpaqueOp = Literal["//", "%", "min", "max"]
Interval = tuple[int, int]
Coefficient: TypeAlias = "int | Fraction"
Atom: TypeAlias = "Symbol | Opaque"
Monomial: TypeAlias = "tuple[tuple[Atom, int], ...]"


@dataclass(frozen=True, slots=True)
class Symbol:
    """A named size or position with `lo <= value <= hi` and `multiple_of` dividing the value.

    Raises InvalidName or DimError for an empty or unbounded range.
    """

    name: Ident
    lo: int
    hi: int
    multiple_of: int = 1

    def __post_init__(self) -> None:
        ident(self.name)
        if any(type(v) is not int for v in (self.lo, self.hi, self.multiple_of)):
            raise DimError(f"the range of symbol {self.name} must be given by integers")
        if not 0 <= self.lo <= self.hi < EXTENT_LIMIT:
            raise DimError(
                f"symbol {self.name} has range {self.lo}..{self.hi}",
                fix="0 <= lo <= hi < 2**40 must hold",
            )
        if self.multiple_of < 1 or self.low > self.high:
            raise DimError(
                f"symbol {self.name} has no multiple of {self.multiple_of} "
                f"in its range {self.lo}..{self.hi}",
                fix="widen the range or give another multiple_of >= 1",
            )

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def text(self) -> str:
        return self.name

    @property
    def low(self) -> int:
        return -(-self.lo // self.multiple_of) * self.multiple_of

    @property
    def high(self) -> int:
        return self.hi // self.multiple_of * self.multiple_of

    @property
    def divisor(self) -> int:
        return self.multiple_of

    @property
    def depth(self) -> int:
        return 0

    @property
    def table(self) -> Mapping[str, Symbol]:
        return {self.name: self}


@final
@dataclass(frozen=True, slots=True, eq=False)
class Opaque:
    """An application of floor division, remainder, minimum or maximum that did not simplify.

    `low..high` bounds the value and `divisor` divides it; all three follow from `op` and `args`.
    """

    op: OpaqueOp
    args: tuple[Dim, ...]
    text: str
    low: int
    high: int
    divisor: int
    depth: int
    table: Mapping[str, Symbol]

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        # The text decides nearly all cases; symbols of one name may still differ in range.
        return (
            type(other) is Opaque
            and self.text == other.text
            and self.op == other.op
            and self.args == other.args
        )

    def __hash__(self) -> int:
        return hash(self.text)


# --- text -----------------------------------------------------------------------------------------

_UNIT, _PRODUCT, _DIVISION, _SUM = range(4)  # how loosely a text binds


def atom_order(factor: tuple[Atom, int]) -> tuple[str, int]:
    """The sort key of a factor in its monomial."""
    return factor[0].text, -factor[1]


def term_order(term: tuple[Monomial, Coefficient]) -> tuple[int, list[tuple[str, int]]]:
    """Graded lexicographic: a proper monomial order, which exact division relies on."""
    return -sum(power for _, power in term[0]), [atom_order(factor) for factor in term[0]]


def _looseness(d: Dim) -> int:
    if isinstance(d, int):
        return _UNIT if d >= 0 else _SUM
    if len(d.coefficients) > 1:
        return _SUM
    (term,) = d.coefficients.items()
    return _SUM if term[1] < 0 else _term_looseness(*term)


def _term_looseness(monomial: Monomial, coefficient: Coefficient) -> int:
    if type(coefficient) is Fraction:
        return _DIVISION
    if coefficient == 1 and len(monomial) == 1 and monomial[0][1] == 1:
        atom = monomial[0][0]
        return _DIVISION if type(atom) is Opaque and atom.op in ("//", "%") else _UNIT
    return _PRODUCT if monomial else _UNIT


def _wrapped(d: Dim, loosest: int) -> str:
    return str(d) if _looseness(d) <= loosest else f"({d})"


def call_text(op: OpaqueOp, args: tuple[Dim, ...]) -> str:
    """The text of an opaque atom."""
    if op in ("min", "max"):
        return f"{op}({', '.join(map(str, args))})"
    return f"{_wrapped(args[0], _PRODUCT)} {op} {_wrapped(args[1], _UNIT)}"


def _term_text(monomial: Monomial, coefficient: Coefficient) -> str:
    """The text of a term with a positive coefficient."""
    if coefficient == 1 and len(monomial) == 1 and monomial[0][1] == 1:
        return monomial[0][0].text
    factors = [] if coefficient.numerator == 1 and monomial else [str(coefficient.numerator)]
    for atom, power in monomial:
        tight = _term_looseness(((atom, 1),), 1) == _UNIT
        factors += [atom.text if tight else f"({atom.text})"] * power
    text = "*".join(factors)
    return text if coefficient.denominator == 1 else f"{text} // {coefficient.denominator}"


def sum_text(d: DimExpr) -> str:
    """The canonical text: positive terms first, each sign in canonical order."""
    parts: list[str] = []
    for monomial, c in sorted(d.terms, key=lambda term: term[1] < 0):
        text = _term_text(monomial, abs(c))
        if parts:
            parts.append(f" - {text}" if c < 0 else f" + {text}")
        elif c < 0:
            # Unary minus binds tighter than `//`, and floors do not commute with it.
            parts.append(f"-({text})" if _term_looseness(monomial, -c) == _DIVISION else f"-{text}")
        else:
            parts.append(text)
    return "".join(parts)
