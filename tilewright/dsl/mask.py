"""Attention masks as predicates on positions.

A mask is a conjunction of clauses, a clause a disjunction of expressions over the reserved symbols
`q` and `k`, each meaning `expression >= 0`. `k` is the key's index, `q` the query's index counted
so that the last query stands at the last key (bottom-right alignment, as in FlashAttention).
"""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.dsl.dims import Dim, DimExpr, dim, symbols, to_text
from tilewright.dsl.errors import DimError

_FAR = 2**31
Q: DimExpr = dim("q", 0, _FAR)
K: DimExpr = dim("k", 0, _FAR)
POSITIONS = symbols(Q) | symbols(K)
"""The symbols that a mask binds itself."""

Clause = tuple[Dim, ...]


@dataclass(frozen=True, slots=True)
class Mask:
    """Visible where every clause has an expression that is not negative."""

    clauses: tuple[Clause, ...] = ()

    def __post_init__(self) -> None:
        ordered = {tuple(sorted(set(clause), key=str)) for clause in self.clauses}
        object.__setattr__(self, "clauses", tuple(sorted(ordered, key=str)))

    def __and__(self, other: Mask) -> Mask:
        return Mask((*self.clauses, *other.clauses))

    def __or__(self, other: Mask) -> Mask:
        pairs = ((*mine, *theirs) for mine in self.clauses for theirs in other.clauses)
        return Mask(tuple(pairs))

    def __str__(self) -> str:
        if not self.clauses:
            return "mask(true)"
        return "mask(" + " & ".join(map(_clause_text, self.clauses)) + ")"


EVERYTHING = Mask()


def causal() -> Mask:
    """A query sees itself and what came before."""
    return Mask(((Q - K,),))


def window(size: int) -> Mask:
    """A query sees keys less than `size` positions back (and every later key)."""
    if size < 1:
        raise DimError(f"an attention window has at least one position, got {size}")
    return Mask(((K - Q + (size - 1),),))


def sinks(count: int) -> Mask:
    """The first `count` keys; use as `window(w) | sinks(4)`."""
    return Mask((((count - 1) - K,),))


def band(mask: Mask) -> tuple[int | None, int | None]:
    """Bounds `(back, ahead)`: a visible key satisfies `q - back <= k <= q + ahead`.

    None where the mask states no such bound in a clause of its own. A kernel may skip all keys
    outside the band; inside, it still evaluates the clauses that `is_band` says are not implied.
    """
    back: int | None = None
    ahead: int | None = None
    for clause in mask.clauses:
        limit = _band_clause(clause)
        if limit is None:
            continue
        side, value = limit
        if side == "back":
            back = value if back is None else min(back, value)
        else:
            ahead = value if ahead is None else min(ahead, value)
    return back, ahead


def is_band(mask: Mask) -> bool:
    """True where the band alone decides."""
    return all(_band_clause(clause) is not None for clause in mask.clauses)


def _band_clause(clause: Clause) -> tuple[str, int] | None:
    if len(clause) != 1:
        return None
    rest = clause[0] - (Q - K)
    if isinstance(rest, int):
        return "ahead", rest
    rest = clause[0] - (K - Q)
    return ("back", rest) if isinstance(rest, int) else None


def _clause_text(clause: Clause) -> str:
    if not clause:
        return "false"
    text = " | ".join(map(_ge_text, clause))
    return text if len(clause) == 1 else f"({text})"


def _ge_text(expression: Dim) -> str:
    text = str(expression) if isinstance(expression, int) else to_text(expression)
    return f"{text} >= 0"
