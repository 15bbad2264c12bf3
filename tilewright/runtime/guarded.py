"""Outputs between guards, by which a kernel that writes beyond them is found out."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from tilewright.runtime.buffers import Array, address_of, aligned_block

_GUARD: Final = 1 << 12
"""Bytes before and after an output: a page, which a wrong bound seldom steps over."""
_MARK: Final = 0xA5


class GuardedOutputs:
    """Gives out arrays as `OutputPool` does, and knows afterwards whether their surroundings are
    as they were.
    """

    def __init__(self) -> None:
        self._guards: list[Array] = []

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any], size: int) -> tuple[Array, int]:
        """A new array of `size` bytes, and its address. Raises OutOfMemory."""
        memory, start = aligned_block(size + 2 * _GUARD)
        first = start + _GUARD
        before, after = memory[:first], memory[first + size :]
        for guard in (before, after):
            guard.fill(_MARK)
            self._guards.append(guard)
        return np.ndarray(shape, dtype, memory, first), address_of(memory) + first

    @property
    def are_whole(self) -> bool:
        """False where something was written beyond an array."""
        return all(bool((guard == _MARK).all()) for guard in self._guards)
