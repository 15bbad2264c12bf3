"""A session: the state that a program's graphs hand on from call to call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from tilewright.dsl.dims import Symbol, evaluate
from tilewright.dsl.dtypes import BY_NAME
from tilewright.dsl.errors import InvalidSession
from tilewright.dsl.symbols import check_range
from tilewright.runtime.buffers import Array, address_of, aligned_zeros
from tilewright.runtime.dim_table import read_dim
from tilewright.runtime.schema import StateRecord

if TYPE_CHECKING:
    from tilewright.runtime.model import Model

PAST: Final = "past"
"""The bound symbol by which a graph learns how many positions the caches hold."""
TOKENS: Final = "tokens"
"""The input [batch, count] whose positions a graph with `past` appends to the caches."""


class Session:
    """State arrays of one model, zero at first, and how many positions of the caches are filled.

    Made by `Model.session`. A session serves one call at a time.
    """

    def __init__(
        self,
        model: Model,
        states: Sequence[StateRecord],
        symbols: Mapping[str, Symbol],
        sizes: Mapping[str, int],
    ) -> None:
        self.model = model
        self.sizes = dict(sizes)
        self.arrays: dict[str, Array] = {}
        self._token_axes: dict[str, int | None] = {}
        self._position = 0
        _check_sizes(states, symbols, sizes)
        for state in states:
            for port in state.components:
                shape = tuple(evaluate(read_dim(text, symbols), sizes) for text in port.shape)
                self.arrays[port.name] = aligned_zeros(shape, BY_NAME[port.dtype].numpy)
                self._token_axes[port.name] = state.tokens_axis
        self.addresses = {name: address_of(array) for name, array in self.arrays.items()}
        self._capacity = min(
            (self.arrays[n].shape[a] for n, a in self._token_axes.items() if a is not None),
            default=None,
        )

    @property
    def position(self) -> int:
        """How many positions the caches hold."""
        return self._position

    @property
    def capacity(self) -> int | None:
        """How many positions the smallest cache can hold; None without a cache."""
        return self._capacity

    @property
    def nbytes(self) -> int:
        """Bytes of all states at full capacity; memory is taken as it is first written."""
        return sum(array.nbytes for array in self.arrays.values())

    def run(self, graph: str, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """`Model.run` with this session."""
        return self.model.run(graph, inputs, session=self)

    def advance(self, count: int) -> None:
        """Note that `count` more positions are filled. Raises InvalidSession beyond capacity."""
        self._position += self.checked(count)

    def checked(self, count: int) -> int:
        """`count` again. Raises InvalidSession unless the caches take so many more positions."""
        capacity = self._capacity
        if count < 0 or (capacity is not None and self._position + count > capacity):
            raise InvalidSession(
                f"{count} positions do not fit: the caches hold {self._position} of {capacity}",
                fix="roll back, start a new session, or compile with a larger context",
            )
        return count

    def rollback(self, position: int) -> None:
        """Forget every position from `position` on.

        Raises InvalidSession for a position beyond the present one, and where a state has no
        positions: what such a state held before is gone.
        """
        if not 0 <= position <= self._position:
            raise InvalidSession(
                f"cannot go back to position {position}: the session holds {self._position}"
            )
        if position == self._position:
            return
        for name, axis in self._token_axes.items():
            if axis is None:
                raise InvalidSession(
                    f"state {name} has no positions to go back to",
                    fix="reset the session, and run from the start again",
                )
        self._clear(position)

    def reset(self) -> None:
        """Make all state zero again and forget every position."""
        self._clear(0)
        for name, axis in self._token_axes.items():
            if axis is None:
                self.arrays[name].fill(0)

    def _clear(self, position: int) -> None:
        """Zero the positions that are given up, and only those: the rest was never written."""
        for name, axis in self._token_axes.items():
            if axis is not None:
                dropped = (*[slice(None)] * axis, slice(position, self._position))
                self.arrays[name][dropped] = 0
        self._position = position


def _check_sizes(
    states: Sequence[StateRecord], symbols: Mapping[str, Symbol], sizes: Mapping[str, int]
) -> None:
    wanted = state_symbols(states, symbols)
    for name in sorted(wanted - set(sizes)):
        raise InvalidSession(
            f"the state's size depends on {name}", fix=f"make it with model.session({name}=...)"
        )
    for name in sorted(set(sizes) - wanted):
        raise InvalidSession(f"no state's size depends on {name[:80]!r}", fix="leave it out")
    for name, value in sizes.items():
        check_range(symbols[name], value)


def state_symbols(states: Sequence[StateRecord], symbols: Mapping[str, Symbol]) -> set[str]:
    """Names of the symbols in the states' shapes."""
    from tilewright.dsl.dims import symbols as symbols_of

    texts = {text for state in states for port in state.components for text in port.shape}
    return {symbol.name for text in texts for symbol in symbols_of(read_dim(text, symbols))}
