"""Memory of outputs, given out again once nobody holds an array over it.

The system zeroes each page of new memory when it is first written, which for an output of some
megabytes takes as long as a kernel. A block that a caller has let go of has its pages already, and
part of it is often still in a cache.

An array over a block holds a reference to the block, and so does whatever is made of the array:
views, memoryviews, tensors of other libraries. A block to which only the pool refers is therefore
one that nobody can read.
"""

from __future__ import annotations

from sys import getrefcount
from typing import Any, Final, TypeAlias

import numpy as np
from numpy import ndarray

from tilewright.runtime.buffers import Array, address_of, aligned_block

POOL_BYTES: Final = 64 << 20
"""The most memory that a pool keeps; larger outputs are new each time."""
_SAME_SIZE: Final = 4
"""Blocks of one size: a caller seldom holds more than the last outputs while it calls again."""
_SIZES: Final = 64

_Block: TypeAlias = tuple[Array, int, int]
"""Memory, where in it arrays begin, and the address of that place."""


class OutputPool:
    """Arrays of undefined content, each aligned to `buffers.ALIGNMENT`; for one thread at a time.

    limit: bytes that are kept at most.
    """

    def __init__(self, limit: int = POOL_BYTES) -> None:
        self._limit = limit
        self._kept = 0
        self._blocks: dict[int, list[_Block]] = {}

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any], size: int) -> tuple[Array, int]:
        """An array of `size` bytes that shares memory with no array that is alive; its address.

        Raises OutOfMemory.
        """
        for block in self._blocks.get(size, ()):
            if _references(block) == _POOL_ALONE:
                break
        else:
            block = self._new(size)
        memory, start, address = block
        return ndarray(shape, dtype, memory, start), address

    def _new(self, size: int) -> _Block:
        memory, start = aligned_block(size)
        block = memory, start, address_of(memory) + start
        self._keep(block, size)
        return block

    def _keep(self, block: _Block, size: int) -> None:
        """Let go of others if there are too many: arrays over them live on by themselves."""
        taken = block[0].nbytes
        if taken > self._limit:
            return
        if self._kept + taken > self._limit or len(self._blocks) >= _SIZES:
            self._blocks.clear()
            self._kept = 0
        same = self._blocks.setdefault(size, [])
        same.append(block)
        self._kept += taken
        if len(same) > _SAME_SIZE:
            self._kept -= same.pop(0)[0].nbytes


def _references(block: _Block) -> int:
    return getrefcount(block[0])


# Counted here: how many references a look at a block takes is the interpreter's affair.
_POOL_ALONE: Final = _references((np.empty(0, np.uint8), 0, 0))
