"""`tilewright tune`: search schedules and choices of a model by measuring them here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
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
from tilewright.cli.explain import At
from tilewright.cli.shell import Json, Traceback
from tilewright.cli.talk import Talk

if TYPE_CHECKING:
    from tilewright.autotune.records import Records
    from tilewright.autotune.study import Budget, Outcome
    from tilewright.autotune.subjects import Subject
    from tilewright.codegen.compiler import Options
    from tilewright.dsl.errors import BaselineFailed
    from tilewright.dsl.program import Program

Row = dict[str, object]
_REASON = 160


def tune(
    model: ModelArgument,
    kernel: Annotated[
        list[str] | None,
        typer.Option(help="Pattern of kernels to tune; all of them, unless --choice is given."),
    ] = None,
    choice: Annotated[
        list[str] | None, typer.Option(help="Pattern of choices to tune: horizontal_matmul:*")
    ] = None,
    graph: Annotated[
        str | None, typer.Option(help="What choices are timed on: the first graph without state.")
    ] = None,
    at: At = None,
    budget: Annotated[float, typer.Option(help="Seconds for all searches together.")] = 600.0,
    trials: Annotated[int, typer.Option(help="Most candidates of one kernel or choice.")] = 64,
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
    """Measure other schedules of a model's kernels, and record those that are faster here.

    Ctrl-C ends it; what has won until then is recorded.
    """
    from tilewright.autotune.records import Records
    from tilewright.autotune.study import Budget
    from tilewright.cli.source import Request, open_source

    talk = Talk(json)
    whole = Budget(trials, budget)
    options = compile_options(target, backend, passes, plan, "off", None)
    _require_tvm(options)
    found = Records(records or _default_records())
    found.require_writable()
    program = open_source(Request(model, weights, dtype, context, untrusted), talk.say).program
    subjects = [*_choices(program, options, choice or [], graph, at or [])]
    if kernel or not choice:
        subjects += _kernels(program, options, kernel or ["*"])
    rows: list[Row] = []
    complete = False
    try:
        with talk.working(f"tuning {program.name}: {len(subjects)} searches") as work:
            complete = _search_all(subjects, found, whole, rows.append, work)
    finally:  # Ctrl-C: what is known by then is told all the same
        _report(rows, len(subjects), complete, found, model, talk)


def _search_all(
    subjects: list[Subject],
    records: Records,
    budget: Budget,
    keep: Callable[[Row], None],
    work: Callable[[str], None],
) -> bool:
    """Searches one after another; False where time ran out.

    Choices come first and may take all of the time; the heaviest kernels come next, and each may
    take twice its equal share of what is left. Raises BaselineFailed where no subject could be
    measured.
    """
    from tilewright.autotune.study import Budget, search
    from tilewright.dsl.errors import BaselineFailed

    end = time.perf_counter() + budget.seconds
    failed: list[BaselineFailed] = []
    complete = True
    for number, subject in enumerate(subjects):
        left = end - time.perf_counter()
        if left <= 0:
            return False
        head = f"{number + 1}/{len(subjects)} {subject.name} {subject.key.shapes}"
        share = left if subject.key.kind == "plan" else 2 * left / (len(subjects) - number)
        part = Budget(budget.trials, min(left, share))
        work(f"{head}: preparing")
        try:
            outcome = search(
                subject, records, part, progress=lambda line, head=head: work(f"{head}: {line}")
            )
        except BaselineFailed as mistake:
            failed.append(mistake)
            keep(_failed_row(subject, mistake))
        else:
            keep(_row(subject, outcome))
            complete = complete and outcome.complete
    if failed and len(failed) == len(subjects):
        raise failed[-1]
    return complete


def _choices(
    program: Program, options: Options, patterns: list[str], graph: str | None, at: list[str]
) -> Iterator[Subject]:
    from tilewright.autotune.subjects import plan_subject
    from tilewright.cli.sizes import read_sizes
    from tilewright.dsl.errors import UnsuitableOption

    if not patterns and (graph is not None or at):
        raise UnsuitableOption(
            "--graph and --at say what choices are timed on, and there are none",
            fix="add --choice, or leave them out: kernels are timed at sizes of their own",
        )
    given = read_sizes(at, {symbol.name: symbol for symbol in program.symbols})
    timed = next((g for g in program.graphs if not g.by_role("state")), program.graphs[0])
    for pattern in patterns:
        yield plan_subject(program, options, pattern, graph or timed.name, given)


def _kernels(program: Program, options: Options, patterns: list[str]) -> list[Subject]:
    from tilewright.autotune.subjects import kernel_subjects

    found = [s for p in patterns for s in kernel_subjects(program, options, p)]
    return list({subject.key: subject for subject in found}.values())


def _require_tvm(options: Options) -> None:
    from tilewright.dsl.errors import UnsuitableOption

    if options.backend != "tvm":
        raise UnsuitableOption(
            f"the backend {options.backend} leaves nothing open to a tuner", fix="use --backend tvm"
        )


def _row(subject: Subject, outcome: Outcome) -> Row:
    return {
        **_head(subject),
        "winner": None if outcome.winner is None else dict(outcome.winner),
        "ratio": outcome.ratio,
        "trials": outcome.trials,
        "failures": outcome.failures,
        "reason": outcome.reason,
        "complete": outcome.complete,
    }


def _failed_row(subject: Subject, mistake: BaselineFailed) -> Row:
    nothing = {"winner": None, "ratio": 1.0, "trials": 0, "failures": 0, "complete": False}
    return {**_head(subject), **nothing, "reason": mistake.message}


def _head(subject: Subject) -> Row:
    key = subject.key
    sizes = dict(subject.case.sizes)
    return {"name": subject.name, "kind": key.kind, "shapes": key.shapes, "at": sizes}


def _report(
    rows: list[Row], searches: int, complete: bool, records: Records, model: str, talk: Talk
) -> None:
    for row in rows:
        talk.line(f"{row['name']} {row['shapes']}: {_verdict(row)}")
    if not complete:
        talk.say("the time was over before all was tried: run it again to go on")
    if any(row["winner"] is not None for row in rows):
        talk.say(f"use it with: tilewright compile {model} --records {records.path} -o DIR")
    else:
        talk.say(f"nothing beats the default outside the noise; kept in {records.path}")
    talk.result(
        {
            "records": str(records.path),
            "subjects": searches,
            "searched": rows,
            "complete": complete,
        }
    )


def _verdict(row: Row) -> str:
    won = "default" if row["winner"] is None else f"x{row['ratio']:.3f} {row['winner']}"
    tried = "1 trial" if row["trials"] == 1 else f"{row['trials']} trials"
    if row["failures"]:
        tried += f", {row['failures']} failed"
    if row["reason"]:
        tried += f": {str(row['reason'])[:_REASON]}"
    return f"{won} ({tried})"


def _default_records() -> Path:
    from tilewright.settings import cache_folder

    return cache_folder() / "tuning.db"
