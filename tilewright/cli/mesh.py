"""`--mesh dp=2,tp=4 --shard megatron`: a program on a mesh, and where its ranks' parts go."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tilewright.dsl.errors import PlacementError, UnsuitableOption

if TYPE_CHECKING:
    from tilewright.cli.source import ModelSource
    from tilewright.codegen.compiler import Options
    from tilewright.dsl.placement import Mesh
    from tilewright.dsl.program import Program
    from tilewright.passes.pipeline import Pipeline

_AXIS = re.compile(r"(?P<name>[a-z]\w{0,31})=(?P<size>[1-9][0-9]{0,5})")


def read_mesh(text: str) -> Mesh:
    """`dp=2,tp=4`. Raises PlacementError."""
    from tilewright.dsl.placement import Mesh

    axes: dict[str, int] = {}
    for word in text.split(","):
        match = _AXIS.fullmatch(word.strip())
        if match is None or match["name"] in axes:
            raise PlacementError(
                f"cannot read the mesh {text[:80]!r} at {word[:40]!r}",
                fix="name each axis once, with its size: dp=2,tp=4",
            )
        axes[match["name"]] = int(match["size"])
    return Mesh.of(**axes)


def on_mesh(
    source: ModelSource, options: Options, mesh: str | None, shard: str | None, passes: str | None
) -> tuple[ModelSource, Options]:
    """The source and the options with `--mesh` and `--shard` applied. Raises what these raise."""
    program = _placed(source.program, mesh)
    pipeline = _sharded(program, shard, passes) or options.pipeline
    return replace(source, program=program), replace(options, pipeline=pipeline)


def _placed(program: Program, mesh: str | None) -> Program:
    """The program on the mesh of `--mesh`. Raises UnsuitableOption where it has another one."""
    if mesh is None:
        return program
    wanted = read_mesh(mesh)
    if program.mesh.axes and program.mesh != wanted:
        raise UnsuitableOption(
            f"the program is written for the mesh {program.mesh}, not for {wanted}",
            fix="leave --mesh out",
        )
    return replace(program, mesh=wanted)


def _sharded(program: Program, shard: str | None, passes: str | None) -> Pipeline | None:
    """The pipeline of `--shard`; None without it.

    Raises UnsuitableOption for one without a mesh or beside `--passes`, and InvalidHint.
    """
    from tilewright.passes.registry import default_pipeline
    from tilewright.passes.shard import Shard
    from tilewright.passes.sharding.hints import read_hints, spelled

    if shard is None:
        return None
    if not program.mesh.axes:
        raise UnsuitableOption(
            "--shard places values on a mesh, and there is none", fix="add --mesh dp=2,tp=4"
        )
    if passes is not None:
        raise UnsuitableOption(
            "--shard and --passes both say what is run",
            fix="write --passes '+shard{hints=...},...'",
        )
    hints = spelled(shard, program.mesh)
    read_hints(hints, program.mesh)
    return default_pipeline(Shard(hints))


def folders(program: Program, out: Path) -> list[Path]:
    """Where the artifacts of all ranks go: `out` itself where there is one."""
    ranks = program.mesh.ranks
    return [out] if ranks == 1 else [out / f"rank{rank}" for rank in range(ranks)]
