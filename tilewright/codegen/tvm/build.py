"""Kernels and spans of a whole program, built into one shared library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tilewright.codegen.kernels import KernelSet, Lowered, Table, as_graph
from tilewright.codegen.space import Origin, Point, Schedules, shape_class
from tilewright.codegen.steps import Launch, SpanPlan
from tilewright.codegen.tvm.backend import TvmBackend
from tilewright.codegen.tvm.emit import KernelFunction
from tilewright.codegen.tvm.family import Schedule, row_count
from tilewright.codegen.tvm.object_code import object_code
from tilewright.codegen.tvm.object_store import ObjectStore
from tilewright.codegen.tvm.span import (
    Barrier,
    Dispatch,
    KernelCall,
    Slot,
    Step,
    span_entry,
    span_library,
)
from tilewright.dsl.dims import Dim
from tilewright.dsl.graph import Node
from tilewright.dsl.hashing import structural_hash
from tilewright.passes.log import Decision

_WORKERS = 2


class TvmBuilder:
    """Collects lowered kernels; `files` compiles and links them."""

    library_name = "kernels.so"

    def __init__(self, backend: TvmBackend, schedules: Schedules | None = None) -> None:
        self.backend = backend
        self.schedules = schedules or Schedules()
        self.decisions: list[Decision] = []
        """What became of the schedules that were given for regions met here."""
        self.functions: dict[str, KernelFunction] = {}
        self.features = sorted(backend.isa.flags)
        self._printed: dict[str, str] = {}

    def lower(self, name: str, region: Node) -> Lowered:
        """Lowers one region under a name: a kernel for each entry of its schedule table."""
        entries = self._table(name, region)
        limits = {f"{name}_le{limit}": limit for limit, _ in entries if limit is not None}
        for limit, schedule in entries[:-1]:
            variant = f"{name}_le{limit}"
            self.functions[variant] = self.backend.lower(variant, region, schedule).function
        lowered = self.backend.lower(name, region, entries[-1][1] if entries else None)
        self.functions[name] = lowered.function
        cases = tuple((limit, variant) for variant, limit in limits.items())
        table = Table(row_count(region), cases) if cases else None
        names = {shape_class(limit): variant for limit, variant in (*cases, (None, name))}
        scratch = {shapes: self.functions[variant].scratch for shapes, variant in names.items()}
        return Lowered(lowered.arguments, lowered.function.symbols, table, scratch)

    def _table(self, name: str, region: Node) -> list[tuple[int | None, Schedule]]:
        """The region's schedule table, with tuned schedules where there are any."""
        entries = list(self.backend.table(region))
        if not entries or not self.schedules.points:
            return entries
        key = structural_hash(as_graph(region))
        for place, (limit, default) in enumerate(entries):
            shapes = shape_class(limit)
            point = self.schedules.find(key, shapes)
            if point is not None:
                origin = self.schedules.origin(key, shapes)
                tuned = self._tuned(name, region, shapes, point, origin)
                entries[place] = (limit, default if tuned is None else tuned)
        return entries

    def _tuned(
        self, name: str, region: Node, shapes: str, point: Point, origin: Origin
    ) -> Schedule | None:
        """The schedule of a point; None where the region's space refuses it. Logs which."""
        space = self.backend.spaces(region).get(shapes)
        reason = "nothing is open here" if space is None else space.refusal(point)
        values = ", ".join(f"{name}={value}" for name, value in sorted(point.items()))
        outcome = "fired" if reason is None else "refused"
        source = "" if origin == "given" else f" ({origin})"
        why = f"{shapes}: {values if reason is None else reason}{source}"
        self.decisions.append(Decision(outcome, "schedule", "kernels", name, why))
        return self.backend.at(region, point) if reason is None else None

    def kernel_set(self, library: str) -> KernelSet:
        """An empty set that lowers through this builder."""
        return KernelSet(self.lower, library)

    def files(self, spans: Sequence[SpanPlan], folder: Path) -> dict[str, bytes]:
        """The library, and the TIR of every kernel. Raises LinkerMissing, LinkerFailed."""
        texts = {name: text.encode() for name, text in self.sources().items()}
        return {self.library_name: self.library(spans, folder), **texts}

    def tools(self) -> Mapping[str, str]:
        """The versions that decide every byte."""
        import tvm

        return {"tvm": str(tvm.__version__)}

    def library(self, spans: Sequence[SpanPlan], folder: Path) -> bytes:
        """The shared library of all kernels and spans; temporary files lie in `folder`.

        Raises LinkerMissing, LinkerFailed.
        """
        isa = self.backend.isa
        entries = [span_entry(span.symbol, _steps(span)) for span in spans]
        texts = self._texts()
        store = ObjectStore(isa)

        def compiled(name: str) -> bytes:
            made_from = f"{name}\n{texts[name]}"
            return store.get(made_from, lambda: object_code([self.functions[name]], isa, folder))

        with ThreadPoolExecutor(_WORKERS) as pool:
            objects = list(pool.map(compiled, sorted(self.functions)))
        store.trim()
        return span_library(entries, objects, isa, folder)

    def sources(self) -> dict[str, str]:
        """The TIR of every kernel, by file name."""
        return {f"kernels/{name}.tir": text for name, text in sorted(self._texts().items())}

    def _texts(self) -> dict[str, str]:
        """The TIR of every kernel, printed once: printing takes as long as lowering."""
        for name in self.functions.keys() - self._printed.keys():
            self._printed[name] = str(self.functions[name].body)
        return self._printed


def _steps(span: SpanPlan) -> list[Step]:
    dims: dict[Dim, int] = {d: i for i, d in enumerate(span.dims)}
    slots = {slot: i for i, slot in enumerate(span.slots)}
    steps: list[Step] = []
    for launch in span.launches:
        if launch.barrier:
            steps.append(Barrier())
        steps.append(_call(launch, dims, slots))
    return steps


def _call(launch: Launch, dims: Mapping[Dim, int], slots: Mapping[int, int]) -> Step:
    symbols = tuple(Slot(dims[d]) for d in launch.kernel.symbols)
    pointers = tuple(slots[s] for s in launch.slots)

    def call(name: str) -> KernelCall:
        return KernelCall(name, symbols, pointers)

    table = launch.kernel.table
    if table is None:
        return call(launch.kernel.name)
    cases = tuple((limit, call(name)) for limit, name in table.cases)
    return Dispatch(Slot(dims[table.rows]), cases, call(launch.kernel.name))
