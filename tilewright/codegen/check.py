"""`--check=full`: kernels and whole graphs run on sampled inputs and are held to their meaning.

Kernels keep their large static dims, so what is too costly for the reference is left out, and the
decision log says so. Each kernel is called for one thread and for two, share after share: shares of
one kernel do not wait for one another. A graph is compared twice: by its meaning after the passes,
and as its steps run it (`check_run`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np

from tilewright.codegen.check_run import aligned, run_plan, value_of_parts
from tilewright.codegen.kernels import Kernel, as_graph
from tilewright.codegen.rounding_bias import rounding_bias
from tilewright.codegen.steps import GraphLowering, call_requirements
from tilewright.codegen.weights import StoredWeights
from tilewright.dsl.dims import Dim, Symbol
from tilewright.dsl.dims import evaluate as value_of
from tilewright.dsl.errors import BrokenClaim
from tilewright.dsl.graph import Graph, Value, substitute_type
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.op import get
from tilewright.dsl.program import Program
from tilewright.dsl.sampling import draw_inputs, draw_symbols
from tilewright.dsl.text.printer import print_graph
from tilewright.dsl.tolerance import check, leaves, tolerances
from tilewright.dsl.types import CacheType
from tilewright.passes.base import Pass, PassContext
from tilewright.passes.memory import parts
from tilewright.runtime.buffers import Array, address_of, aligned_empty
from tilewright.runtime.native import NativeLibrary, request_amx
from tilewright.runtime.schema import GraphPlan
from tilewright.target.cpu import isa_of
from tilewright.target.host import host

RULE: Final = "check"
LARGEST_BYTES: Final = 64 << 20
"""Operands and results of a kernel, or parameters of a graph, that are still checked."""
_TRIES: Final = 16
_TEAMS: Final = (1, 2)
Stages = Sequence[tuple[Pass, Program, Program]]
"""Each pass, with the program before and after it."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Values of a graph's symbols, and inputs by path."""

    env: Mapping[str, int]
    inputs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Compiled:
    """What a compilation has come to, before it is written; `symbols` are those of all plans."""

    stages: Stages
    lowered: Sequence[GraphLowering]
    plans: Sequence[GraphPlan]
    symbols: Mapping[str, Symbol]
    files: Mapping[str, bytes]


class Expected:
    """The outputs of a graph at a sample, in the ideal reading, and how far off one may be."""

    def __init__(self, graph: Graph, sample: Sample) -> None:
        self._ideal = evaluate(
            graph, sample.inputs, symbols=sample.env, checked=False, reading="ideal"
        )
        self._allowed = tolerances(graph, sample.inputs, symbols=sample.env)
        self._graph, self._sample = graph, sample

    @cached_property
    def _faithful(self) -> dict[str, Any]:
        return _meant(self._graph, self._sample)

    def mismatch(self, actual: Mapping[str, Any]) -> str | None:
        """The first output that is too far off, and where; None if all are right."""
        for name, tolerance in self._allowed.items():
            found = check(actual[name], self._ideal[name], tolerance)
            if found is not None:
                return f"%{name}: {found}"
        return None

    def bias(self, actual: Mapping[str, Any]) -> str | None:
        """The first output whose short floats are not rounded to the nearest; None if all are."""
        for name, value in actual.items():
            columns = (leaves(v) for v in (value, self._ideal[name], self._faithful[name]))
            for arrays in zip(*columns, strict=True):
                found = rounding_bias(*arrays)
                if found is not None:
                    return f"%{name}: {found}"
        return None


def check_compilation(
    before: Program, after: Program, made: Compiled, ctx: PassContext, folder: Path
) -> None:
    """Holds graphs to what they were before the passes, and a CPU's kernels to their regions.

    Temporary files lie in `folder`.
    What cannot be checked here is logged as refused, with the reason. Raises BrokenClaim.
    """
    if before.mesh.axes:
        ctx.log.refused(RULE, "all", "all", "not checked: every rank holds a part of the values")
        return
    samples = check_graphs(before, after, ctx, made.stages)
    libraries = {each.kernels.library for each in made.lowered if each.spans}
    native: dict[str, NativeLibrary] = {}
    for name in sorted(libraries & made.files.keys()):
        if ctx.target.kind == "cpu" and set(isa_of(ctx.target).features) <= host().features:
            native[name] = _loaded(made.files[name], folder)
            check_kernels(made.lowered, native[name], ctx)
        else:
            ctx.log.refused(RULE, "all", name, f"not checked: made for {ctx.target}")
    if libraries <= native.keys():
        for lowering, plan in zip(made.lowered, made.plans, strict=True):
            if plan.name in samples:
                _check_run(lowering, plan, *samples[plan.name], made.symbols, native)


def _check_run(
    lowering: GraphLowering,
    plan: GraphPlan,
    sample: Sample,
    expected: Expected,
    symbols: Mapping[str, Symbol],
    native: Mapping[str, NativeLibrary],
) -> None:
    found = run_plan(lowering, plan, symbols, native, sample.env, sample.inputs)
    mismatch = expected.mismatch(found)
    if mismatch is not None:
        raise BrokenClaim(
            f"the steps of graph {plan.name} at {dict(sample.env)} do not compute what its kernels "
            f"mean: {mismatch}"
        )


def check_kernels(
    lowered: Sequence[GraphLowering], library: NativeLibrary, ctx: PassContext
) -> None:
    """Holds every distinct kernel of a library to its region; logs those left out.

    Raises BrokenClaim with the kernel's name, its region and the first difference.
    """
    kernels = {k.name: k for each in lowered for k in each.kernels.kernels.values()}
    for name, kernel in sorted(kernels.items()):
        reason = _check_kernel(kernel, library)
        if reason is not None:
            ctx.log.refused(RULE, "kernels", name, f"not checked: {reason}")


def check_graphs(
    before: Program, after: Program, ctx: PassContext, stages: Stages = ()
) -> dict[str, tuple[Sample, Expected]]:
    """Holds every graph after the passes to the one before them; logs those left out.

    What comes back are the samples, with prepared parameters as they are stored. Raises BrokenClaim
    with the name of the graph and, out of `stages`, of the first pass after which it differs.
    """
    checked: dict[str, tuple[Sample, Expected]] = {}
    for place, old in enumerate(before.graphs):
        drawn = _draw(old, np.random.default_rng(0))
        if isinstance(drawn, str):
            ctx.log.refused(RULE, old.name, "graph", f"not checked: {drawn}")
            continue
        expected = Expected(old, drawn)
        sample = Sample(drawn.env, _with_prepared(drawn, after, ctx))
        found = expected.mismatch(_meant(after.graphs[place], sample))
        if found is not None:
            culprit = _culprit(stages, place, sample, expected, ctx)
            raise BrokenClaim(f"{culprit} changed graph {old.name} at {dict(sample.env)}: {found}")
        checked[old.name] = sample, expected
    return checked


def _meant(graph: Graph, sample: Sample) -> dict[str, Any]:
    return evaluate(graph, sample.inputs, symbols=sample.env, checked=False)


def _culprit(
    stages: Stages, place: int, sample: Sample, expected: Expected, ctx: PassContext
) -> str:
    """The first pass after which the graph at `place` means something else."""
    for step, _, program in stages:
        graph = program.graphs[place]
        if _reads_stored(graph, ctx) and expected.mismatch(_meant(graph, sample)) is not None:
            return f"pass {step}"
    return "the passes"


def _reads_stored(graph: Graph, ctx: PassContext) -> bool:
    """True where the graph of a stage takes prepared parameters as they finally are stored."""
    return all(
        entry.path not in ctx.prepared
        or ctx.prepared[entry.path].outputs[0].value.type == entry.value.type
        for entry in graph.inputs
    )


def _with_prepared(sample: Sample, after: Program, ctx: PassContext) -> dict[str, Any]:
    """The inputs, and the parameters that are prepared from them.

    Raises BrokenClaim where an artifact would hold something else than the preparation makes.
    """
    inputs = dict(sample.inputs)
    stored = StoredWeights(after, ctx.prepared, _Drawn(sample.inputs))
    for path, recipe in ctx.prepared.items():
        if {entry.path for entry in recipe.inputs} <= inputs.keys():
            inputs[path] = evaluate(recipe, inputs, symbols=sample.env)["out"]
            wanted = leaves(inputs[path])
            for part, array in zip(parts(recipe.outputs[0].value.type), wanted, strict=True):
                name = path if part == "data" else f"{path}:{part}"
                if name in stored and not _same(stored[name], array):
                    raise BrokenClaim(
                        f"the weight {name} is not stored as it is prepared:\n{print_graph(recipe)}"
                    )
    return inputs


@dataclass(frozen=True, slots=True)
class _Drawn:
    """Drawn parameters as a source of weights."""

    inputs: Mapping[str, Any]

    def read(self, name: str) -> Array:
        return self.inputs[name]


def _same(one: Array, other: Array) -> bool:
    return (
        one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    )


def _check_kernel(kernel: Kernel, library: NativeLibrary) -> str | None:
    """None where the kernel is right, or why it was not run."""
    graph = as_graph(kernel.region)
    sample = _draw(graph, np.random.default_rng(0))
    if isinstance(sample, str):
        return sample
    expected = Expected(graph, sample)
    for name in _variants(kernel, sample.env):
        for team in _TEAMS:
            actual = _called(kernel, name, library, graph, sample, team)
            mismatch = expected.mismatch(actual) or expected.bias(actual)
            if mismatch is not None:
                raise BrokenClaim(
                    f"kernel {name} on {team} threads at {dict(sample.env)} is not its region: "
                    f"{mismatch}\n{print_graph(graph)}"
                )
    return None


def _variants(kernel: Kernel, env: Mapping[str, int]) -> list[str]:
    """The kernels of the schedule table that may be given so many rows."""
    if kernel.table is None:
        return [kernel.name]
    rows = _number(kernel.table.rows, env)
    return [kernel.name, *(name for limit, name in kernel.table.cases if rows <= limit)]


def _loaded(code: bytes, folder: Path) -> NativeLibrary:
    request_amx()
    with tempfile.TemporaryDirectory(prefix="tilewright-", dir=folder) as private:
        path = Path(private, "kernels.so")
        path.write_bytes(code)
        return NativeLibrary(path)


def _draw(graph: Graph, rng: np.random.Generator) -> Sample | str:
    """Small inputs, or why there are none."""
    required = call_requirements(graph)
    for _ in range(_TRIES):
        env = draw_symbols(graph, rng)
        if all(_number(size, env) >= 0 for size in required):
            break
    else:
        return "no small values of the symbols meet what the graph requires"
    values = [*graph.input_values, *(r for node in graph.nodes for r in node.results)]
    size = sum(_nbytes(value, env) for value in values)
    if size > LARGEST_BYTES:
        return f"its values take {size:,} bytes, and {LARGEST_BYTES:,} are still checked"
    return Sample(env, draw_inputs(graph, env, rng))


def _called(
    kernel: Kernel, name: str, library: NativeLibrary, graph: Graph, sample: Sample, team: int
) -> dict[str, Any]:
    """The outputs of one call of a kernel, by name, in memory that was poisoned before."""
    region = kernel.region
    memory: dict[tuple[Value, str], Array] = {}
    for entry in graph.inputs:
        arrays = leaves(sample.inputs[entry.path])
        for part, array in zip(parts(entry.value.type), arrays, strict=True):
            memory[entry.value, part] = aligned(array)
    for place, result in zip(get(region.op).consumes, region.results, strict=False):
        for part in parts(result.type):  # a state's successor lies where the state does
            memory[result, part] = memory[region.operands[place], part]
    for result in region.results:
        for part, type_ in parts(result.type).items():
            if (result, part) not in memory:
                shape = tuple(_number(d, sample.env) for d in type_.shape)
                memory[result, part] = aligned_empty(shape, type_.dtype.numpy)
                memory[result, part].reshape(-1).view(np.uint8).fill(0xFF)
    values = {"x": region.operands, "y": region.results}
    pointers = [address_of(memory[values[a.role][a.place], a.component]) for a in kernel.arguments]
    symbols = [_number(d, sample.env) for d in kernel.symbols]
    function = library.kernel(name, len(symbols), len(pointers))
    for rank in range(team):
        function(rank, team, *symbols, *pointers)
    return {
        o.name: value_of_parts(o.value.type, {p: memory[o.value, p] for p in parts(o.value.type)})
        for o in graph.outputs
    }


def _nbytes(value: Value, env: Mapping[str, int]) -> int:
    type_ = substitute_type(value.type, env)
    copies = 2 if isinstance(type_, CacheType) else 1
    shape = type_.part.shape if isinstance(type_, CacheType) else type_.shape
    return copies * prod(int(str(d)) for d in shape) * type_.dtype.numpy.itemsize


def _number(size: Dim, env: Mapping[str, int]) -> int:
    return size if isinstance(size, int) else value_of(size, env)
