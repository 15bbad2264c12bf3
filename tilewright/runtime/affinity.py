"""Keeps workers off the processor that their caller runs on.

A thread that is woken up may be put where the waker runs, beside an idle processor: Linux takes the
two for a pair that talks, and corrects itself only after some ten milliseconds. Until then a team
of two does its work in the time of one. A mask tells the scheduler what it cannot know, that the
caller goes on running: it is set when the caller has moved, which is rare, and costs one system
call a worker then.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress


class Affinity:
    """The processors of some workers, seen from one caller after another.

    workers: the system's numbers of their threads.
    processor: tells the one that the calling thread runs on; negative where nobody knows.
    """

    def __init__(self, workers: Sequence[int], processor: Callable[[], int] | None = None) -> None:
        self._workers = workers
        self._processor = processor or _processor()
        self._avoided = -1

    def leave_caller_alone(self) -> None:
        """Let workers run wherever the caller may, except where it runs.

        A caller that may run on one processor only leaves the workers where they are: whoever
        pinned it has a plan.
        """
        here = self._processor()
        if here == self._avoided:
            return
        self._avoided = here
        others = os.sched_getaffinity(0) - {here} if here >= 0 else None
        if not others:
            return
        for worker in self._workers:
            with suppress(OSError):  # it has ended, or a sandbox forbids the call: no harm done
                os.sched_setaffinity(worker, others)


def _processor() -> Callable[[], int]:
    """The C library's `sched_getcpu`, where there is one."""
    if sys.platform == "linux":
        found = getattr(ctypes.PyDLL(None), "sched_getcpu", None)
        if found is not None:
            found.restype, found.argtypes = ctypes.c_int, ()
            return found
    return lambda: -1
