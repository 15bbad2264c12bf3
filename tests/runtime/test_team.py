"""Thread teams and native libraries."""

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.codegen.tvm.kernels import isa, load
from tilewright.codegen.tvm.emit import KernelBuilder, i64
from tilewright.codegen.tvm.object_code import object_code
from tilewright.codegen.tvm.span import Barrier, KernelCall, Slot, span_entry, span_library
from tilewright.dsl.errors import NativeLibraryError, TeamError
from tilewright.runtime import native
from tilewright.runtime.native import NativeLibrary
from tilewright.runtime.team import ThreadTeam


@pytest.fixture(scope="module")
def code() -> bytes:
    """A span: each rank stores the size at its place, waits, and sums all at its place + 8."""
    here = isa("native")
    mark = KernelBuilder("mark", here)
    mark.pointer("out", "i64").store(i64(mark.rank), i64(mark.size) + mark.symbol("add"))
    total = KernelBuilder("total", here)
    out = total.pointer("out", "i64")
    size, rank = i64(total.size), i64(total.rank)
    out.store(rank + 8, i64(0))
    with total.loop(0, size) as i:
        out.store(rank + 8, out.load(rank + 8) + out.load(i))
    steps = [KernelCall("mark", (Slot(0),), (0,)), Barrier(), KernelCall("total", (), (0,))]
    objects = [object_code([kernel.finish()], here) for kernel in (mark, total)]
    return span_library([span_entry("span", steps)], objects, here)


@pytest.fixture
def library(code: bytes, tmp_path: Path) -> NativeLibrary:
    return load(code, tmp_path)


def call(team: ThreadTeam, add: int = 0) -> list[int]:
    out = np.full(16, -1, np.int64)
    symbols, pointers = np.array([add], np.int64), np.array([out.ctypes.data], np.uint64)
    team.run(team.library.span("span"), symbols, pointers)
    return [int(v) for v in out]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="masks are Linux's")
def test_workers_run_beside_their_caller(library: NativeLibrary) -> None:
    allowed, before = os.sched_getaffinity(0), {*threading.enumerate()}
    with ThreadTeam(library, 2) as team:
        call(team)
        (worker,) = {*threading.enumerate()} - before
        assert worker.native_id is not None
        left = allowed - os.sched_getaffinity(worker.native_id)
        assert len(left) == (1 if len(allowed) > 1 else 0)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_every_rank_runs_and_sees_the_others(library: NativeLibrary, size: int) -> None:
    with ThreadTeam(library, size) as team:
        for turn in range(50):
            assert call(team, turn) == [
                *[size + turn] * size,
                *[-1] * (8 - size),
                *[size * (size + turn)] * size,
                *[-1] * (8 - size),
            ]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_trace_holds_when_each_kernel_ran(library: NativeLibrary, size: int) -> None:
    out = np.zeros(16, np.int64)
    symbols, pointers = np.array([0], np.int64), np.array([out.ctypes.data], np.uint64)
    table = np.full(2 + size * 4, -1, np.int64)
    table[0] = 4
    with ThreadTeam(library, size) as team:
        span = library.span("span")
        begin = time.perf_counter_ns()
        team.run_at(span, symbols.ctypes.data, pointers.ctypes.data, table.ctypes.data)
        end = time.perf_counter_ns()
        assert table[-1] == -1
        stamps = table[1:-1].reshape(size, 2, 2)
        assert np.all(np.diff(stamps.reshape(size, 4), axis=1) >= 0)
        assert begin <= stamps.min() <= stamps.max() <= end
        # A barrier stands between: no thread begins before every one has ended.
        assert stamps[:, 1, 0].min() >= stamps[:, 0, 1].max()
        table[1:] = -1
        team.run_at(span, symbols.ctypes.data, pointers.ctypes.data)
        assert np.all(table[1:] == -1)


def test_a_team_sleeps_and_wakes(library: NativeLibrary) -> None:
    with ThreadTeam(library, 2) as team:
        call(team)
        before = time.process_time()
        time.sleep(0.2)
        assert time.process_time() - before < 0.1, "idle workers use the processor"
        assert call(team)[:2] == [2, 2]


def test_teams_of_one_library_do_not_meet(library: NativeLibrary) -> None:
    with ThreadTeam(library, 2) as one, ThreadTeam(library, 3) as other:
        for _ in range(10):
            assert call(one)[:3] == [2, 2, -1]
            assert call(other)[:3] == [3, 3, 3]


def test_users_on_several_threads_take_turns(library: NativeLibrary) -> None:
    wrong: list[list[int]] = []
    with ThreadTeam(library, 2) as team:

        def user(number: int) -> None:
            for _ in range(50):
                out = call(team, number)
                if out[:2] != [2 + number] * 2 or out[8:10] != [2 * (2 + number)] * 2:
                    wrong.append(out)

        users = [threading.Thread(target=user, args=(i,)) for i in range(4)]
        for thread in users:
            thread.start()
        for thread in users:
            thread.join()
    assert wrong == []


def test_close_joins_and_is_final(library: NativeLibrary) -> None:
    before = threading.active_count()
    team = ThreadTeam(library, 3)
    assert threading.active_count() == before + 2
    team.close()
    team.close()
    assert threading.active_count() == before
    with pytest.raises(TeamError, match="closed"):
        call(team)


def test_a_team_needs_a_thread(library: NativeLibrary) -> None:
    with pytest.raises(TeamError, match="at least one"):
        ThreadTeam(library, 0)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_gets_workers_of_its_own(library: NativeLibrary) -> None:
    with ThreadTeam(library, 2) as team:
        call(team)
        child = os.fork()
        if child == 0:
            os._exit(0 if call(team)[:2] == [2, 2] else 1)
        for _ in range(100):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            time.sleep(0.1)
        else:
            os.kill(child, 9)
            pytest.fail("the child hangs")
        assert status == 0


def test_the_gil_is_free_while_a_span_runs(library: NativeLibrary) -> None:
    """Two Python threads in native code at once: each waits for the other at the barrier."""
    block = np.zeros(native.SYNC_BYTES + 64, np.uint8)
    sync = block.ctypes.data + -block.ctypes.data % 64
    out = np.full(16, -1, np.int64)
    symbols, pointers = np.zeros(1, np.int64), np.array([out.ctypes.data], np.uint64)
    import ctypes

    arguments = [ctypes.c_int32] * 2 + [ctypes.c_void_p] * 3
    span = ctypes.CFUNCTYPE(ctypes.c_int32, *arguments)(library.span("span"))
    threads = [
        threading.Thread(
            target=span, args=(rank, 2, symbols.ctypes.data, pointers.ctypes.data, sync)
        )
        for rank in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
        assert not thread.is_alive(), "holds the GIL while it waits"
    assert out[:2].tolist() == [2, 2]


def test_what_is_not_a_library(tmp_path: Path) -> None:
    path = tmp_path / "broken.so"
    path.write_bytes(b"\x7fELF and nothing more")
    with pytest.raises(NativeLibraryError, match="does not load"):
        NativeLibrary(path)
    with pytest.raises(NativeLibraryError, match="does not load"):
        NativeLibrary(tmp_path / "absent.so")


def test_another_calling_convention(
    code: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "ABI", native.ABI + 1)
    with pytest.raises(NativeLibraryError, match="calling convention"):
        load(code, tmp_path)
