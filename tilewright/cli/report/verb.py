"""`tilewright report`: the options, and what goes into the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tilewright.cli.explain import At
from tilewright.cli.run import Threads
from tilewright.cli.shell import Json, Traceback
from tilewright.cli.storage import open_records
from tilewright.cli.talk import Talk

if TYPE_CHECKING:
    from tilewright.autotune.history import History
    from tilewright.cli.report.content import Content
    from tilewright.cli.report.kernels import Standing
    from tilewright.cli.report.subjects import Row
    from tilewright.runtime.artifact import Artifact


def report(
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE.html", help="Where to write.")],
    storage: Annotated[
        str | None, typer.Argument(help="Where tuning records are: a file, or postgresql://...")
    ] = None,
    artifact: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="An artifact whose kernels are shown; twice: with the records and without.",
        ),
    ] = None,
    at: At = None,
    trace: Annotated[
        bool, typer.Option(help="Run the artifacts, to see how long each kernel takes.")
    ] = True,
    threads: Threads = None,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Write what tuning has found as one HTML file, which needs no network.

    Of an artifact, every kernel is put on the roofline of this machine, with source and schedule.
    """
    from tilewright.cli.report.content import Content, add_subject, blocks, summary_cells
    from tilewright.cli.report.kernels import read_compiled
    from tilewright.cli.report.page import render
    from tilewright.cli.report.subjects import short_names, summary
    from tilewright.files import replace_file
    from tilewright.runtime.artifact import open_artifact

    talk = Talk(json)
    _require_suitable(at, artifact)
    found, place = _histories(storage)
    content = Content(place)
    artifacts = [open_artifact(folder) for folder in artifact or []]
    compiled = [read_compiled(one) for one in artifacts]
    standings = _standings(content, artifacts, _Look(at or [], threads, trace, found), talk)
    for one in compiled:
        content.blocks += blocks(one, standings, found)
    names = short_names([name for one in compiled for name in one.kernels])
    rows = [summary(history, names) for history in found]
    for history, row in zip(found, rows, strict=True):
        content.summary.append(summary_cells(row))
        add_subject(content, history, row)
    replace_file(out, render(content), durable=False)
    _tell(out, place, rows, standings, talk)


def _require_suitable(at: list[str] | None, artifact: list[Path] | None) -> None:
    from tilewright.dsl.errors import UnsuitableOption

    if at and not artifact:
        raise UnsuitableOption(
            "--at gives sizes of an artifact, and there is none", fix="add --artifact DIR"
        )


def _histories(storage: str | None) -> tuple[list[History], str]:
    """What is on record, the largest gain first, and where it is.

    There is nothing where the user's own file was never written.
    """
    store = open_records(storage).store
    from tilewright.autotune.history import histories

    if storage is None and not store.exists:
        return [], f"{store.name} (nothing was tuned yet)"
    return sorted(histories(store), key=lambda history: history.ratio), store.name


@dataclass(frozen=True, slots=True)
class _Look:
    """How artifacts are looked at, and beside which records."""

    at: Sequence[str]
    threads: int | None
    trace: bool
    histories: Sequence[History]


def _standings(
    content: Content, artifacts: Sequence[Artifact], look: _Look, talk: Talk
) -> list[Standing]:
    """The kernels of artifacts, put on the roofline of this machine."""
    from tilewright.autotune.records import tools
    from tilewright.cli.costs import machine_limits
    from tilewright.cli.report.content import add_roofline
    from tilewright.cli.report.kernels import (
        Request,
        recorded_ratios,
        standings,
        target_of,
        together,
    )
    from tilewright.cli.settings import threads_here
    from tilewright.hostcpu import usable_threads

    limits = machine_limits(talk) if artifacts else None
    if limits is None:
        if artifacts:
            content.notes.append("The limits of this machine could not be measured: no roofline.")
        return []
    count = threads_here(look.threads) or usable_threads()
    request = Request(look.at, count, look.trace, limits)
    ratios = recorded_ratios(look.histories, {target_of(a) for a in artifacts}, tools())
    found = together([standings(artifact, request, talk) for artifact in artifacts], ratios)
    add_roofline(content, found, request)
    return found


def _tell(
    out: Path, place: str, rows: Sequence[Row], standings: Sequence[Standing], talk: Talk
) -> None:
    """The summary as data."""
    cells = [(r.name, r.shapes, r.trials, sum(r.failures.values()), r.gain) for r in rows]
    talk.table("", ("subject", "shape class", "trials", "failed", "gain"), cells)
    if not rows:
        talk.say("no candidate is on record")
    talk.say(f"written: {out}")
    talk.result(
        {
            "file": str(out),
            "records": place,
            "subjects": [row.data for row in rows],
            "kernels": [asdict(standing) for standing in standings],
        }
    )
