"""Machine code of kernels, kept between compilations under the text it was made from."""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Callable
from typing import Final

import tvm

from tilewright.dsl.errors import WriteFailed
from tilewright.runtime.cache import Cache
from tilewright.settings import load_settings
from tilewright.target.cpu import CpuIsa

KIND: Final = "object"
_FORMAT: Final = 1
"""Counts up when the same kernel text is to become other machine code."""
_EACH: Final = 32
_LOG: Final = logging.getLogger("tilewright.cache")


class ObjectStore:
    """Object files by kernel text, instruction set and TVM's version, in the user's cache.

    A cache that cannot be written (a full disk, a home that is read-only) costs the reuse, not the
    compilation. Raises UnsafeCacheFolder.
    """

    def __init__(self, isa: CpuIsa) -> None:
        self._made = 0
        self._common = f"{_FORMAT}\0{tvm.__version__}\0{isa}\0"
        try:
            self._cache: Cache | None = Cache()
        except WriteFailed as error:
            self._give_up(error)

    def get(self, text: str, make: Callable[[], bytes]) -> bytes:
        """The object file of a kernel of this text; `make` compiles it if it is not known."""
        if self._cache is None:
            return make()
        key = f"{KIND} {hashlib.sha256((self._common + text).encode()).hexdigest()}"
        found = self._cache.get(key)
        if found is None:
            found = make()
            self._keep(key, found)
        return found

    def trim(self) -> None:
        """Drop what was longest unused beyond the setting `cache_limit`.

        To add up the cache takes longer than to compile a kernel: it is done once for about `_EACH`
        new ones, whichever process made them.
        """
        if random.randrange(_EACH) >= self._made:
            return
        limit = load_settings().cache_limit
        try:
            if self._cache is not None and self._cache.size() > limit:
                self._cache.gc(limit)
        except WriteFailed as error:
            self._give_up(error)

    def _keep(self, key: str, data: bytes) -> None:
        try:
            if self._cache is not None:
                self._cache.put(key, data, kind=KIND)
                self._made += 1
        except WriteFailed as error:
            self._give_up(error)

    def _give_up(self, error: WriteFailed) -> None:
        _LOG.warning("compiled kernels are not kept: %s", error)
        self._cache = None
