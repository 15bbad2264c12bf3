"""What a timing needs around it: no other timing beside it, and caches as in a model."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import numpy as np
from filelock import FileLock

from tilewright.files import private_folder
from tilewright.settings import cache_folder
from tilewright.target.host import host

_MIB: Final = 1 << 20


@contextmanager
def alone() -> Generator[None]:
    """Waits until no other measuring process of this user takes times on this machine.

    Workers compile side by side, and time one after another. The lock dies with its process.
    """
    with FileLock(private_folder(cache_folder()) / "timing.lock"):
        yield


class Chill:
    """Calling it fills the caches with something else: twice what the last level holds is read."""

    def __init__(self) -> None:
        size = min(max(2 * host().caches.l3, 16 * _MIB), 256 * _MIB)
        self._memory = np.ones(size // 8, np.int64)

    def __call__(self) -> None:
        self._memory.sum()
