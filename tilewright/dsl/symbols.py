"""Symbols of types and graphs, and the values that bind them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

from tilewright.dsl.attrs import Attr
from tilewright.dsl.dims import Dim, DimExpr, Symbol, of_symbol, symbols
from tilewright.dsl.dtypes import DType
from tilewright.dsl.errors import ProgramError, ShapeError, SymbolRangeError
from tilewright.dsl.graph import Graph
from tilewright.dsl.mask import POSITIONS, Mask
from tilewright.dsl.types import TensorType, Type, shape_text


def type_dims(type_: Type) -> tuple[Dim, ...]:
    """Every dimension that a type mentions."""
    return type_.shape if isinstance(type_, TensorType) else (type_.batch, type_.capacity)


def type_symbols(type_: Type) -> frozenset[Symbol]:
    """Every symbol that a type mentions."""
    found: frozenset[Symbol] = frozenset()
    for size in type_dims(type_):
        if isinstance(size, DimExpr):
            found |= symbols(size)
    return found


def graph_symbols(graph: Graph) -> tuple[Symbol, ...]:
    """Every symbol that a graph's inputs bind, or its types and attributes mention, by name.

    Body graphs are included.
    """
    return tuple(sorted(symbol_occurrences(graph), key=lambda symbol: symbol.name))


def symbol_occurrences(graph: Graph) -> set[Symbol]:
    """The same, unordered; one name may occur with several ranges in a graph that is wrong."""
    found: set[Symbol] = set()
    seen: set[int] = set()
    found.update(entry.symbol for entry in graph.inputs if entry.symbol is not None)
    values = [entry.value for entry in graph.inputs]
    for node in graph.nodes:
        values.extend(node.results)
        for attr in node.attrs.values():
            if type(attr) not in _PLAIN:
                found |= _attr_symbols(attr)
    for value in values:
        for size in type_dims(value.type):
            if isinstance(size, DimExpr) and id(size) not in seen:
                seen.add(id(size))
                found |= symbols(size)
    return found


def agreed_symbols(graphs: Iterable[Iterable[Symbol]]) -> tuple[Symbol, ...]:
    """The symbols of several graphs, by name. Raises ProgramError where one has two ranges."""
    found: dict[str, Symbol] = {}
    for symbol in chain.from_iterable(graphs):
        if found.setdefault(symbol.name, symbol) != symbol:
            raise ProgramError(
                f"symbol {symbol.name} is declared with two ranges: "
                f"{found[symbol.name]} and {symbol}"
            )
    return tuple(found[name] for name in sorted(found))


_PLAIN = frozenset({bool, int, float, str, DType, type(None)})
"""What most attributes are, and which cannot hold a symbol."""


def _attr_symbols(value: Attr) -> frozenset[Symbol]:
    found: frozenset[Symbol] = frozenset()
    for size in _dims_of(value):
        found |= symbols(size)
    return found - POSITIONS


def _dims_of(value: Attr) -> Iterator[DimExpr]:
    """Every expression in an attribute; of a mask those of its symbols that are not `q` and `k`."""
    stack: list[Attr] = [value]
    while stack:
        part = stack.pop()
        if isinstance(part, DimExpr):
            yield part
        elif isinstance(part, tuple):
            stack.extend(part)
        elif isinstance(part, Mask):
            stack.extend(e for clause in part.clauses for e in clause)
        elif isinstance(part, Graph):
            for entry in part.inputs:
                stack.extend(type_dims(entry.value.type))
                if entry.symbol is not None:
                    stack.append(of_symbol(entry.symbol))
            for node in part.nodes:
                stack.extend(node.attrs.values())
                for result in node.results:
                    stack.extend(type_dims(result.type))


def bind_shape(
    name: str, declared: TensorType, shape: tuple[int, ...], env: dict[str, int]
) -> None:
    """Adds to `env` what an input's shape says about the symbols of its declared type.

    Dimensions that are a lone symbol bind it; all others are checked once everything is bound (see
    `check_shape`). Raises ShapeError on a contradiction, SymbolRangeError out of range.
    """
    if len(shape) != declared.rank:
        raise ShapeError(
            f"{name} has {len(shape)} dimensions, expected {shape_text(declared.shape)}"
        )
    for size, actual in zip(declared.shape, shape, strict=True):
        if not isinstance(size, DimExpr):
            continue
        lone = lone_symbol(size)
        if lone is None:
            continue
        check_range(lone, actual)
        if env.setdefault(lone.name, actual) != actual:
            raise ShapeError(
                f"{name}: symbol {lone.name} is {actual} here and {env[lone.name]} elsewhere"
            )


def lone_symbol(size: Dim) -> Symbol | None:
    """The symbol, where a dimension is nothing but that."""
    if not isinstance(size, DimExpr):
        return None
    found = symbols(size)
    if len(found) != 1:
        return None
    (symbol,) = found
    return symbol if of_symbol(symbol) == size else None


def check_range(symbol: Symbol, value: int) -> None:
    """Raises SymbolRangeError unless the value is in the symbol's range."""
    if not symbol.lo <= value <= symbol.hi:
        raise SymbolRangeError(
            f"{symbol.name} is {value}, outside {symbol.lo}..{symbol.hi}",
            fix="use a value in range, or compile with a larger bound",
        )
    if value % symbol.multiple_of:
        raise SymbolRangeError(f"{symbol.name} is {value}, not a multiple of {symbol.multiple_of}")


def check_shape(
    name: str, declared: TensorType, shape: tuple[int, ...], env: Mapping[str, int]
) -> None:
    """Raises ShapeError unless the shape is the declared one under `env`."""
    from tilewright.dsl.dims import evaluate

    wanted = tuple(d if isinstance(d, int) else evaluate(d, env) for d in declared.shape)
    if wanted != shape:
        raise ShapeError(
            f"{name} has shape {list(shape)}, expected {list(wanted)} = "
            f"{shape_text(declared.shape)}"
        )
