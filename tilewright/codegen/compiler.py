"""A program, a target and a plan to an artifact: `compile_program`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tilewright.codegen.steps import GraphLowering, lower_graph, port
from tilewright.codegen.weights import Reader, StoredWeights
from tilewright.dsl.errors import UnknownBackend
from tilewright.dsl.hashing import text_hash
from tilewright.dsl.program import Program
from tilewright.dsl.text.printer import print_program
from tilewright.dsl.types import CacheType
from tilewright.passes.base import Check, Pass, PassContext
from tilewright.passes.memory import parts
from tilewright.passes.pipeline import Pipeline
from tilewright.passes.plan import Choices, Plan
from tilewright.passes.registry import default_pipeline
from tilewright.runtime import artifact
from tilewright.runtime.native import ABI
from tilewright.runtime.schema import (
    SCHEMA_VERSION,
    Certificate,
    Manifest,
    Section,
    StateRecord,
    SymbolRecord,
)
from tilewright.target.cpu import isa_of, resolve
from tilewright.target.spec import Target
from tilewright.version import __version__

LIBRARY = "kernels.so"
BACKENDS = ("tvm", "reference")


@dataclass(frozen=True)
class Options:
    """What a compilation is told besides the program."""

    target: Target
    backend: str = "tvm"
    plan: Plan = field(default_factory=Plan)
    check: Check = "local"
    pipeline: Pipeline = field(default_factory=default_pipeline)
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    tokenizer: str | None = None


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
    cannot lower, UnknownBackend, LinkerMissing, WeightShapeMismatch, WriteFailed.
    """
    if options.backend not in BACKENDS:
        raise UnknownBackend(
            f"there is no backend {options.backend!r}", fix=f"use one of {', '.join(BACKENDS)}"
        )
    from tilewright.codegen.tvm.backend import TvmBackend
    from tilewright.codegen.tvm.build import TvmBuilder

    target = resolve(options.target)
    isa = isa_of(target)
    builder = TvmBuilder(TvmBackend(isa))
    context = PassContext(
        target=target,
        choices=Choices(options.plan),
        check=options.check,
        backend=builder.backend,
    )
    stages: list[tuple[Pass, Program, Program]] = []
    final = options.pipeline.run(
        program, context, [lambda step, before, after: stages.append((step, before, after))]
    )
    kernels = builder.kernel_set(LIBRARY)
    lowered = [lower_graph(graph, kernels) for graph in final.graphs]
    plans = [lowering.finish() for lowering in lowered]
    spans = [span for lowering in lowered for span in lowering.spans]
    weights = StoredWeights(final, context.prepared, reader)
    files = {
        "graph.tw": print_program(program).encode(),
        LIBRARY: builder.library(spans),
        **{name: text.encode() for name, text in builder.sources().items()},
    }
    if options.tokenizer is not None:
        files["tokenizer.json"] = options.tokenizer.encode()
    manifest = Manifest(
        schema=SCHEMA_VERSION,
        program=text_hash(program),
        files={},
        tools=_tools(),
        symbols=[SymbolRecord(s.name, s.lo, s.hi, s.multiple_of) for s in final.symbols],
        states=_states(final),
        weights=weights.records(),
        graphs=plans,
        sections=[Section(str(target), sorted(isa.flags), LIBRARY, ABI)],
        certificates=_certificates(stages, context),
        tokenizer=None if options.tokenizer is None else "tokenizer.json",
        metadata=dict(sorted(options.metadata.items())),
    )
    return Compilation(artifact.write(out, manifest, files, weights), stages, context, lowered)


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
    return [Certificate(r, claims.get(r, "exact"), n) for r, n in sorted(counts.items())]


def _tools() -> dict[str, str]:
    import tvm

    return {"tilewright": __version__, "tvm": str(tvm.__version__)}
