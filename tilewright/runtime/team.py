"""A team of threads that run native spans together.

A worker enters native code once and stays there, outside the GIL, until the team is closed: it
watches a counter for a few microseconds, then sleeps on it (futex). Handing out a span therefore
takes neither a Python lock nor the GIL, which would cost tens of microseconds for each call, and a
team that has nothing to do uses no processor. The caller's own thread is rank 0.
"""

from __future__ import annotations

import ctypes
import os
import threading
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tilewright.dsl.errors import TeamError
from tilewright.runtime.affinity import Affinity
from tilewright.runtime.native import SYNC_BYTES, NativeLibrary

_LINE = 64
_MOST = 9999
"""Far more threads than any machine has processors: a slip of the pen."""


class ThreadTeam:
    """`size` threads for the spans of one library; safe to use from several threads, in turn.

    Raises:
        TeamError: the size is no count of threads, the system does not give so many, or the team is
            used after `close`.
    """

    def __init__(self, library: NativeLibrary, size: int) -> None:
        check_size(size)
        self.library = library
        self.size = size
        self._lock = threading.Lock()
        self._closed = False
        self._start()

    def run(self, span: int, symbols: NDArray[np.int64], pointers: NDArray[np.uint64]) -> None:
        """Run a span (an address from `NativeLibrary.span`) on all threads; returns when all have.

        `symbols` and `pointers` are contiguous and must hold all that the span reads.
        """
        self.run_at(span, symbols.ctypes.data, pointers.ctypes.data)

    def run_at(self, span: int, symbols: int, pointers: int, trace: int | None = None) -> None:
        """As `run`, from the addresses of the two tables, and of a trace if times are wanted."""
        with self._lock:
            if self._closed:
                raise TeamError("the thread team is closed", fix="make a new one")
            if self._process != os.getpid():
                # A forked child has the team's memory but none of its threads.
                self._start()
            self._affinity.leave_caller_alone()
            self.library.team_run(
                self._sync, span, self.size, symbols, pointers, trace, len(self._workers)
            )

    def close(self) -> None:
        """End and join the workers; closing twice is no fault."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._process == os.getpid() and self._workers:
                self._end(self._workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        self._process = os.getpid()
        self._block = ctypes.create_string_buffer(SYNC_BYTES + _LINE)
        start = ctypes.addressof(self._block)
        self._sync = start + -start % _LINE
        # Daemons: a team that nobody closes must not keep the interpreter from ending. The block is
        # an argument so that it lives as long as the thread that watches it.
        self._workers = [
            threading.Thread(
                target=_work,
                args=(self.library, self._sync, rank, self._block),
                name=f"tilewright-{rank}",
                daemon=True,
            )
            for rank in range(1, self.size)
        ]
        for count, worker in enumerate(self._workers):
            try:
                worker.start()
            except RuntimeError as error:
                self._end(self._workers[:count])
                self._closed = True
                raise TeamError(
                    f"the system gives {count + 1} of {self.size} threads",
                    fix="use as many as there are processors, with --threads or TILEWRIGHT_THREADS",
                ) from error
        self._affinity = Affinity([w.native_id for w in self._workers if w.native_id is not None])

    def _end(self, workers: list[threading.Thread]) -> None:
        # No span: the workers' sign to return.
        self.library.team_run(self._sync, None, 0, None, None, None, len(workers))
        for worker in workers:
            worker.join()


def check_size(size: object) -> None:
    """Raises TeamError for what is no count of threads."""
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= _MOST:
        raise TeamError(
            f"a team has at least one thread and at most {_MOST}, not {size!r:.80}",
            fix="use as many as there are processors",
        )


def _work(library: NativeLibrary, sync: int, rank: int, block: object) -> None:
    library.team_work(sync, rank)
    del block
