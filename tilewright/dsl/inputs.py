"""The inputs of an evaluation: which symbols they bind, and whether they are what was declared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np

from tilewright.dsl.dims import Symbol
from tilewright.dsl.encoding import components
from tilewright.dsl.errors import DTypeError, GraphError, ShapeError, SymbolRangeError
from tilewright.dsl.graph import Graph, Input
from tilewright.dsl.ops.encoded import parts_of
from tilewright.dsl.rounding import Array, rounded
from tilewright.dsl.symbols import bind_shape, check_range, check_shape, graph_symbols
from tilewright.dsl.types import CacheType, TensorType, Type


def bind(graph: Graph, inputs: Mapping[str, Any], symbols: Mapping[str, int]) -> dict[str, int]:
    """The value of every symbol of a graph, from shapes, symbol inputs and `symbols`.

    Raises GraphError for a missing input, ShapeError and SymbolRangeError for a wrong one.
    """
    known: dict[str, Symbol] = {symbol.name: symbol for symbol in graph_symbols(graph)}
    env: dict[str, int] = {}
    for name, value in symbols.items():
        if name in known:
            check_range(known[name], value)
            env[name] = value
    for entry in graph.inputs:
        if entry.path not in inputs:
            raise GraphError(
                f"graph {graph.name} has no value for input {entry.path}",
                fix=f"its inputs are: {', '.join(i.path for i in graph.inputs)}",
            )
        if entry.symbol is not None:
            _bind_scalar(env, entry.symbol, int(inputs[entry.path]))
    parts = [part for entry in graph.inputs for part in _parts(entry, inputs[entry.path])]
    for name, declared, array in parts:
        bind_shape(name, declared, array.shape, env)
    missing = sorted(set(known) - set(env))
    if missing:
        raise SymbolRangeError(
            f"symbol {missing[0]} of graph {graph.name} has no value",
            fix="pass it in `symbols`",
        )
    for name, declared, array in parts:
        check_shape(name, declared, array.shape, env)
    return env


def _bind_scalar(env: dict[str, int], symbol: Symbol, value: int) -> None:
    check_range(symbol, value)
    if env.setdefault(symbol.name, value) != value:
        raise ShapeError(f"symbol {symbol.name} is {value} here and {env[symbol.name]} elsewhere")


def _parts(entry: Input, given: Any) -> Iterator[tuple[str, TensorType, Array]]:
    """Every array of an input with its declared type and a name for messages."""
    if entry.role == "symbol":
        return
    yield from _arrays(entry.path, entry.value.type, given)


def _arrays(name: str, type_: Type, given: Any) -> Iterator[tuple[str, TensorType, Array]]:
    if isinstance(type_, CacheType):
        if not isinstance(given, tuple) or len(cast("tuple[Any, ...]", given)) != 2:
            raise GraphError(f"{name} is a cache: its value is a pair of keys and values")
        keys, values = cast("tuple[Any, Any]", given)
        yield from _arrays(f"{name}.k", type_.part, keys)
        yield from _arrays(f"{name}.v", type_.part, values)
    elif type_.is_dense:
        yield name, type_, np.asarray(given)
    else:
        stored = _components(name, type_, given)
        for part, declared in components(type_).items():
            yield f"{name}.{part}", declared, np.asarray(stored[part])


def _components(name: str, type_: TensorType, given: Any) -> Mapping[str, Any]:
    wanted = components(type_)
    found = parts_of(given) or {}
    if set(found) != set(wanted):
        raise GraphError(
            f"{name} is stored as {type_.encoding}: its value has the components "
            f"{', '.join(wanted)}, got {', '.join(found) or 'none'}"
        )
    return found


def load(entry: Input, given: Any, *, exact: bool) -> Any:
    """An input's value in its declared formats; with `exact`, float64 input is not rounded.

    The entry's type has no symbols. Raises DTypeError where an array has another format.
    """
    if entry.role == "symbol":
        return np.asarray(int(given), np.int64)
    return _load(entry.path, entry.value.type, given, exact)


def _load(name: str, type_: Type, given: Any, exact: bool) -> Any:
    if isinstance(type_, CacheType):
        keys, values = given
        part = type_.part
        return _load(f"{name}.k", part, keys, exact), _load(f"{name}.v", part, values, exact)
    if not type_.is_dense:
        return {
            part: _load_array(f"{name}.{part}", declared, given[part], exact)
            for part, declared in components(type_).items()
        }
    return _load_array(name, type_, given, exact)


def _load_array(name: str, type_: TensorType, given: Any, exact: bool) -> Array:
    wanted = type_.dtype.numpy
    if not isinstance(given, np.ndarray | np.generic):
        return np.asarray(given, wanted)
    array: Array = np.asarray(cast("Array", given))
    if array.dtype.newbyteorder("=") == wanted:
        return array.astype(wanted, copy=False)
    if type_.dtype.is_float and array.dtype == np.float64:
        return array if exact else rounded(array, type_.dtype)
    raise DTypeError(
        f"{name} is {array.dtype}, expected {type_.dtype}",
        fix=f"convert it: array.astype({wanted.name!r})",
    )
