"""What a candidate takes in memory, as the compiler has laid it out: nothing is run for it."""

from __future__ import annotations

from math import prod

from tilewright.autotune.job import Case
from tilewright.codegen.compiler import Compilation
from tilewright.dsl.dims import evaluate
from tilewright.dsl.dtypes import BY_NAME
from tilewright.dsl.encoding import Encoding, Sum, Tiled
from tilewright.dsl.program import Program
from tilewright.dsl.types import TensorType
from tilewright.runtime.schema import WeightRecord


def footprint(program: Program, made: Compilation, case: Case) -> int:
    """Bytes of a candidate at the sizes that are timed.

    Of one kernel, what it needs beyond inputs and outputs: the stacks of all threads, the arena,
    and what the layout of its constants adds to them. Of a whole graph, its arena and all weights
    of the artifact.
    """
    (lowering,) = (found for found in made.lowered if found.graph.name == case.graph)
    arena = evaluate(lowering.memory.arena, case.sizes)
    if case.shapes is None:
        return arena + sum(map(_stored, made.manifest.weights))
    kernels = lowering.kernels.kernels.values()
    stack = sum(kernel.scratch.get(case.shapes, 0) for kernel in kernels)
    return arena + case.threads * stack + sum(_padding(d.type) for d in program.params)


def _stored(weight: WeightRecord) -> int:
    return prod(weight.shape) * BY_NAME[weight.dtype].itemsize


def _padding(type_: object) -> int:
    """Bytes that a constant takes beyond those of its elements."""
    assert isinstance(type_, TensorType)
    flat = type_.with_encoding(_without_tiles(type_.encoding))
    return evaluate(type_.nbytes, {}) - evaluate(flat.nbytes, {})


def _without_tiles(encoding: Encoding) -> Encoding:
    match encoding:
        case Tiled():
            return _without_tiles(encoding.values)
        case Sum(parts):
            return Sum(tuple(map(_without_tiles, parts)))
        case _:
            return encoding
