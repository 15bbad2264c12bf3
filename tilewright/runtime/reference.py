"""Regions that no backend lowers, run by their meaning. The only part that knows operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from tilewright.dsl.encoding import components
from tilewright.dsl.errors import InvalidManifest
from tilewright.dsl.graph import Value, substitute_type
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.text import parse_graph
from tilewright.dsl.types import CacheType, TensorType, is_static
from tilewright.runtime.buffers import Array, view_at


class ReferenceRegion:
    """A graph in text form, evaluated in the faithful reading; indices are clamped as in kernels.

    Raises what `parse_graph` raises, and InvalidManifest unless there is a slot for each component.
    """

    def __init__(self, text: str, name: str, inputs: int, outputs: int) -> None:
        self._graph = parse_graph(text, name)
        self._inputs = [i for i in self._graph.inputs if i.role != "symbol"]
        self._scalars = [i.path for i in self._graph.inputs if i.role == "symbol"]
        taken = sum(_count(i.value) for i in self._inputs)
        made = sum(_count(v) for v in self._graph.output_values)
        if (taken, made) != (inputs, outputs):
            raise InvalidManifest(
                f"region {name} reads {taken} and writes {made} arrays, its step has {inputs} and "
                f"{outputs} slots"
            )

    def run(
        self, sources: Sequence[int], targets: Sequence[int], symbols: Mapping[str, int]
    ) -> None:
        """Read arrays at the addresses `sources`, write results to `targets`."""
        given: dict[str, Any] = {name: symbols[name] for name in self._scalars}
        rest = list(sources)
        for entry in self._inputs:
            given[entry.path] = _value(_take(rest, entry.value, symbols), entry.value)
        found = evaluate(self._graph, given, symbols=symbols, checked=False)
        rest = list(targets)
        for output in self._graph.outputs:
            places = _take(rest, output.value, symbols)
            for place, array in zip(places, _arrays(found[output.name]), strict=True):
                np.copyto(place, array)


def _count(value: Value) -> int:
    if isinstance(value.type, CacheType):
        return 2 * len(components(value.type.part))
    return len(components(value.type))


def _take(addresses: list[int], value: Value, symbols: Mapping[str, int]) -> list[Array]:
    """Arrays over the next addresses, one for each component of the value."""
    type_ = substitute_type(value.type, symbols)
    tensor = type_.part if isinstance(type_, CacheType) else type_
    parts = list(components(tensor).values()) * (2 if isinstance(type_, CacheType) else 1)
    views = [view_at(addresses[i], _shape(part), part.dtype.numpy) for i, part in enumerate(parts)]
    del addresses[: len(parts)]
    return views


def _shape(part: TensorType) -> tuple[int, ...]:
    assert is_static(part.shape)
    return tuple(size for size in part.shape if isinstance(size, int))


def _value(arrays: list[Array], value: Value) -> Any:
    """The arrays in the form in which the evaluator takes a value of this type."""
    if isinstance(value.type, CacheType):
        half = len(arrays) // 2
        part = value.type.part
        return _stored(arrays[:half], part), _stored(arrays[half:], part)
    return _stored(arrays, value.type)


def _stored(arrays: list[Array], type_: TensorType) -> Any:
    return arrays[0] if type_.is_dense else dict(zip(components(type_), arrays, strict=True))


def _arrays(value: Any) -> list[Array]:
    """All component arrays of a value, in order."""
    if isinstance(value, tuple):
        return [array for part in cast("tuple[Any, ...]", value) for array in _arrays(part)]
    if isinstance(value, Mapping):
        return list(cast("Mapping[str, Array]", value).values())
    return [value]
