"""`tilewright tune`: search schedules and choices of a model by measuring them here."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tilewright.cli.compile import (
    Backend,
    ContextOption,
    DTypeOption,
    ModelArgument,
    PassesOption,
    PlanOption,
    RecordsOption,
    Target,
    Untrusted,
    WeightsOption,
    compile_options,
)
from tilewright.cli.shell import Json, Traceback
from tilewright.cli.talk import Talk

if TYPE_CHECKING:
    from tilewright.autotune.study import Outcome
    from tilewright.autotune.subjects import Subject
    from tilewright.codegen.compiler import Options
    from tilewright.dsl.program import Program


def tune(
    model: ModelArgument,
    budget: Annotated[float, typer.Option(help="Seconds for all searches together.")] = 600.0,
    trials: Annotated[int, typer.Option(help="Most candidates of one kernel or choice.")] = 64,
    choice: Annotated[
        str | None, typer.Option(help="Pattern of choices to tune too: horizontal_matmul:*")
    ] = None,
    records: RecordsOption = None,
    target: Target = None,
    backend: Backend = None,
    dtype: DTypeOption = None,
    passes: PassesOption = None,
    plan: PlanOption = None,
    context: ContextOption = None,
    weights: WeightsOption = None,
    untrusted: Untrusted = False,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Measure other schedules of a model's kernels, and record those that are faster here."""
    from tilewright.autotune.records import Records
    from tilewright.autotune.study import Budget, search
    from tilewright.cli.source import Request, open_source

    talk = Talk(json)
    options = compile_options(target, backend, passes, plan, "off", None)
    source = open_source(Request(model, weights, dtype, context, untrusted), talk.say)
    found = Records(records or _default_records())
    subjects = _subjects(source.program, options, choice)
    end = time.perf_counter() + budget
    rows: list[dict[str, object]] = []
    with talk.working(f"tuning {source.program.name}: {len(subjects)} searches") as work:
        for number, subject in enumerate(subjects):
            left = end - time.perf_counter()
            if left <= 0:
                break
            work(f"{number + 1}/{len(subjects)}: {subject.name} {subject.key.shapes}")
            # The heaviest come first; each may take twice its equal share of what is left.
            share = min(left, 2 * left / (len(subjects) - number))
            outcome = search(subject, found, Budget(trials, share))
            rows.append(_row(subject, outcome))
    for row in rows:
        verdict = "default" if row["winner"] is None else f"x{row['ratio']:.3f} {row['winner']}"
        talk.line(f"{row['name']} {row['shapes']}: {verdict} ({row['trials']} trials)")
    talk.say(f"recorded in {found.path}; use it with: tilewright compile --records")
    talk.result({"records": str(found.path), "subjects": len(subjects), "searched": rows})


def _subjects(program: Program, options: Options, choice: str | None) -> list[Subject]:
    from tilewright.autotune.subjects import kernel_subjects, plan_subject, typical_sizes

    kernels = kernel_subjects(program, options)
    if choice is None:
        return kernels
    graph = next((g for g in program.graphs if not g.by_role("state")), program.graphs[0])
    return [plan_subject(program, options, choice, graph.name, typical_sizes(graph)), *kernels]


def _row(subject: Subject, outcome: Outcome) -> dict[str, object]:
    return {
        "name": subject.name,
        "kind": subject.key.kind,
        "shapes": subject.key.shapes,
        "winner": None if outcome.winner is None else dict(outcome.winner),
        "ratio": outcome.ratio,
        "trials": outcome.trials,
        "failures": outcome.failures,
    }


def _default_records() -> Path:
    from tilewright.settings import cache_folder

    return cache_folder() / "tuning.db"
