"""The kernels of an artifact: what each does, how long it takes here, and how it was written."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from tilewright.cli.report.subjects import SHORT
from tilewright.cli.talk import Talk

if TYPE_CHECKING:
    from tilewright.autotune.history import History
    from tilewright.codegen.explanation import Explanation, KernelRecord
    from tilewright.runtime.artifact import Artifact
    from tilewright.target.roofline import Roofline

Origin = Literal["traced", "scaled", "predicted"]
"""Where a time comes from: a run here; such a run and the ratio on record; the roofline alone."""

_RUNS: Final = 20
_WARMUP: Final = 3
_SOURCES: Final = "kernels/"


@dataclass(frozen=True, slots=True)
class Standing:
    """A kernel of a graph at given sizes. `seconds` are those of one call, its barrier among them;
    `least` is what the roofline allows. `peak` is that of its number format (FLOP/s).
    """

    number: int
    graph: str
    at: str
    kernel: str
    ops: tuple[str, ...]
    calls: int
    dtype: str
    flops: int
    bytes: int
    bound: str
    least: float
    peak: float
    seconds: float
    origin: Origin
    tuned: bool


@dataclass(frozen=True, slots=True)
class Compiled:
    """An artifact: its target, and of each kernel the tuned schedules and the source files."""

    folder: str
    target: str
    kernels: tuple[str, ...]
    schedules: Mapping[str, Sequence[str]]
    sources: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Request:
    """How artifacts are looked at: sizes, threads, whether they are run, and this machine."""

    at: Sequence[str]
    threads: int
    trace: bool
    limits: Roofline


def read_compiled(artifact: Artifact) -> Compiled:
    """What an artifact says of its kernels. Raises DamagedArtifact."""
    from tilewright.cli.costs import read_explanation

    told = read_explanation(artifact)
    names = tuple(dict.fromkeys(kernel.name for kernel in told.kernels))
    return Compiled(
        str(artifact.folder),
        target_of(artifact),
        names,
        _schedules(told),
        {name: _sources(artifact, name) for name in names},
    )


def target_of(artifact: Artifact) -> str:
    """What an artifact was compiled for, first of all; empty where no kernel is native."""
    sections = artifact.manifest.sections
    return sections[0].target if sections else ""


def _schedules(told: Explanation) -> dict[str, list[str]]:
    """The schedules that were taken from records, as the compiler's log has them."""
    found: dict[str, list[str]] = {}
    for decision in told.decisions:
        if decision.rule == "schedule" and decision.outcome == "fired":
            for place in decision.places:
                found.setdefault(place.rpartition("/")[2], []).append(decision.reason)
    return found


def _sources(artifact: Artifact, kernel: str) -> dict[str, str]:
    """The files of a kernel: its main one, and one for each entry of its schedule table."""
    found: dict[str, str] = {}
    for name in sorted(artifact.manifest.files):
        stem = name.removeprefix(_SOURCES).partition(".")[0]
        if name.startswith(_SOURCES) and (stem == kernel or stem.startswith(f"{kernel}_")):
            found[name] = artifact.read(name).decode("utf-8", "replace")
    return found


def standings(artifact: Artifact, request: Request, talk: Talk) -> list[Standing]:
    """Every kernel of every graph, those that take longest first.

    A kernel that was not run has the time that the roofline predicts. Raises SymbolRangeError.
    """
    from tilewright.cli.costs import kernel_rows, read_explanation
    from tilewright.cli.sizes import read_sizes
    from tilewright.runtime.dim_table import symbol_table

    manifest, told = artifact.manifest, read_explanation(artifact)
    symbols = symbol_table(manifest.symbols)
    given = read_sizes(request.at, symbols)
    rows = kernel_rows(told.kernels, manifest, symbols, given, request.limits, request.threads)
    times = _times(artifact, given, request, talk) if request.trace else {}
    tuned = _schedules(told).keys()
    found = [
        _standing(kernel, row, artifact, request, times, kernel.name in tuned)
        for kernel, row in zip(told.kernels, rows, strict=True)
    ]
    return sorted(found, key=lambda s: -s.seconds * s.calls)


def _standing(
    kernel: KernelRecord,
    row: Mapping[str, Any],
    artifact: Artifact,
    request: Request,
    times: Mapping[tuple[str, str], float],
    tuned: bool,
) -> Standing:
    from tilewright.cli.costs import uses_tiles

    least: float = row["bound_seconds"]
    seconds = times.get((kernel.graph, kernel.name))
    tiles = uses_tiles(artifact.manifest)
    return Standing(
        number=0,
        graph=kernel.graph,
        at=row["at"],
        kernel=kernel.name,
        ops=tuple(kernel.ops),
        calls=kernel.calls,
        dtype=kernel.dtype,
        flops=row["flops"],
        bytes=row["bytes"],
        bound=row["bound"],
        least=least,
        peak=request.limits.peak(kernel.dtype, request.threads, tiles=tiles),
        seconds=least if seconds is None else seconds,
        origin="predicted" if seconds is None else "traced",
        tuned=tuned,
    )


def _times(
    artifact: Artifact, given: Mapping[str, int], request: Request, talk: Talk
) -> dict[tuple[str, str], float]:
    """Seconds of a call of each kernel that runs here, by graph and name."""
    from tilewright.cli.bench import traced
    from tilewright.cli.sizes import sizes_of
    from tilewright.dsl.errors import UnsupportedMachine
    from tilewright.runtime import load
    from tilewright.runtime.dim_table import symbol_table

    symbols = symbol_table(artifact.manifest.symbols)
    found: dict[tuple[str, str], float] = {}
    try:
        with load(artifact.folder, request.threads) as model:
            for graph in model.graphs:
                sizes = sizes_of(model.plan(graph), symbols, given)
                told = traced(model, graph, sizes, _WARMUP, _RUNS, talk)
                for kernel in told["kernels"]:
                    whole = kernel["busy_ms"] + kernel["wait_ms"]
                    found[graph, kernel["kernel"]] = whole / kernel["calls"] * 1e-3
    except UnsupportedMachine as reason:
        talk.say(f"it is not run, kernels are predicted: {reason.message}")
    return found


def together(several: Sequence[Sequence[Standing]], ratios: Mapping[str, float]) -> list[Standing]:
    """The kernels of all artifacts, numbered, each by default and tuned where both can be told.

    ratios: the winner's time over the default's, by the short hash of the region. What no artifact
    shows is told by them from the time of the other.
    """
    numbers: dict[tuple[str, str], int] = {}
    found: dict[tuple[int, bool], Standing] = {}
    for standing in (standing for one in several for standing in one):
        number = numbers.setdefault((standing.graph, standing.kernel), len(numbers) + 1)
        known = found.get((number, standing.tuned))
        if known is None or known.origin == "predicted":
            found[number, standing.tuned] = replace(standing, number=number)
    for (number, tuned), standing in list(found.items()):
        ratio = ratios.get(standing.kernel.rpartition("_")[2])
        if ratio is not None and standing.origin == "traced" and (number, not tuned) not in found:
            seconds = standing.seconds / ratio if tuned else standing.seconds * ratio
            found[number, not tuned] = replace(
                standing, seconds=seconds, origin="scaled", tuned=not tuned
            )
    return sorted(found.values(), key=lambda s: (s.number, s.tuned))


def recorded_ratios(
    histories: Sequence[History], targets: Collection[str], tools: str
) -> dict[str, float]:
    """What has won on these targets, by the short hash of the region: its time over the default's.

    Regions with several shape classes are left out: which of them a call takes is known to the
    kernel alone.
    """
    found: dict[str, list[History]] = {}
    for history in histories:
        key = history.key
        if key.kind == "schedule" and key.target in targets and key.tools == tools:
            found.setdefault(key.subject[:SHORT], []).append(history)
    only = {short: same[0] for short, same in found.items() if len(same) == 1}
    return {short: one.ratio for short, one in only.items() if one.winner is not None}
