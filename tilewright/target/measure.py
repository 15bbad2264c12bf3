"""Measures this machine's peaks, in a process of its own: `python -m tilewright.target.measure`.

The caller's thread pools would share the cores, and a probe that the machine does not like must
not take the compiler with it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, cast

import msgspec
import numpy as np

from tilewright.target.cpu import CpuIsa, isa_of
from tilewright.target.host import host, usable_threads
from tilewright.target.probes import (
    FILL,
    SCRATCH_BYTES,
    STREAM_BLOCK_BYTES,
    Probe,
    probes,
    tile_configuration,
)
from tilewright.target.spec import parse_target

Kernel = Callable[[int, int], object]
"""(address, n): runs a probe's loop `n` times; releases the interpreter's lock."""
Words = np.ndarray[tuple[int], np.dtype[np.uint32]]

_SECONDS_A_RUN: Final = 0.012
_SECONDS_A_PROBE: Final = 0.2
_LEAST_RUNS: Final = 4
_MIB: Final = 1 << 20


class Measurement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rates per second by unit (`f32_fma`, `bf16_dot`, `bf16_tile`, `i8_dot`: operations;
    `stream_read`: bytes), each on one thread and on all `threads`.
    """

    source: Literal["measured", "estimated"]
    threads: int
    rates: dict[str, tuple[float, float]]


def measure() -> Measurement:
    """This machine's rates; measured by native code if TVM is installed, else estimated."""
    isa = isa_of(parse_target("cpu:native"))
    threads = usable_threads()
    if importlib.util.find_spec("tvm") is None:
        return Measurement("estimated", threads, _estimate(isa, threads))
    rates: dict[str, tuple[float, float]] = {}
    for probe in probes(isa):
        if probe.tiles and not _tiles_granted():
            continue
        stream = probe.name == "stream_read"
        memory = _stream_memory(threads) if stream else _scratch(probe, threads)
        kernel = compile_probe(probe, isa)
        kernel(memory[0].ctypes.data, 1)
        blocks = memory[0].nbytes // STREAM_BLOCK_BYTES if stream else _calibrated(kernel, memory)
        rates[probe.name] = _rates(kernel, memory, blocks, float(probe.work * blocks))
    return Measurement("measured", threads, rates)


def compile_probe(probe: Probe, isa: CpuIsa) -> Kernel:
    """The probe as native code, through TVM's LLVM. Needs the `tvm` extra."""
    return cast("Kernel", build_probe(probe, isa)["probe"])


def build_probe(probe: Probe, isa: CpuIsa) -> Any:
    """TVM's executable that holds the probe."""
    import tvm
    from tvm import tirx

    script = cast("Any", tvm.script).tirx
    text = (
        "@T.prim_func(s_tir=True)\n"
        "def probe(address: T.int64, n: T.int64):\n"
        '    T.func_attr({"global_symbol": "probe"})\n'
        f'    T.evaluate(T.call_extern("int32", "{probe.name}", address, n))\n'
    )
    target = {"kind": "llvm", "mtriple": isa.triple, "mcpu": isa.mcpu, "mattr": list(isa.mattr)}
    function = tvm.script.from_source(text, {"T": script})
    body = cast("Any", tirx.AttrStmt)(
        script.int32(0), "pragma_import_llvm", probe.ir, function.body
    )
    return tvm.compile(function.with_body(body), tvm.target.Target(target))


def _scratch(probe: Probe, threads: int) -> list[Words]:
    """One filled piece of memory a thread, far enough apart to share no cache line."""
    pieces = [_aligned(SCRATCH_BYTES) for _ in range(threads)]
    for piece in pieces:
        piece[:] = FILL
        if probe.tiles:
            piece[:16] = np.frombuffer(tile_configuration(), np.uint32)
    return pieces


def _stream_memory(threads: int) -> list[Words]:
    """More than the caches hold, split among the threads; each thread touches its own part."""
    wanted = min(max(256 * _MIB, 3 * host().caches.l3), 1024 * _MIB, _free_bytes() // 4)
    size = max(4 * _MIB, wanted // threads // STREAM_BLOCK_BYTES * STREAM_BLOCK_BYTES)
    pieces: list[Words] = [_aligned(size) for _ in range(threads)]
    fillers = [threading.Thread(target=piece.fill, args=(FILL,)) for piece in pieces]
    _run_all(fillers)
    return pieces


def _aligned(size: int) -> Words:
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(np.uint32)


def _free_bytes() -> int:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # not on macOS
        return 1024 * _MIB


def _calibrated(kernel: Kernel, memory: Sequence[Words]) -> int:
    """How many times the loop must run to last long enough to be timed."""
    n = 1000
    while True:
        start = time.perf_counter()
        kernel(memory[0].ctypes.data, n)
        seconds = time.perf_counter() - start
        if seconds > _SECONDS_A_RUN / 4:
            return max(1, int(n * _SECONDS_A_RUN / seconds))
        n *= 4


def _best_seconds(kernel: Kernel, memory: Sequence[Words], n: int) -> float:
    """The shortest of some runs on as many threads as there are pieces of memory."""
    runs: list[float] = []
    end = time.perf_counter() + _SECONDS_A_PROBE
    while len(runs) < _LEAST_RUNS or time.perf_counter() < end:
        runs.append(_seconds(kernel, memory, n))
    return min(runs)


def _rates(kernel: Kernel, memory: Sequence[Words], n: int, work: float) -> tuple[float, float]:
    """`work` a second on one thread and on all; all are never slower than one alone."""
    one = work / _best_seconds(kernel, memory[:1], n)
    return one, max(one, len(memory) * work / _best_seconds(kernel, memory, n))


def _seconds(kernel: Kernel, memory: Sequence[Words], n: int) -> float:
    """From the moment that all threads are ready until the last one is done."""
    ready = threading.Barrier(len(memory))
    spans: list[tuple[float, float]] = []

    def run(address: int) -> None:
        ready.wait()
        start = time.perf_counter()
        kernel(address, n)
        spans.append((start, time.perf_counter()))

    _run_all([threading.Thread(target=run, args=(piece.ctypes.data,)) for piece in memory])
    return max(end for _, end in spans) - min(start for start, _ in spans)


def _run_all(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _tiles_granted() -> bool:
    """Ask Linux for the tile registers (arch_prctl ARCH_REQ_XCOMP_PERM, XTILEDATA)."""
    if not sys.platform.startswith("linux"):
        return False
    system = ctypes.CDLL(None, use_errno=True)
    return system.syscall(158, 0x1023, 18) == 0


def _estimate(isa: CpuIsa, threads: int) -> dict[str, tuple[float, float]]:
    """From NumPy's matrix product and sum; the dot units by what they are worth beside f32 FMA."""
    size = 768
    squares = [np.full((3, size, size), 0.5, np.float32) for _ in range(threads)]
    by_address = {s.ctypes.data: s for s in squares}

    def multiply(address: int, n: int) -> None:
        a, b, out = by_address[address]
        for _ in range(n):
            np.matmul(a, b, out=out)

    memory = _stream_memory(threads)
    arrays = {piece.ctypes.data: piece.view(np.float32) for piece in memory}

    def add_up(address: int, n: int) -> None:
        for _ in range(n):
            arrays[address].sum()

    words = [square.reshape(-1).view(np.uint32) for square in squares]
    rates = {
        "f32_fma": _rates(multiply, words, 1, 2.0 * size**3),
        "stream_read": _rates(add_up, memory, 1, float(memory[0].nbytes)),
    }
    fma = rates["f32_fma"]
    for name, there, factor in (("bf16_dot", isa.bf16_dot, 2), ("i8_dot", isa.vnni, 4)):
        if there:
            rates[name] = (fma[0] * factor, fma[1] * factor)
    return rates


if __name__ == "__main__":
    # tvm_ffi imports torch wherever it is installed: seconds that a measurement does not need.
    sys.modules["torch"] = cast("Any", None)
    sys.stdout.buffer.write(msgspec.json.encode(measure()))
