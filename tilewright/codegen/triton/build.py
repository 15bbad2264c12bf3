"""Kernels of a whole program, compiled for one GPU, and the list of what a run starts.

An artifact's section for a GPU names `launches.json`, which holds a `LaunchTable`: how each kernel
is started, and for each span of the plan which kernels run in which order over which pointers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from tilewright.codegen.kernels import KernelSet, Lowered
from tilewright.codegen.steps import SpanPlan
from tilewright.codegen.triton.backend import TritonBackend
from tilewright.codegen.triton.kernel import ALIGNMENT, TritonKernel
from tilewright.dsl.dims import Dim, to_text
from tilewright.dsl.graph import Node
from tilewright.passes.log import Decision

LAUNCHES = "launches.json"


class KernelRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one kernel is started.

    `file` is the machine code, `symbol` the function in it. It takes `parameters` (name and type: a
    pointer divisible by the table's alignment, or an integer), then two pointers that may be null.
    `grid` is the number of blocks along each axis, as dimension texts; none are started for zero.
    """

    file: str
    symbol: str
    parameters: list[tuple[str, str]]
    grid: list[str]
    threads: int
    shared_bytes: int


class LaunchRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One start: pointers are places in the span step's slots, symbols are dimension texts."""

    kernel: str
    pointers: list[int]
    symbols: list[str]


class LaunchTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The kernels by name; the launches of each span by its symbol, in the order of a stream."""

    alignment: int
    kernels: dict[str, KernelRecord]
    spans: dict[str, list[LaunchRecord]]


class TritonBuilder:
    """Collects lowered kernels; `files` compiles them."""

    library_name = LAUNCHES

    def __init__(self, backend: TritonBackend) -> None:
        self.backend = backend
        self.decisions: list[Decision] = []
        self.functions: dict[str, TritonKernel] = {}
        self.features: list[str] = []

    def lower(self, name: str, region: Node) -> Lowered:
        """Lowers one region under a name."""
        kernel = self.functions[name] = self.backend.lower(name, region)
        return Lowered(kernel.arguments, kernel.symbols)

    def kernel_set(self, library: str) -> KernelSet:
        """An empty set that lowers through this builder."""
        return KernelSet(self.lower, library)

    def files(self, spans: Sequence[SpanPlan], folder: Path) -> dict[str, bytes]:
        """Source and machine code of every kernel, and the table of launches.

        Raises InvalidSchedule where a kernel does not fit the GPU.
        """
        from tilewright.codegen.triton.aot import compile_kernel

        suffix = "cubin" if self.backend.target.kind == "cuda" else "hsaco"
        found: dict[str, bytes] = {}
        records: dict[str, KernelRecord] = {}
        for name, kernel in sorted(self.functions.items()):
            binary = compile_kernel(kernel, self.backend.target, folder)
            file = f"kernels/{name}.{suffix}"
            found[f"kernels/{name}.py"] = kernel.source.encode()
            found[file] = binary.code
            records[name] = KernelRecord(
                file,
                binary.symbol,
                list(binary.parameters),
                [_text(size) for size in kernel.grid],
                binary.threads,
                binary.shared_bytes,
            )
        table = LaunchTable(ALIGNMENT, records, {s.symbol: _launches(s) for s in spans})
        return {**found, LAUNCHES: msgspec.json.encode(table, order="deterministic")}

    def tools(self) -> Mapping[str, str]:
        """The versions that decide every byte."""
        import triton

        return {"triton": str(triton.__version__)}


def _launches(span: SpanPlan) -> list[LaunchRecord]:
    place = {slot: i for i, slot in enumerate(span.slots)}
    return [
        LaunchRecord(
            launch.kernel.name,
            [place[slot] for slot in launch.slots],
            [_text(size) for size in launch.kernel.symbols],
        )
        for launch in span.launches
    ]


def _text(size: Dim) -> str:
    return str(size) if isinstance(size, int) else to_text(size)
