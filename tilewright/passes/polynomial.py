"""Values as polynomials in two others, with numbers for coefficients."""

from __future__ import annotations

from collections.abc import Callable

from tilewright.dsl.graph import Node, Value
from tilewright.passes.match import Match
from tilewright.passes.rows import stated_number

Polynomial = dict[tuple[int, int], float]
"""Coefficients by the exponents of the two variables."""

_DEPTH = 8
_DEGREE = 4

ARITHMETIC = ("add", "div", "mul", "neg", "pow", "sub")


def polynomial(match: Match, value: Value, x: Value, y: Value | None) -> Polynomial | None:
    """The value as a polynomial in x and y; None where it is none of low degree.

    It looks at most eight operations deep.
    """
    return _at(match, value, (x, y), _DEPTH)


def close(found: Polynomial | None, wanted: Polynomial, tolerance: float) -> bool:
    """True where the coefficients agree to a relative tolerance."""
    return (
        found is not None
        and found.keys() == wanted.keys()
        and all(abs(found[k] - c) <= tolerance * abs(c) for k, c in wanted.items())
    )


def _at(
    match: Match, value: Value, variables: tuple[Value, Value | None], depth: int
) -> Polynomial | None:
    x, y = variables
    if match.same(value, x):
        return {(1, 0): 1.0}
    if y is not None and match.same(value, y):
        return {(0, 1): 1.0}
    number = stated_number(match, value)
    if number is not None:
        return {(0, 0): number}
    node = match.take(value, *ARITHMETIC) if depth else None
    if node is None:
        return None
    parts = [_at(match, operand, variables, depth - 1) for operand in node.operands]
    known = [part for part in parts if part is not None]
    return _APPLY[node.op](*known) if len(known) == len(parts) else None


def _add(p: Polynomial, q: Polynomial) -> Polynomial | None:
    total = {key: p.get(key, 0.0) + q.get(key, 0.0) for key in (*p, *q)}
    return {key: c for key, c in total.items() if c != 0.0}


def _scale(p: Polynomial, factor: float) -> Polynomial:
    return {key: c * factor for key, c in p.items()}


def _neg(p: Polynomial) -> Polynomial | None:
    return _scale(p, -1.0)


def _sub(p: Polynomial, q: Polynomial) -> Polynomial | None:
    return _add(p, _scale(q, -1.0))


def _mul(p: Polynomial, q: Polynomial) -> Polynomial | None:
    product: Polynomial = {}
    for (i, j), c in p.items():
        for (k, m), d in q.items():
            product[i + k, j + m] = product.get((i + k, j + m), 0.0) + c * d
    low = all(i + j <= _DEGREE for i, j in product)
    return product if low else None


def _div(p: Polynomial, q: Polynomial) -> Polynomial | None:
    divisor = q.get((0, 0), 0.0)
    return _scale(p, 1.0 / divisor) if set(q) == {(0, 0)} and divisor else None


def _pow(p: Polynomial, q: Polynomial) -> Polynomial | None:
    exponent = q.get((0, 0), 0.0)
    if set(q) != {(0, 0)} or exponent not in (1.0, 2.0, 3.0):
        return None
    result: Polynomial | None = p
    for _ in range(int(exponent) - 1):
        result = None if result is None else _mul(result, p)
    return result


_APPLY: dict[str, Callable[..., Polynomial | None]] = {
    "add": _add,
    "div": _div,
    "mul": _mul,
    "neg": _neg,
    "pow": _pow,
    "sub": _sub,
}


def factors_behind(match: Match, node: Node, *ops: str) -> Node | None:
    """The nearest node of these operations behind arithmetic, at most four steps away."""
    front = [node]
    for _ in range(5):
        behind: list[Node] = []
        for current in front:
            if current.op in ops:
                return current
            if current.op in ARITHMETIC:
                made = (match.editor.producer(operand) for operand in current.operands)
                behind.extend(producer for producer in made if producer is not None)
        front = behind[:16]
    return None
