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


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """A new array of undefined content whose data begins at a multiple of `ALIGNMENT`.

    Raises OutOfMemory.
    """
    return _aligned(np.empty, shape, dtype)


def aligned_zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """As `aligned_empty`, but zero. Pages of a large one are taken when they are first written."""
    return _aligned(np.zeros, shape, dtype)


def _aligned(
    make: Callable[[int, type[np.uint8]], Array], shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Array:
    size = math.prod(shape) * dtype.itemsize
    try:
        block = make(size + ALIGNMENT, np.uint8)
    except (MemoryError, ValueError) as error:  # ValueError: more than an array can have
        raise OutOfMemory(
            f"the system does not give {size} bytes of memory",
            fix="use a smaller batch or a shorter sequence",
        ) from error
    start = -address_of(block) % ALIGNMENT
    return block[start : start + size].view(dtype).reshape(shape)


def address_of(array: Array) -> int:
    """Where an array's data begins."""
    return array.ctypes.data


def view_at(address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An array over memory that somebody else owns and keeps alive."""
    size = math.prod(shape) * dtype.itemsize
    if size == 0:
        return np.empty(shape, dtype)
    block = (ctypes.c_uint8 * size).from_address(address)
    return np.frombuffer(memoryview(block), np.uint8).view(dtype).reshape(shape)


class Arena:
    """Scratch memory that all graphs of a model share; it grows to what a call needs."""

    def __init__(self) -> None:
        self._block = np.empty(0, np.uint8)
        self._size = 0

    @property
    def size(self) -> int:
        """Bytes at hand."""
        return self._size

    def reserve(self, size: int) -> int:
        """The address of at least `size` bytes; what the arena held before may be lost.

        Raises OutOfMemory.
        """
        if size > self._size:
            # Let go of the old block first, so that the two never exist together.
            self._block = np.empty(0, np.uint8)
            self._size = 0
            self._block = aligned_empty((size,), np.dtype(np.uint8))
            self._size = size
        return address_of(self._block)
