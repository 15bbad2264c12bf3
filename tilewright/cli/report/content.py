"""What the page shows, as texts and figures: the template only sets them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tilewright.cli.report.charts import history_chart, importance_chart, parallel_chart
from tilewright.cli.report.drawing import Figure
from tilewright.cli.report.kernels import Compiled, Request, Standing
from tilewright.cli.report.memory_chart import memory_chart
from tilewright.cli.report.roofline import roofline_chart
from tilewright.cli.report.subjects import SHORT, Row, point_words

if TYPE_CHECKING:
    from tilewright.autotune.history import History

Cells = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """A subject: its heading, one line about it, and the numbers and places of its figures."""

    heading: str
    line: str
    charts: tuple[tuple[int, str], ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Block:
    """A kernel: its heading, the schedules that won, and its source files."""

    heading: str
    schedules: tuple[str, ...]
    sources: Mapping[str, str]


@dataclass
class Content:
    """The whole page."""

    records: str
    summary: list[Cells] = field(default_factory=list[Cells])
    sections: list[Section] = field(default_factory=list[Section])
    roofline: int | None = None
    machine: str = ""
    kernels: list[Cells] = field(default_factory=list[Cells])
    blocks: list[Block] = field(default_factory=list[Block])
    notes: list[str] = field(default_factory=list[str])
    figures: list[Figure] = field(default_factory=list[Figure])

    def draw(self, figure: Figure) -> int:
        """Takes a figure in. Returns its number."""
        self.figures.append(figure)
        return len(self.figures) - 1


SUMMARY_HEADS: Cells = (
    "subject", "shape class", "target", "trials", "failures by class", "winner", "gain",
)  # fmt: skip
KERNEL_HEADS: Cells = (
    "", "kernel", "graph", "operations", "calls", "us a call", "GFLOP/s", "GB/s", "of the roof",
    "bound by", "schedule", "time",
)  # fmt: skip


def summary_cells(row: Row) -> Cells:
    """A subject in the table at the top."""
    failures = ", ".join(f"{count} {name}" for name, count in row.failures.items())
    return (
        row.name,
        row.shapes,
        row.target,
        str(row.trials),
        failures or "none",
        "the default" if row.winner is None else point_words(row.winner),
        "" if row.winner is None else f"{row.gain:.2f}x",
    )


def add_subject(content: Content, history: History, row: Row) -> None:
    """The charts of a subject."""
    from tilewright.autotune.importance import LEAST, importances, of_one_space, values
    from tilewright.autotune.pareto import contenders, pareto
    from tilewright.autotune.records import point_text

    shares = importances(history.candidates)
    alike = of_one_space(history.candidates)
    among = values(alike)
    # What matters stands to the left.
    order = [*shares, *(name for name in among if name not in shares)]
    charts = [(content.draw(history_chart(history.candidates)), "" if shares else "wide")]
    if shares:
        charts.append((content.draw(importance_chart(shares)), ""))
    if len(order) > 1:
        spread = {name: among[name] for name in order}
        charts.append((content.draw(parallel_chart(alike, spread)), "wide"))
    results = {point_text(c.point): c.result for c in history.candidates}
    front = pareto(results)
    if len(front) > 1:
        charts.append((content.draw(memory_chart(contenders(results), front)), "wide"))
    note = "" if shares else f"Of fewer than {LEAST} candidates, no importance is told."
    gain = "the default" if row.winner is None else f"{row.gain:.2f}x over the default"
    line = f"{row.trials} trials on {row.target} with {row.tools}; winner: {gain}"
    content.sections.append(Section(f"{row.name}, {row.shapes}", line, tuple(charts), note))


def add_roofline(content: Content, standings: Sequence[Standing], request: Request) -> None:
    """The roofline and the table below it, where there is any kernel."""
    if not standings:
        return
    limits, threads = request.limits, request.threads
    bandwidth = limits.bandwidth(threads)
    content.roofline = content.draw(roofline_chart(standings, bandwidth))
    content.kernels += [_kernel_cells(standing) for standing in standings]
    content.machine = (
        f"Peaks and bandwidth of {threads} threads, {limits.source}. A kernel's time includes its "
        "barrier. Numbers are those of the table and of the kernels below."
    )


def _kernel_cells(standing: Standing) -> Cells:
    """A kernel in the table below the roofline."""
    return (
        str(standing.number),
        standing.kernel,
        f"{standing.graph} at {standing.at}",
        " ".join(standing.ops),
        str(standing.calls),
        f"{standing.seconds * 1e6:,.4g}",
        f"{standing.flops / standing.seconds / 1e9:,.4g}",
        f"{standing.bytes / standing.seconds / 1e9:,.4g}",
        f"{standing.least / standing.seconds:.0%}",
        standing.bound,
        "tuned" if standing.tuned else "default",
        standing.origin,
    )


def blocks(
    compiled: Compiled, standings: Sequence[Standing], histories: Sequence[History]
) -> list[Block]:
    """The kernels of an artifact, as they are numbered in the roofline."""
    numbers: dict[str, int] = {}
    for standing in standings:
        numbers.setdefault(standing.kernel, standing.number)
    found: list[Block] = []
    for name in sorted(compiled.kernels, key=lambda name: numbers.get(name, 0)):
        told = [f"in this artifact: {text}" for text in compiled.schedules.get(name, ())]
        told = told or ["in this artifact: the default"]
        told += _recorded(name, compiled.target, histories)
        number = f"{numbers[name]}: " if name in numbers else ""
        found.append(Block(f"{number}{name}", tuple(told), compiled.sources[name]))
    return found


def _recorded(kernel: str, target: str, histories: Sequence[History]) -> list[str]:
    """What has won for a kernel on a target, in each shape class."""
    found: list[str] = []
    for history in histories:
        key, won = history.key, history.winner
        mine = key.subject[:SHORT] == kernel.rpartition("_")[2] and key.target == target
        if key.kind == "schedule" and mine and won is not None:
            gain = f"{1 / history.ratio:.2f}x over the default"
            found.append(f"on record: {key.shapes}: {point_words(won.point)} ({gain})")
    return found
