"""Compile and run one kernel from a test."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tilewright.codegen.tvm.emit import KernelBuilder, KernelFunction
from tilewright.codegen.tvm.object_code import object_code
from tilewright.codegen.tvm.span import (
    Barrier,
    KernelCall,
    Slot,
    Step,
    span_entry,
    span_library,
)
from tilewright.runtime.native import NativeLibrary, request_amx
from tilewright.runtime.team import ThreadTeam
from tilewright.target.cpu import CpuIsa, isa_of
from tilewright.target.host import host
from tilewright.target.spec import Target


def isa(name: str) -> CpuIsa:
    return isa_of(Target("cpu", name))


def runnable(name: str) -> bool:
    """Whether this machine can run code for that cpu."""
    return set(isa(name).features) <= set(host().features)


CPUS = [name for name in ("native", "x86-64-v4", "x86-64-v3", "generic") if runnable(name)]
"""What the tests compile for: this machine, and the plainer ones that it can stand in for."""


def load(code: bytes, folder: Path) -> NativeLibrary:
    path = folder / f"{abs(hash(code))}.so"
    path.write_bytes(code)
    return NativeLibrary(path)


class Compiled:
    """One kernel, or several in a row, as a span of its own."""

    def __init__(
        self, functions: list[KernelFunction], isa: CpuIsa, folder: Path, steps: list[Step] | None
    ) -> None:
        if isa.amx_bf16:
            assert request_amx()
        if steps is None:
            (one,) = functions
            symbols = tuple(Slot(i) for i in range(len(one.symbols)))
            steps = [KernelCall(one.name, symbols, tuple(range(len(one.pointers)))), Barrier()]
        objects = [object_code([function], isa) for function in functions]
        library = span_library([span_entry("span", steps)], objects, isa)
        self.library = load(library, folder)
        self.span = self.library.span("span")
        self.teams = {size: ThreadTeam(self.library, size) for size in (1, 2, 3)}

    def __call__(
        self, symbols: list[int], arrays: list[NDArray[np.generic]], threads: int = 1
    ) -> None:
        addresses = np.array([a.ctypes.data for a in arrays], np.uint64)
        self.teams[threads].run(self.span, np.array(symbols, np.int64), addresses)

    def close(self) -> None:
        for team in self.teams.values():
            team.close()


def compile_kernel(build: Callable[[KernelBuilder], None], isa: CpuIsa, folder: Path) -> Compiled:
    """Compile what `build` emits; symbols and pointers are numbered in order of their first use."""
    kernel = KernelBuilder("kernel", isa)
    build(kernel)
    return Compiled([kernel.finish()], isa, folder, None)
