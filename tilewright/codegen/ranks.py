"""One artifact for every rank of a mesh: `compile_ranks`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tilewright.codegen.compiler import Compilation, Options, compile_program
from tilewright.codegen.weights import Reader
from tilewright.dsl.errors import CompilerBug
from tilewright.dsl.program import Program
from tilewright.runtime.schema import CollectiveStep, GraphPlan


def compile_ranks(
    program: Program, reader: Reader, out: Path, options: Options
) -> list[Compilation]:
    """Writes `out/rank0`, `out/rank1` ..., one artifact for each rank of the program's mesh.

    Each stores the rank's slices of the parameters. Raises what `compile_program` and `localize`
    raise.
    """
    found = [
        compile_program(program, reader, out / f"rank{rank}", replace(options, rank=rank))
        for rank in range(program.mesh.ranks)
    ]
    exchanges = [[_exchanges(plan) for plan in each.manifest.graphs] for each in found]
    for rank, other in enumerate(exchanges):
        if other != exchanges[0]:
            raise CompilerBug(
                f"rank {rank} would exchange other messages than rank 0, so they would wait for "
                f"each other for ever: {other} and {exchanges[0]}"
            )
    return found


def _exchanges(plan: GraphPlan) -> list[tuple[str, ...]]:
    """What a rank's steps exchange, in order."""
    return [
        (plan.name, step.op, step.axis, step.reduce, step.dtype, step.count)
        for step in plan.steps
        if isinstance(step, CollectiveStep) and step.phase == "post"
    ]
