"""Walking dimensions: evaluation, substitution, compilation, lowering to other languages."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import itemgetter
from typing import Any, Literal, TypeVar, cast

from tilewright.dsl.dims_atoms import Atom, Coefficient, Monomial, Symbol
from tilewright.dsl.dims_division import floordiv, interval, mod
from tilewright.dsl.dims_normal import Dim, DimExpr, of_symbol
from tilewright.dsl.dims_order import dim_max, dim_min, divisor
from tilewright.dsl.errors import SymbolRangeError

DimOp = Literal["+", "-", "*", "//", "%", "min", "max"]
Evaluator = Callable[[Sequence[int]], int]
T = TypeVar("T")
Operation = Callable[[T, T], T]
_PYTHON = cast(
    "Mapping[DimOp, Operation[Any]]",
    {"+": operator.add, "-": operator.sub, "*": operator.mul}
    | {"//": operator.floordiv, "%": operator.mod},
)


def arithmetic(
    *,
    smaller: Operation[T],
    larger: Operation[T],
    floordiv: Operation[T] = _PYTHON["//"],
    mod: Operation[T] = _PYTHON["%"],
) -> Mapping[DimOp, Operation[T]]:
    """What each operator does to values that have Python's `+`, `-` and `*`."""
    return {**_PYTHON, "//": floordiv, "%": mod, "min": smaller, "max": larger}


def symbols(d: Dim) -> frozenset[Symbol]:
    """The symbols that occur in `d`."""
    return frozenset(d.table.values()) if type(d) is DimExpr else frozenset()


def fold(
    d: Dim,
    constant: Callable[[int], T],
    symbol: Callable[[Symbol], T],
    operations: Mapping[DimOp, Operation[T]],
) -> T:
    """Rebuild `d` from constants, symbols and binary operations, bottom-up in canonical order.

    All values are integers; `//` and `%` round down and have a positive right operand. This is how
    dims reach other languages. Recursion is bounded by the depth that a normal form may have.
    """

    def of_atom(atom: Atom) -> T:
        if type(atom) is Symbol:
            return symbol(atom)
        assert not isinstance(atom, Symbol)
        args = [of_dim(arg) for arg in atom.args]
        return reduce(operations[atom.op], args)

    def of_term(monomial: Monomial, c: Coefficient) -> T:
        factors = [of_atom(atom) for atom, power in monomial for _ in range(power)]
        if c.numerator != 1 or not factors:
            factors.insert(0, constant(c.numerator))
        product = reduce(operations["*"], factors)
        if c.denominator == 1:
            return product
        return operations["//"](product, constant(c.denominator))

    def of_dim(d: Dim) -> T:
        if type(d) is not DimExpr:
            return constant(int(d))
        (first, *others) = sorted(d.terms, key=lambda term: term[1] < 0)
        total = of_term(*first)
        for monomial, c in others:
            total = operations["-" if c < 0 else "+"](total, of_term(monomial, abs(c)))
        return total

    return of_dim(d)


def evaluate(d: Dim, env: Mapping[str, int]) -> int:
    """The value of `d` where each symbol has the value that `env` gives its name.

    Raises SymbolRangeError for a symbol that is missing or has a value that it must not have.
    """
    for s in sorted(symbols(d), key=lambda s: s.name):
        if s.name not in env:
            raise SymbolRangeError(f"symbol {s.name} has no value", fix=f"give {s.name} a value")
        value = env[s.name]
        if type(value) is not int:
            raise SymbolRangeError(f"symbol {s.name} needs an integer, got {value!r}")
        _require_in_range(s, value)
    return fold(d, int, lambda s: env[s.name], _INTS)


def substitute(d: Dim, env: Mapping[str, Dim]) -> Dim:
    """`d` with the symbols named in `env` replaced, all at once; the others stay.

    What is known of a symbol has been used in simplifying `d`, so it must hold for what replaces
    it: raises SymbolRangeError unless that is proved to stay in range and to be a multiple.
    """
    replaced = [s for s in symbols(d) if s.name in env]
    if not replaced:
        return d
    for s in sorted(replaced, key=lambda s: s.name):
        _require_in_range(s, env[s.name])
    return fold(d, int, lambda s: env.get(s.name, of_symbol(s)), DIM_ARITHMETIC)


def compile_dim(d: Dim, order: Sequence[str]) -> Evaluator:
    """A function from the symbols' values, given in `order`, to the value of `d`.

    For evaluation many times over: it does not check the values against the symbols' ranges.
    Raises SymbolRangeError if `order` lacks a symbol of `d`.
    """
    position = {name: i for i, name in enumerate(order)}
    for s in sorted(symbols(d), key=lambda s: s.name):
        if s.name not in position:
            raise SymbolRangeError(
                f"symbol {s.name} of {d} is not among the arguments: {', '.join(order) or 'none'}"
            )
    return fold(d, _constant_evaluator, lambda s: itemgetter(position[s.name]), _EVALUATORS)


def _require_in_range(s: Symbol, value: Dim) -> None:
    low, high = interval(value)
    if low < s.lo or high > s.hi:
        seen = f"{value}" if low == high else f"{value} in {low}..{high}"
        raise SymbolRangeError(
            f"symbol {s.name} must lie in {s.lo}..{s.hi}, got {seen}",
            fix=f"stay in the range, or declare {s.name} with a wider one",
        )
    if divisor(value) % s.multiple_of:
        raise SymbolRangeError(
            f"symbol {s.name} must be a multiple of {s.multiple_of}, got {value}",
            fix=f"pad to a multiple, or declare {s.name} with a smaller multiple_of",
        )


def _constant_evaluator(value: int) -> Evaluator:
    return lambda _: value


def _of_evaluators(join: Operation[int]) -> Operation[Evaluator]:
    return lambda f, g: lambda v: join(f(v), g(v))


DIM_ARITHMETIC = arithmetic(smaller=dim_min, larger=dim_max, floordiv=floordiv, mod=mod)
"""What each operator does to dimensions."""
_INTS: Mapping[DimOp, Operation[int]] = arithmetic(smaller=min, larger=max)
_EVALUATORS: Mapping[DimOp, Operation[Evaluator]] = {
    op: _of_evaluators(join) for op, join in _INTS.items()
}
