"""A program, a target and a plan to an artifact: `compile_program`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import msgspec

from tilewright.codegen.check import Compiled, check_compilation
from tilewright.codegen.explanation import EXPLANATION_FILE, Explanation, explanation
from tilewright.codegen.kernels import KernelSet, Lowered
from tilewright.codegen.mesh import ShardReader
from tilewright.codegen.plan_check import check_plan
from tilewright.codegen.space import Schedules
from tilewright.codegen.steps import GraphLowering, SpanPlan, lower_graph, port
from tilewright.codegen.weights import Reader, StoredWeights
from tilewright.dsl.errors import CompilerBug, UnknownBackend
from tilewright.dsl.graph import Node
from tilewright.dsl.hashing import text_hash
from tilewright.dsl.program import Program
from tilewright.dsl.text.printer import print_program
from tilewright.dsl.types import CacheType
from tilewright.passes.base import Backend, Check, Pass, PassContext
from tilewright.passes.claim import REASSOCIATES
from tilewright.passes.localize import Localize
from tilewright.passes.log import Decision
from tilewright.passes.memory import parts
from tilewright.passes.partition import Partition
from tilewright.passes.pipeline import Pipeline
from tilewright.passes.plan import Choices, Plan
from tilewright.passes.registry import default_pipeline
from tilewright.runtime import artifact
from tilewright.runtime.dim_table import symbol_table
from tilewright.runtime.native import ABI
from tilewright.runtime.schema import (
    SCHEMA_VERSION,
    Certificate,
    GraphPlan,
    Manifest,
    Section,
    StateRecord,
    SymbolRecord,
)
from tilewright.target.capability import gpu_limits
from tilewright.target.cpu import isa_of, resolve
from tilewright.target.spec import Target
from tilewright.version import __version__

BACKENDS = ("tvm", "triton", "reference")


class Builder(Protocol):
    """Makes the kernels of a program for one target, with one backend."""

    decisions: list[Decision]
    features: list[str]
    """The flags of /proc/cpuinfo that the code needs."""

    @property
    def backend(self) -> Backend:
        """Who lowers regions."""
        ...

    @property
    def functions(self) -> Mapping[str, object]:
        """The kernels lowered so far, by name."""
        ...

    @property
    def library_name(self) -> str:
        """The file of the artifact that span steps refer to."""
        ...

    def kernel_set(self, library: str) -> KernelSet:
        """An empty set that lowers through this builder."""
        ...

    def files(self, spans: Sequence[SpanPlan], folder: Path) -> Mapping[str, bytes]:
        """The library, and the sources of its kernels; temporary files lie in `folder`."""
        ...

    def tools(self) -> Mapping[str, str]:
        """The versions of what compiles."""
        ...


@dataclass(frozen=True)
class Options:
    """What a compilation is told besides the program.

    schedules: tuned points of kernels' spaces; the rest take their defaults.
    backend: `reference` runs every region by its meaning, without a kernel.
    fallback: the reference runs what the backend refuses, instead of an UnsupportedRegion.
    progress: called with what is done next.
    """

    target: Target
    backend: str = "tvm"
    plan: Plan = field(default_factory=Plan)
    check: Check = "local"
    pipeline: Pipeline = field(default_factory=default_pipeline)
    schedules: Schedules = field(default_factory=Schedules)
    fallback: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    tokenizer: str | None = None
    progress: Callable[[str], None] = lambda step: None
    rank: int = 0
    """Whose program of a mesh it is; `compile_ranks` makes all."""


@dataclass
class Compilation:
    """The result: the artifact's manifest, and how it came about."""

    manifest: Manifest
    stages: list[tuple[Pass, Program, Program]]
    context: PassContext
    lowered: list[GraphLowering]


def compile_program(program: Program, reader: Reader, out: Path, options: Options) -> Compilation:
    """Writes the artifact of a program into `out`.

    Graph, target, plan and weights decide every byte. Raises UnsupportedRegion for what the backend
    cannot lower, UnknownBackend, LinkerMissing, WeightShapeMismatch, NotAnArtifact, WriteFailed.
    """
    require_backend(options.backend)
    artifact.check_replaceable(out)  # before the work, and again before writing
    target = resolve(options.target)
    builder = _builder(options, target)
    context = _context(options, target, builder)
    stages: list[tuple[Pass, Program, Program]] = []

    def observe(step: Pass, before: Program, after: Program) -> None:
        if not stages or stages[-1][0].stage != step.stage:
            options.progress(f"passes ({step.stage})")
        stages.append((step, before, after))

    pipeline = _with_fallback(options.pipeline) if options.fallback else options.pipeline
    final = pipeline.run(program, context, [observe])
    options.progress("lowering")
    lowered = _lowered(final, builder)
    context.log.decisions.extend([] if builder is None else builder.decisions)
    for entry in context.choices.unused():
        context.log.refused("plan", program.name, entry, "no such choice was met")
    plans = _plans(lowered)
    if program.mesh.axes:
        reader = ShardReader(reader, _placed(program, stages), options.rank)
    weights = StoredWeights(final, context.prepared, reader)
    told = explanation(stages, context.log.decisions, context.choices.met.values(), lowered)
    symbols = _symbols(program)
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        code, sections = _code(lowered, builder, options, target, Path(folder))
        if options.check == "full":
            options.progress("checking every graph and kernel")
            made = Compiled(stages, lowered, plans, symbol_table(symbols), code)
            check_compilation(program, final, made, context, Path(folder))
    options.progress("writing")
    manifest = Manifest(
        schema=SCHEMA_VERSION,
        program=text_hash(program),
        files={},
        tools=_tools(builder),
        symbols=symbols,
        states=_states(final),
        weights=weights.records(),
        graphs=plans,
        sections=sections,
        mesh=[*program.mesh.axes],
        rank=options.rank if program.mesh.axes else None,
        certificates=_certificates(stages, context),
        errors=weights.errors(),
        tokenizer=None if options.tokenizer is None else "tokenizer.json",
        requires=["reference"] if any(lowering.regions for lowering in lowered) else [],
        metadata=dict(sorted(options.metadata.items())),
    )
    texts = _texts(program, told, lowered, options)
    found = artifact.write(out, manifest, texts | code, weights)
    return Compilation(found, stages, context, lowered)


def _placed(program: Program, stages: Sequence[tuple[Pass, Program, Program]]) -> Program:
    """The program in the global view with all its placements: what `localize` was given."""
    return next((before for step, before, _ in stages if isinstance(step, Localize)), program)


def _context(options: Options, target: Target, builder: Builder | None) -> PassContext:
    return PassContext(
        target=target,
        rank=options.rank,
        choices=Choices(options.plan),
        check=options.check,
        backend=None if builder is None else builder.backend,
    )


def _plans(lowered: Sequence[GraphLowering]) -> list[GraphPlan]:
    """The finished steps of every graph. Raises BrokenPlan."""
    plans = [lowering.finish() for lowering in lowered]
    for lowering in lowered:
        check_plan(lowering)
    return plans


def _symbols(program: Program) -> list[SymbolRecord]:
    """All symbols of the program as imported: what no kernel needs is still given and checked."""
    return [SymbolRecord(s.name, s.lo, s.hi, s.multiple_of) for s in program.symbols]


def _texts(
    program: Program, told: Explanation, lowered: Sequence[GraphLowering], options: Options
) -> dict[str, bytes]:
    """What is stored beside code and weights."""
    regions = {name: text for lowering in lowered for name, text in lowering.regions.items()}
    files = {"graph.tw": print_program(program), **regions}
    if options.tokenizer is not None:
        files["tokenizer.json"] = options.tokenizer
    record = msgspec.json.encode(told, order="deterministic")
    return {EXPLANATION_FILE: record, **{name: text.encode() for name, text in files.items()}}


def _code(
    lowered: Sequence[GraphLowering],
    builder: Builder | None,
    options: Options,
    target: Target,
    folder: Path,
) -> tuple[dict[str, bytes], list[Section]]:
    """The files of the kernels, and the section that says who can run them."""
    spans = [span for lowering in lowered for span in lowering.spans]
    if builder is None or not spans:
        return {}, []
    options.progress(f"compiling {len(builder.functions)} kernels")
    section = Section(str(target), builder.features, builder.library_name, ABI)
    return dict(builder.files(spans, folder)), [section]


def require_backend(name: str) -> None:
    """Raises UnknownBackend unless there is a backend of that name."""
    if name not in BACKENDS:
        raise UnknownBackend(
            f"there is no backend {str(name)[:80]!r}", fix=f"use one of {', '.join(BACKENDS)}"
        )


def _states(program: Program) -> list[StateRecord]:
    found: list[StateRecord] = []
    for declared in program.states:
        ports = [port(f"{declared.path}:{name}", t) for name, t in parts(declared.type).items()]
        axis = 1 if isinstance(declared.type, CacheType) else None
        found.append(StateRecord(declared.path, ports, axis))
    return found


def _certificates(
    stages: Sequence[tuple[Pass, Program, Program]], context: PassContext
) -> list[Certificate]:
    counts: dict[str, int] = {}
    for decision in context.log.decisions:
        if decision.outcome == "fired":
            counts[decision.rule] = counts.get(decision.rule, 0) + 1
    claims = {step.name: str(step.preserves) for step, _, _ in stages}
    claims["schedule"] = str(REASSOCIATES)
    return [Certificate(r, claims.get(r, "exact"), n) for r, n in sorted(counts.items())]


def _builder(options: Options, target: Target) -> Builder | None:
    """Who makes kernels; None where the reference runs everything. Raises UnknownTarget."""
    if options.backend == "triton":
        from tilewright.codegen.triton.backend import TritonBackend
        from tilewright.codegen.triton.build import TritonBuilder

        gpu_limits(target)
        return TritonBuilder(TritonBackend(target))
    isa = isa_of(target)
    if options.backend == "reference":
        return None
    from tilewright.codegen.tvm import torch_hidden

    with torch_hidden():
        from tilewright.codegen.tvm.backend import TvmBackend
        from tilewright.codegen.tvm.build import TvmBuilder

    return TvmBuilder(TvmBackend(isa), options.schedules)


def _lowered(program: Program, builder: Builder | None) -> list[GraphLowering]:
    if builder is None:
        return [lower_graph(g, KernelSet(_no_kernels, ""), _always) for g in program.graphs]
    kernels = builder.kernel_set(builder.library_name)
    backend = builder.backend

    def refused(node: Node) -> bool:
        return backend.accepts(node) is not None

    return [lower_graph(graph, kernels, refused) for graph in program.graphs]


def _always(node: Node) -> bool:
    return True


def _no_kernels(name: str, region: Node) -> Lowered:
    raise CompilerBug(f"the reference has no kernel for {name}")


def _with_fallback(pipeline: Pipeline) -> Pipeline:
    passes = (replace(p, fallback=True) if isinstance(p, Partition) else p for p in pipeline.passes)
    return Pipeline(tuple(passes))


def _tools(builder: Builder | None) -> dict[str, str]:
    if builder is None:
        return {"tilewright": __version__}
    return {"tilewright": __version__, **builder.tools()}
