"""Weights in huge pages: a copy in memory of what else is mapped from its file.

A step of a language model reads all its weights once. Mapped from a file they lie in pages of 4 KB:
looking up so many of them, and a hardware prefetcher that stops at the end of each, costs a fifth
of the bandwidth. Linux backs anonymous memory with pages of 2 MB where a program asks for it, and
file mappings of most file systems never. So the file is read, once, into such memory.

What it costs: processes that load the same artifact no longer share its weights, and the system can
no longer drop them and read them again. So this is done only where twice as much memory is
available, and `TILEWRIGHT_WEIGHTS=mapped` turns it off.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Final

import numpy as np

from tilewright.hostcpu import available_memory
from tilewright.runtime.buffers import address_of

_SYSTEM: Final = Path("/sys/kernel/mm/transparent_hugepage")
_LEAST_PAGES: Final = 4  # 8 MB: what the processor's table of small pages covers anyway
_READ: Final = 1 << 22
"""Bytes that a thread reads at once."""


def read_huge(handle: int, size: int, threads: Executor) -> memoryview | None:
    """The first `size` bytes of an open file, read-only in huge pages; None where it cannot be.

    Bytes that the file turns out not to have are zero. Raises OSError where reading fails.
    """
    page = _page_size()
    if page is None or size < _LEAST_PAGES * page or 2 * size > available_memory():
        return None
    whole = _huge_memory(size, page)
    if whole is None:
        return None
    memory = whole[:size]
    for read in [threads.submit(_read, handle, *part) for part in _parts(memory)]:
        read.result()
    _protect(whole)
    return memory.toreadonly()


def _page_size() -> int | None:
    """Bytes of a huge page, where programs may ask for them."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        refused = "[never]" in (_SYSTEM / "enabled").read_text()
        return None if refused else int((_SYSTEM / "hpage_pmd_size").read_text())
    except (OSError, ValueError):
        return None


def _huge_memory(size: int, page: int) -> memoryview | None:
    """Whole huge pages that hold `size` bytes; None where the system does not give as many."""
    length = size + -size % page
    try:
        block = mmap.mmap(-1, length + page, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        block.madvise(mmap.MADV_HUGEPAGE)
    except OSError:
        return None
    start = -address_of(np.frombuffer(block, np.uint8)) % page
    return memoryview(block)[start : start + length]


def _parts(memory: memoryview) -> Iterator[tuple[int, memoryview]]:
    for start in range(0, len(memory), _READ):
        yield start, memory[start : start + _READ]


def _read(handle: int, start: int, part: memoryview) -> None:
    done = 0
    while done < len(part):
        count = os.preadv(handle, [part[done:]], start + done)
        if count == 0:
            return
        done += count


def _protect(memory: memoryview) -> None:
    """Let a write end the process, as a write to a mapped file does, and not change weights.

    Where the system refuses, nothing is lost but this check on kernels.
    """
    address = address_of(np.frombuffer(memory, np.uint8))
    ctypes.CDLL(None).mprotect(
        ctypes.c_void_p(address), ctypes.c_size_t(len(memory)), ctypes.c_int(mmap.PROT_READ)
    )
