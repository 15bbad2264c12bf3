"""Calls of a compiled graph, with what its caches hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tilewright.dsl.dims import Symbol
from tilewright.dsl.graph import Graph
from tilewright.dsl.symbols import graph_symbols
from tilewright.dsl.types import CacheType, Type
from tilewright.passes.memory import parts
from tilewright.runtime.model import Model
from tilewright.runtime.session import PAST, Session, state_symbols


class Call:
    """A graph of a model at given sizes. The graph reads its caches, and does not write them.

    sizes: values of the graph's symbols; `past` says how many positions of the caches are filled.
    """

    def __init__(self, model: Model, graph: Graph, sizes: Mapping[str, int]) -> None:
        self._model, self._graph = model, graph
        self._session: Session | None = None
        self._inputs: Mapping[str, Any] = {}
        if graph.by_role("state"):
            symbols: dict[str, Symbol] = {symbol.name: symbol for symbol in graph_symbols(graph)}
            wanted = state_symbols(model.manifest.states, symbols)
            self._session = model.session(**{name: sizes[name] for name in wanted})
            self._session.advance(sizes.get(PAST, 0))

    def take(self, inputs: Mapping[str, Any]) -> None:
        """The inputs of the calls that follow, caches among them."""
        states = {entry.path: entry.value.type for entry in self._graph.by_role("state")}
        self._inputs = {name: value for name, value in inputs.items() if name not in states}
        if self._session is not None:
            for path, type_ in states.items():
                for name, array in zip(parts(type_), _arrays(inputs[path], type_), strict=True):
                    self._session.arrays[f"{path}:{name}"][...] = array

    def run(self, *, poison: bool = False) -> dict[str, Any]:
        """The outputs. Raises what `Model.run` does."""
        return self._model.run(self._graph.name, self._inputs, self._session, poison=poison)


def _arrays(drawn: Any, type_: Type) -> tuple[Any, ...]:
    """The arrays of a state: two of a cache."""
    return tuple(drawn) if isinstance(type_, CacheType) else (drawn,)
