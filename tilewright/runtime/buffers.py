"""Memory that kernels may touch: aligned arrays, views of addresses, and the arena."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tilewright.dsl.errors import OutOfMemory

Array = NDArray[Any]

ALIGNMENT: Final = 64
"""Bytes: a cache line, and the widest vector register."""

# NumPy's C API publishes that `char *data` follows an array's object header. `array.ctypes.data`
# says the same, but makes Python objects for it whose code is cold after a kernel: it costs ten
# times as much, once for each input and output of each call.
_DATA_AT: Final = object.__basicsize__
_word_at: Final = ctypes.c_size_t.from_address


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """A new array of undefined content whose data begins at a multiple of `ALIGNMENT`.

    Raises OutOfMemory.
    """
    return _array_in(aligned_block(math.prod(shape) * dtype.itemsize), shape, dtype)


def aligned_zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """As `aligned_empty`, but zero. Pages of a large one are taken when they are first written."""
    return _array_in(aligned_block(math.prod(shape) * dtype.itemsize, np.zeros), shape, dtype)


def _array_in(block: tuple[Array, int], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    memory, start = block
    return np.ndarray(shape, dtype, memory, start)


def aligned_block(
    size: int, make: Callable[[int, type[np.uint8]], Array] = np.empty
) -> tuple[Array, int]:
    """New memory, and where in it `size` bytes begin that are aligned to `ALIGNMENT`.

    Raises OutOfMemory.
    """
    try:
        memory = make(size + ALIGNMENT, np.uint8)
    except (MemoryError, ValueError) as error:  # ValueError: more than an array can have
        raise OutOfMemory(
            f"the system does not give {size} bytes of memory",
            fix="use a smaller batch or a shorter sequence",
        ) from error
    return memory, -address_of(memory) % ALIGNMENT


def address_of(array: Array) -> int:
    """Where an array's data begins."""
    return _word_at(id(array) + _DATA_AT).value


def view_at(address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An array over memory that somebody else owns and keeps alive."""
    size = math.prod(shape) * dtype.itemsize
    if size == 0:
        return np.empty(shape, dtype)
    block = (ctypes.c_uint8 * size).from_address(address)
    return np.frombuffer(memoryview(block), np.uint8).view(dtype).reshape(shape)


class Arena:
    """Scratch memory that all graphs of a model share; it grows to what a call needs.

    size: bytes at hand.
    """

    def __init__(self) -> None:
        self.size = 0
        self._memory = np.empty(0, np.uint8)
        self._address = 0

    def reserve(self, size: int) -> int:
        """The address of at least `size` bytes; what the arena held before may be lost.

        Raises OutOfMemory.
        """
        if size > self.size:
            # Let go of the old block first, so that the two never exist together.
            self._memory = np.empty(0, np.uint8)
            self.size = 0
            self._memory, start = aligned_block(size)
            self._address = address_of(self._memory) + start
            self.size = size
        return self._address
