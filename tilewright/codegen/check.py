"""`--check=full`: kernels run on sampled inputs and are held to the meaning of their regions.

Kernels keep their large static dims, so what is too costly for the reference is left out, and the
decision log says so. Each kernel is called for one thread and for two, share after share: shares of
one kernel do not wait for one another.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np

from tilewright.codegen.kernels import Kernel, as_graph
from tilewright.codegen.steps import GraphLowering, call_requirements
from tilewright.dsl.dims import Dim
from tilewright.dsl.dims import evaluate as value_of
from tilewright.dsl.errors import BrokenClaim
from tilewright.dsl.graph import Graph, Value, substitute_type
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.op import get
from tilewright.dsl.program import Program
from tilewright.dsl.sampling import draw_inputs, draw_symbols
from tilewright.dsl.text.printer import print_graph
from tilewright.dsl.tolerance import check, leaves, tolerances
from tilewright.dsl.types import CacheType, TensorType
from tilewright.passes.base import PassContext
from tilewright.passes.memory import parts
from tilewright.runtime.buffers import Array, address_of, aligned_empty
from tilewright.runtime.native import NativeLibrary, request_amx
from tilewright.target.cpu import isa_of
from tilewright.target.host import host

RULE: Final = "check"
LARGEST_BYTES: Final = 64 << 20
"""Operands and results of a kernel, or parameters of a graph, that are still checked."""
_TRIES: Final = 16
_TEAMS: Final = (1, 2)


@dataclass(frozen=True, slots=True)
class _Sample:
    """Values of a graph's symbols, and inputs by path."""

    env: Mapping[str, int]
    inputs: Mapping[str, Any]


def check_compilation(
    before: Program,
    after: Program,
    lowered: Sequence[GraphLowering],
    files: Mapping[str, bytes],
    ctx: PassContext,
) -> None:
    """Holds graphs to what they were before the passes, and a CPU's kernels to their regions.

    What cannot be checked here is logged as refused, with the reason. Raises BrokenClaim.
    """
    if before.mesh.axes:
        ctx.log.refused(RULE, "all", "all", "not checked: every rank holds a part of the values")
        return
    check_graphs(before, after, ctx)
    libraries = {each.kernels.library for each in lowered if each.spans}
    for name in sorted(libraries & files.keys()):
        if ctx.target.kind == "cpu" and set(isa_of(ctx.target).features) <= host().features:
            check_kernels(lowered, files[name], ctx)
        else:
            ctx.log.refused(RULE, "all", name, f"not checked: made for {ctx.target}")


def check_kernels(lowered: Sequence[GraphLowering], code: bytes, ctx: PassContext) -> None:
    """Holds every distinct kernel of a library to its region; logs those left out.

    Raises BrokenClaim with the kernel's name, its region and the first difference.
    """
    kernels = {k.name: k for each in lowered for k in each.kernels.kernels.values()}
    request_amx()
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        path = Path(folder, "kernels.so")
        path.write_bytes(code)
        library = NativeLibrary(path)
    for name, kernel in sorted(kernels.items()):
        reason = _check_kernel(kernel, library)
        if reason is not None:
            ctx.log.refused(RULE, "kernels", name, f"not checked: {reason}")


def check_graphs(before: Program, after: Program, ctx: PassContext) -> None:
    """Holds every graph after the passes to the one before them; logs those left out.

    Raises BrokenClaim with the graph's name and the first difference.
    """
    for old, new in zip(before.graphs, after.graphs, strict=True):
        rng = np.random.default_rng(0)
        sample = _draw(old, rng)
        if isinstance(sample, str):
            ctx.log.refused(RULE, old.name, "graph", f"not checked: {sample}")
            continue
        inputs = dict(sample.inputs)
        for path, recipe in ctx.prepared.items():
            if {entry.path for entry in recipe.inputs} <= inputs.keys():
                inputs[path] = evaluate(recipe, inputs, symbols=sample.env)["out"]
        actual = evaluate(new, inputs, symbols=sample.env, checked=False)
        mismatch = _mismatch(old, sample, actual)
        if mismatch is not None:
            raise BrokenClaim(f"the passes changed graph {old.name} at {sample.env}: {mismatch}")


def _check_kernel(kernel: Kernel, library: NativeLibrary) -> str | None:
    """None where the kernel is right, or why it was not run."""
    graph = as_graph(kernel.region)
    sample = _draw(graph, np.random.default_rng(0))
    if isinstance(sample, str):
        return sample
    for name in _variants(kernel, sample.env):
        for team in _TEAMS:
            actual = _called(kernel, name, library, graph, sample, team)
            mismatch = _mismatch(graph, sample, actual)
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


def _draw(graph: Graph, rng: np.random.Generator) -> _Sample | str:
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
    return _Sample(env, draw_inputs(graph, env, rng))


def _called(
    kernel: Kernel, name: str, library: NativeLibrary, graph: Graph, sample: _Sample, team: int
) -> dict[str, Any]:
    """The outputs of one call of a kernel, by name, in memory that was poisoned before."""
    region = kernel.region
    memory: dict[tuple[Value, str], Array] = {}
    for entry in graph.inputs:
        arrays = leaves(sample.inputs[entry.path])
        for part, array in zip(parts(entry.value.type), arrays, strict=True):
            memory[entry.value, part] = _aligned(array)
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
    return {o.name: _value(o.value, memory) for o in graph.outputs}


def _mismatch(graph: Graph, sample: _Sample, actual: Mapping[str, Any]) -> str | None:
    ideal = evaluate(graph, sample.inputs, symbols=sample.env, checked=False, reading="ideal")
    for name, tolerance in tolerances(graph, sample.inputs, symbols=sample.env).items():
        mismatch = check(actual[name], ideal[name], tolerance)
        if mismatch is not None:
            return f"%{name}: {mismatch}"
    return None


def _value(value: Value, memory: Mapping[tuple[Value, str], Array]) -> Any:
    arrays = {part: memory[value, part] for part in parts(value.type)}
    if isinstance(value.type, TensorType):
        return arrays["data"] if value.type.is_dense else arrays
    if value.type.part.is_dense:
        return arrays["k"], arrays["v"]
    return tuple(
        {name[2:]: array for name, array in arrays.items() if name.startswith(f"{side}_")}
        for side in ("k", "v")
    )


def _aligned(array: Array) -> Array:
    found = aligned_empty(array.shape, array.dtype)
    found[...] = array
    return found


def _nbytes(value: Value, env: Mapping[str, int]) -> int:
    type_ = substitute_type(value.type, env)
    copies = 2 if isinstance(type_, CacheType) else 1
    shape = type_.part.shape if isinstance(type_, CacheType) else type_.shape
    return copies * prod(int(str(d)) for d in shape) * type_.dtype.numpy.itemsize


def _number(size: Dim, env: Mapping[str, int]) -> int:
    return size if isinstance(size, int) else value_of(size, env)
