"""A compiled library of spans, loaded through ctypes: no TVM, and no GIL while native code runs.

The calling convention, version `ABI`:

    int32 span(int32 rank, int32 size, const int64* symbols, void** pointers, void* sync,
               int64* trace)

is entered by each of `size` threads with its own rank. `symbols` are the values of the dims,
`pointers` the addresses of all buffers, and `sync` the team's block of `SYNC_BYTES` zeroed bytes,
which all spans that this team runs share. `trace` is null, or where stamps go: its first word is
the length of a row, and each rank has a row, which gets the nanoseconds at which kernel i began (at
2 i) and ended (at 2 i + 1). Besides its spans a library exports what a team needs:

    int32 tw_abi(int32* version)
    int32 tw_team_work(void* sync, int32 rank)      a worker's whole life; returns when told to stop
    int32 tw_team_run(void* sync, void* span, int32 size, void* symbols, void* pointers,
                      void* trace, int32 workers)   hands out a span, takes part as rank 0, waits
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeAlias

from tilewright.dsl.errors import NativeLibraryError

ABI: Final = 2
SYNC_BYTES: Final = 320

_I32: Final = ctypes.c_int32
_PTR: Final = ctypes.c_void_p
# Linux, x86-64: the system call and its codes by which a process asks for the AMX tile registers.
_SYS_ARCH_PRCTL: Final = 158
_ARCH_REQ_XCOMP_PERM: Final = 0x1023
_XFEATURE_XTILEDATA: Final = 18


NativeFunction: TypeAlias = Callable[..., int]
"""A C function that returns int32; calling it releases the GIL."""


class NativeLibrary:
    """A shared library of compiled spans.

    Raises:
        NativeLibraryError: the file does not load, lacks a symbol, or has another ABI version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # The loader knows libraries by name, and would answer with the old one when a file was
            # written again and loaded from the same path. A descriptor that stays open is a name
            # that no other file gets.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            name = f"/proc/self/fd/{descriptor}"
            self._library = ctypes.CDLL(name, mode=os.RTLD_LOCAL | os.RTLD_NOW)
        except OSError as error:
            raise NativeLibraryError(
                f"the compiled library does not load: {error}",
                where=str(path),
                fix="compile again for this machine",
            ) from error
        self._check_version()
        self.team_work = self._declared("tw_team_work", _PTR, _I32)
        self.team_run = self._declared("tw_team_run", _PTR, _PTR, _I32, _PTR, _PTR, _PTR, _I32)

    def span(self, name: str) -> int:
        """The address of a span, to be run by a team."""
        address = ctypes.cast(self._symbol(name), _PTR).value
        assert address is not None
        return address

    def kernel(self, name: str, symbols: int, pointers: int) -> NativeFunction:
        """One kernel by itself, to be called as f(rank, size, symbols..., pointers...)."""
        arguments = [_I32, _I32, *[ctypes.c_int64] * symbols, *[_PTR] * pointers]
        return self._declared(name, *arguments)

    def _check_version(self) -> None:
        version = _I32(0)
        self._declared("tw_abi", _PTR)(ctypes.byref(version))
        if version.value != ABI:
            raise NativeLibraryError(
                f"the compiled library has calling convention {version.value}, this is {ABI}",
                where=str(self.path),
                fix="compile again with this version",
            )

    def _declared(self, name: str, *arguments: type) -> NativeFunction:
        function = self._symbol(name)
        function.argtypes = list(arguments)
        function.restype = _I32
        return function

    def _symbol(self, name: str) -> Any:
        try:
            # By index, not by attribute: a fresh object each time, with its own argument types.
            return self._library[name]
        except AttributeError as error:
            raise NativeLibraryError(
                f"the compiled library has no {name!r}", where=str(self.path)
            ) from error


@lru_cache(maxsize=1)
def request_amx() -> bool:
    """Ask Linux to let this process use AMX tiles; False where it has none to give.

    Must come before the first span that holds tile instructions, or that span dies of SIGILL. The
    permission is the process's: threads share it, and it lasts.
    """
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    code = libc.syscall(
        ctypes.c_long(_SYS_ARCH_PRCTL),
        ctypes.c_long(_ARCH_REQ_XCOMP_PERM),
        ctypes.c_long(_XFEATURE_XTILEDATA),
    )
    return code == 0
