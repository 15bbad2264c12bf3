"""A graph's inputs: checked against its signature, bound to its symbols, laid out for kernels."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy import ndarray
from numpy.typing import NDArray

from tilewright.dsl.dims import Dim, Symbol
from tilewright.dsl.dtypes import BY_NAME, DType, from_numpy
from tilewright.dsl.errors import (
    DTypeError,
    InvalidManifest,
    MissingInput,
    ShapeError,
    SymbolRangeError,
    UnknownInput,
)
from tilewright.dsl.symbols import check_range, lone_symbol
from tilewright.dsl.types import shape_text
from tilewright.runtime.buffers import Array, aligned_empty
from tilewright.runtime.dim_table import DimTable, read_dim
from tilewright.runtime.schema import GraphPlan, Port

Key: TypeAlias = tuple[Hashable, ...]
"""What decides the sizes of a call and where things lie in it."""

_PLAIN: Final = 0x101
"""NumPy's flags C_CONTIGUOUS and ALIGNED."""


Given: TypeAlias = tuple[list[Array], list[int], Key]
"""A call's arrays in the order of the ports, its bound symbols' values, and its key."""


class Bound(NamedTuple):
    """A call that was checked: all symbols' values, and all values of its dims."""

    given: Given
    symbols: list[int]
    values: NDArray[np.int64]


class Binder:
    """Binds the inputs of one graph. `dims` is filled with what the ports mention.

    shaping: symbols whose value is part of a call's key, besides those of the inputs' shapes.
    """

    def __init__(
        self,
        plan: GraphPlan,
        symbols: Mapping[str, Symbol],
        dims: DimTable,
        shaping: Collection[str],
    ) -> None:
        self._graph = plan.name
        self._dims = dims
        self._order = {name: i for i, name in enumerate(dims.order)}
        self._scalars = [(name, symbols[name]) for name in plan.bound]
        self._names = {port.name for port in plan.inputs} | set(plan.bound)
        self._ports = [_Port(port, symbols, dims) for port in plan.inputs]
        self._symbols = [symbols[name] for name in dims.order]
        shaping = dims.mentions(dims.number(t) for p in plan.inputs for t in p.shape) | {*shaping}
        self._shaping = [row for row, name in enumerate(plan.bound) if name in shaping]
        self._formats = [(port.name, BY_NAME[port.dtype].numpy) for port in plan.inputs]

    def check_bindable(self, fixed: set[str]) -> None:
        """Raises InvalidManifest unless inputs and the symbols in `fixed` bind every symbol."""
        known = fixed | {name for name, _ in self._scalars}
        known |= {symbol.name for port in self._ports for _, symbol in port.lone}
        for name in self._order:
            if name not in known:
                raise InvalidManifest(f"nothing binds symbol {name} of graph {self._graph}")

    def plain(self, inputs: Mapping[str, Any], fixed: Mapping[str, int]) -> Given | None:
        """The inputs if kernels can read them all where they lie; only `bind` checks their shapes.

        A call whose key was bound before differs from that one in scalars outside the key alone.
        """
        if inputs.__class__ is not dict or len(inputs) != len(self._names):
            return None
        arrays: list[Array] = []
        for name, dtype in self._formats:
            array = inputs.get(name)
            if type(array) is not ndarray or array.flags.num & _PLAIN != _PLAIN:
                return None
            if array.dtype is not dtype and array.dtype != dtype:
                return None
            arrays.append(array)
        scalars: list[int] = []
        for name, _ in self._scalars:
            value = inputs.get(name)
            if type(value) is not int or value >> 63:  # negative, or wider than a kernel's word
                return None
            scalars.append(value)
        return self._keyed(arrays, scalars, fixed)

    def bind(self, inputs: Mapping[str, Any], fixed: Mapping[str, int]) -> Bound:
        """Check the inputs, copying what kernels cannot read where it lies.

        inputs: an array for each port and an integer for each bound symbol.
        fixed: symbols whose value is decided already.

        Raises MissingInput, UnknownInput, DTypeError, ShapeError and SymbolRangeError.
        """
        check_mapping(inputs)
        for name in inputs:
            if name not in self._names:
                known = ", ".join(sorted(self._names)) or "none"
                raise UnknownInput(
                    f"graph {self._graph} has no input {str(name)[:80]!r}",
                    fix=f"its inputs are: {known}",
                )
        env: list[int | None] = [fixed.get(name) for name in self._order]
        scalars: list[int] = []
        for name, symbol in self._scalars:
            scalars.append(_integer(name, self._wanted(inputs, name)))
            self._set(env, symbol, scalars[-1], name)
        arrays: list[Array] = []
        for port in self._ports:
            array = port.array(self._wanted(inputs, port.name))
            for axis, symbol in port.lone:
                self._set(env, symbol, array.shape[axis], port.name)
            arrays.append(array)
        symbols = self._complete(env)
        values = self._dims.evaluate(symbols)
        for port, array in zip(self._ports, arrays, strict=True):
            port.check_shape(array, values)
        laid_out = [_laid_out(array) for array in arrays]
        return Bound(self._keyed(laid_out, scalars, fixed), symbols, values)

    def _keyed(self, arrays: list[Array], scalars: list[int], fixed: Mapping[str, int]) -> Given:
        key: list[Hashable] = [array.shape for array in arrays]
        key += [scalars[row] for row in self._shaping]
        key += fixed.items()
        return arrays, scalars, tuple(key)

    def _wanted(self, inputs: Mapping[str, Any], name: str) -> Any:
        if name not in inputs:
            raise MissingInput(
                f"graph {self._graph} needs the input {name}",
                fix=f"its inputs are: {', '.join(sorted(self._names))}",
            )
        return inputs[name]

    def _set(self, env: list[int | None], symbol: Symbol, value: int, where: str) -> None:
        check_range(symbol, value)
        at = self._order[symbol.name]
        if env[at] is None:
            env[at] = value
        elif env[at] != value:
            raise ShapeError(f"{where}: {symbol.name} is {value} here and {env[at]} elsewhere")

    def _complete(self, env: list[int | None]) -> list[int]:
        found = [value for value in env if value is not None]
        if len(found) == len(env):
            return found
        missing = next(s.name for s, value in zip(self._symbols, env, strict=True) if value is None)
        raise SymbolRangeError(
            f"symbol {missing} of graph {self._graph} has no value",
            fix=f"make the session with it: model.session({missing}=...)",
        )


class _Port:
    """An input array: its number format, and what its shape says."""

    def __init__(self, port: Port, symbols: Mapping[str, Symbol], dims: DimTable) -> None:
        self.name = port.name
        self._dtype: DType = BY_NAME[port.dtype]
        self._numpy = self._dtype.numpy
        self._shape: tuple[Dim, ...] = tuple(read_dim(text, symbols) for text in port.shape)
        self._numbers = dims.numbers(port.shape)
        found = [(axis, lone_symbol(size)) for axis, size in enumerate(self._shape)]
        self.lone = [(axis, symbol) for axis, symbol in found if symbol is not None]

    def array(self, given: Any) -> Array:
        """The array, of the right format (in any byte order) and rank."""
        array = _as_array(self.name, given)
        if array.dtype != self._numpy and array.dtype.newbyteorder("=") != self._numpy:
            raise DTypeError(
                f"{self.name} is {_format_name(array)}, expected {self._dtype}",
                fix=f"convert it: array.astype({self._numpy.name!r})",
            )
        if array.ndim != len(self._shape):
            raise ShapeError(
                f"{self.name} has {array.ndim} dimensions, expected {shape_text(self._shape)}"
            )
        return array

    def check_shape(self, array: Array, values: NDArray[np.int64]) -> None:
        """Raises ShapeError unless the array has the shape that the symbols' values give."""
        wanted = values[self._numbers].tolist()
        if wanted != list(array.shape):
            raise ShapeError(
                f"{self.name} has shape {list(array.shape)}, expected {wanted} = "
                f"{shape_text(self._shape)}"
            )


def check_mapping(inputs: object) -> None:
    """Raises MissingInput for inputs that are not given by name."""
    if not isinstance(inputs, Mapping):
        raise MissingInput(
            f"inputs are given by name, not as a {type(inputs).__name__}",
            fix='pass a dict, {"x": array}',
        )


def _as_array(name: str, given: Any) -> Array:
    try:
        return np.asarray(given)
    except Exception as error:  # an object's own __array__ may raise anything
        raise DTypeError(f"{name} is no array: {error}", fix="pass a NumPy array") from error


def _format_name(array: Array) -> str:
    try:
        return str(from_numpy(array.dtype))
    except DTypeError:
        return str(array.dtype)


def _integer(name: str, given: Any) -> int:
    array = _as_array(name, given)
    if array.shape != () or array.dtype.kind not in "iu":
        raise DTypeError(f"{name} is one integer", fix=f"pass {name}=3, or a 0-d integer array")
    return int(array)


def _laid_out(array: Array) -> Array:
    """The array where a kernel can read it: in order, in this machine's byte order.

    Kernels load vectors at any address, if only each element is aligned.
    """
    if array.flags.num & _PLAIN == _PLAIN and array.dtype.isnative:
        return array
    copied = aligned_empty(array.shape, array.dtype.newbyteorder("="))
    copied[...] = array
    return copied
