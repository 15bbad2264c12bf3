"""Workers run where their caller may, and never where it is."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from tilewright.runtime.affinity import Affinity

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="masks are Linux's")

ALLOWED = frozenset(os.sched_getaffinity(0)) if sys.platform == "linux" else frozenset[int]()
several = pytest.mark.skipif(len(ALLOWED) < 2, reason="needs two processors")


@contextmanager
def _worker() -> Generator[int]:
    """A thread that waits; gives the system's number of it."""
    begun, end = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        end.wait()

    thread = threading.Thread(target=wait)
    thread.start()
    begun.wait()
    assert thread.native_id is not None
    try:
        yield thread.native_id
    finally:
        end.set()
        thread.join()


def test_workers_leave_the_callers_processor():
    for here in sorted(ALLOWED):
        with _worker() as worker:
            Affinity([worker], lambda here=here: here).leave_caller_alone()
            assert os.sched_getaffinity(worker) == (ALLOWED - {here} or ALLOWED)


@several
def test_workers_follow_a_caller_that_moves():
    first, second = sorted(ALLOWED)[:2]
    places = iter([first, second, second])
    with _worker() as worker:
        affinity = Affinity([worker], lambda: next(places))
        affinity.leave_caller_alone()
        affinity.leave_caller_alone()
        assert os.sched_getaffinity(worker) == ALLOWED - {second}
        os.sched_setaffinity(worker, ALLOWED)
        affinity.leave_caller_alone()  # it has not moved: no system call
        assert os.sched_getaffinity(worker) == ALLOWED


@several
def test_a_pinned_caller_has_a_plan():
    here, *_ = sorted(ALLOWED)
    seen: list[set[int]] = []

    def caller(worker: int) -> None:
        os.sched_setaffinity(0, {here})
        Affinity([worker], lambda: here).leave_caller_alone()
        seen.append(os.sched_getaffinity(worker))

    with _worker() as worker:
        thread = threading.Thread(target=caller, args=(worker,))
        thread.start()
        thread.join()
    assert seen == [ALLOWED]


def test_unknown_places_and_ended_workers_are_no_fault():
    with _worker() as worker:
        Affinity([worker], lambda: -1).leave_caller_alone()
        assert os.sched_getaffinity(worker) == ALLOWED
    Affinity([worker], lambda: min(ALLOWED)).leave_caller_alone()


@several
def test_the_system_tells_where_a_thread_runs():
    seen: list[set[int]] = []

    def caller(worker: int, place: int) -> None:
        os.sched_setaffinity(0, {place})
        os.sched_setaffinity(0, ALLOWED)  # it goes on where it is
        Affinity([worker]).leave_caller_alone()
        seen.append(set(ALLOWED - os.sched_getaffinity(worker)))

    with _worker() as worker:
        thread = threading.Thread(target=caller, args=(worker, max(ALLOWED)))
        thread.start()
        thread.join()
    (avoided,) = seen
    assert len(avoided) == 1
