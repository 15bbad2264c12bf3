"""What the kernels of an artifact cost, beside what this machine can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from tilewright.cli.sizes import listed, sizes_of, value
from tilewright.cli.talk import Talk
from tilewright.codegen.explanation import EXPLANATION_FILE, Explanation
from tilewright.dsl.errors import DamagedArtifact, MeasurementFailed
from tilewright.target import roofline

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tilewright.codegen.explanation import KernelRecord
    from tilewright.dsl.dims import Symbol
    from tilewright.runtime.artifact import Artifact
    from tilewright.runtime.schema import Manifest
    from tilewright.target.roofline import Roofline


def read_explanation(artifact: Artifact) -> Explanation:
    """How the artifact came about. Raises DamagedArtifact."""
    try:
        return msgspec.json.decode(artifact.read(EXPLANATION_FILE), type=Explanation)
    except msgspec.DecodeError as error:
        raise DamagedArtifact(
            f"{EXPLANATION_FILE} is of another version: {error}", fix="compile the model again"
        ) from error


def machine_limits(talk: Talk) -> Roofline | None:
    """The machine's limits, measured now if they were never; None where that fails."""
    known = roofline.recorded_roofline()
    if known is not None:
        return known
    try:
        with talk.working("measuring this machine (once)"):
            return roofline.roofline()
    except MeasurementFailed as error:
        talk.say(f"no limits are shown: {error}")
        return None


def uses_tiles(manifest: Manifest) -> bool:
    """Whether kernels use matrix tiles (AMX): then their peak counts."""
    return any(flag.startswith("amx") for s in manifest.sections for flag in s.features)


def kernel_rows(
    kernels: Sequence[KernelRecord],
    manifest: Manifest,
    symbols: Mapping[str, Symbol],
    given: Mapping[str, int],
    limits: Roofline | None,
    threads: int,
) -> list[dict[str, Any]]:
    """A row for each kernel of each graph: FLOPs and bytes of one run, and the least seconds."""
    plans = {plan.name: plan for plan in manifest.graphs}
    tiles = uses_tiles(manifest)
    rows: list[dict[str, Any]] = []
    for kernel in kernels:
        sizes = sizes_of(plans[kernel.graph], symbols, given)
        flops, moved = (value(t, symbols, sizes) for t in (kernel.flops, kernel.bytes))
        row: dict[str, Any] = {
            "graph": kernel.graph,
            "at": listed(sizes),
            "name": kernel.name,
            "ops": kernel.ops,
            "calls": kernel.calls,
            "flops": flops,
            "bytes": moved,
            "intensity": flops / moved if moved else 0.0,
            "formulas": {"flops": kernel.flops, "bytes": kernel.bytes},
        }
        if limits is not None:
            seconds, bound = limits.bound(flops, moved, kernel.dtype, threads, tiles=tiles)
            row |= {"bound": bound, "bound_seconds": seconds}
        rows.append(row)
    return rows
