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

    from tilewright.codegen.explanation import GraphRecord, KernelRecord
    from tilewright.dsl.dims import Symbol
    from tilewright.runtime.artifact import Artifact
    from tilewright.runtime.schema import GraphPlan, Manifest
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


def graph_rows(
    graphs: Sequence[GraphRecord],
    manifest: Manifest,
    symbols: Mapping[str, Symbol],
    given: Mapping[str, int],
    kernels: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """A row for each graph: what a call costs in all, and the least seconds of its kernels.

    `kernels` are the rows of `kernel_rows`. The bound is that of the kernels which need most of the
    time; `held` are the bytes of memory for weights, caches (at their capacity) and scratch.
    """
    plans = {plan.name: plan for plan in manifest.graphs}
    return [_graph_row(record, plans[record.graph], symbols, given, kernels) for record in graphs]


def _graph_row(
    record: GraphRecord,
    plan: GraphPlan,
    symbols: Mapping[str, Symbol],
    given: Mapping[str, int],
    kernels: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    sizes = sizes_of(plan, symbols, given)
    row: dict[str, Any] = {"graph": record.graph, "at": listed(sizes)}
    for what in ("flops", "weights", "cache", "activations"):
        row[what] = value(getattr(record, what), symbols, sizes)
    row["bytes"] = row["weights"] + row["cache"] + row["activations"]
    row["intensity"] = row["flops"] / row["bytes"] if row["bytes"] else 0.0
    held = {"weights": record.weights_held, "cache": record.cache_held, "scratch": plan.arena}
    row["held"] = {what: value(text, symbols, sizes) for what, text in held.items()}
    seconds: dict[str, float] = {}
    for kernel in kernels:
        if kernel["graph"] == record.graph and "bound" in kernel:
            spent = kernel["calls"] * kernel["bound_seconds"]
            seconds[kernel["bound"]] = seconds.get(kernel["bound"], 0.0) + spent
    if seconds:
        most = max(seconds, key=lambda bound: seconds[bound])
        row |= {"bound": most, "bound_seconds": sum(seconds.values())}
    return row
