"""Kernels and spans of a whole program, built into one shared library."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tilewright.codegen.kernels import KernelSet
from tilewright.codegen.steps import SpanPlan
from tilewright.codegen.tvm.backend import TvmBackend
from tilewright.codegen.tvm.emit import KernelFunction
from tilewright.codegen.tvm.object_code import object_code
from tilewright.codegen.tvm.region import Argument
from tilewright.codegen.tvm.span import Barrier, KernelCall, Slot, Step, span_entry, span_library
from tilewright.dsl.dims import Dim
from tilewright.dsl.graph import Node

_WORKERS = 2


class TvmBuilder:
    """Collects lowered kernels; `library` compiles and links them."""

    def __init__(self, backend: TvmBackend) -> None:
        self.backend = backend
        self.functions: dict[str, KernelFunction] = {}

    def lower(self, name: str, region: Node) -> tuple[Sequence[Argument], Sequence[str]]:
        """Lowers one region under a name."""
        lowered = self.backend.lower(name, region)
        self.functions[name] = lowered.function
        return lowered.arguments, lowered.function.symbols

    def kernel_set(self, library: str) -> KernelSet:
        """An empty set that lowers through this builder."""
        return KernelSet(self.lower, library)

    def library(self, spans: Sequence[SpanPlan]) -> bytes:
        """The shared library of all kernels and spans. Raises LinkerMissing, LinkerFailed."""
        isa = self.backend.isa
        entries = [span_entry(span.symbol, _steps(span)) for span in spans]

        def compiled(name: str) -> bytes:
            return object_code([self.functions[name]], isa)

        with ThreadPoolExecutor(_WORKERS) as pool:
            objects = list(pool.map(compiled, sorted(self.functions)))
        return span_library(entries, objects, isa)

    def sources(self) -> dict[str, str]:
        """The TIR of every kernel, by file name."""
        return {f"kernels/{name}.tir": str(f.body) for name, f in sorted(self.functions.items())}


def _steps(span: SpanPlan) -> list[Step]:
    dims: dict[Dim, int] = {d: i for i, d in enumerate(span.dims)}
    slots = {slot: i for i, slot in enumerate(span.slots)}
    steps: list[Step] = []
    for launch in span.launches:
        if launch.barrier:
            steps.append(Barrier())
        symbols = tuple(Slot(dims[d]) for d in launch.symbols)
        pointers = tuple(slots[s] for s in launch.slots)
        steps.append(KernelCall(launch.kernel.name, symbols, pointers))
    return steps
