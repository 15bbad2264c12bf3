"""`tilewright tune`: search schedules and choices of a model by measuring them here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
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
    found = Records(records or default_records())
    found.require_writable()
    program = open_source(Request(model, weights, dtype, context, untrusted), talk.say).program
    choices = [*_choices(program, options, choice or [], graph, at or [])]
    patterns = kernel or ([] if choice else ["*"])
    kernels = _kernels(program, options, patterns)
    run = _Run(found, whole, len(choices) + len(kernels))
    try:
        with talk.working(f"tuning {program.name}: {run.searches} searches") as work:
            run.search(choices, work)
            if any(row["winner"] is not None for row in run.rows):
                kernels = _kernels_of_winners(
                    program, found.applied(program, options), patterns, talk
                )
            run.search(kernels, work)
    except KeyboardInterrupt:  # what is known by then is told all the same
        run.complete = False
        _report(run, model, talk)
        raise
    _report(run, model, talk)


class _Run:
    """One call of the command: what is left of its time, and what was found."""

    def __init__(self, records: Records, budget: Budget, searches: int) -> None:
        self.records, self.budget, self.searches = records, budget, searches
        self.rows: list[Row] = []
        self.complete = True
        self._end = time.perf_counter() + budget.seconds

    def search(self, subjects: Sequence[Subject], work: Callable[[str], None]) -> None:
        """Searches one after another.

        A choice may take all of the time that is left, a kernel twice its equal share (the heaviest
        come first). Raises BaselineFailed where no subject could be measured.
        """
        from tilewright.autotune.study import Budget, search
        from tilewright.dsl.errors import BaselineFailed

        failed: list[BaselineFailed] = []
        for number, subject in enumerate(subjects):
            left = self._end - time.perf_counter()
            if left <= 0:
                self.complete = False
                return
            head = f"{len(self.rows) + 1}/{self.searches} {subject.name} {subject.key.shapes}"
            share = left if subject.key.kind == "plan" else 2 * left / (len(subjects) - number)
            part = Budget(self.budget.trials, min(left, share))
            work(f"{head}: preparing")
            try:
                outcome = search(
                    subject,
                    self.records,
                    part,
                    progress=lambda line, head=head: work(f"{head}: {line}"),
                )
            except BaselineFailed as mistake:
                failed.append(mistake)
                self.rows.append(_failed_row(subject, mistake))
            except KeyboardInterrupt:
                self.rows.append(_interrupted_row(subject, self.records))
                raise
            else:
                self.rows.append(_row(subject, outcome))
                self.complete = self.complete and outcome.complete
        if failed and len(failed) == len(subjects):
            raise failed[-1]


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

    found = [s for pattern in patterns for s in kernel_subjects(program, options, pattern)]
    return list({subject.key: subject for subject in found}.values())


def _kernels_of_winners(
    program: Program, options: Options, patterns: list[str], talk: Talk
) -> list[Subject]:
    """The kernels that there are under the plan that has won; it may have others."""
    from tilewright.dsl.errors import NothingToTune

    try:
        return _kernels(program, options, patterns)
    except NothingToTune as gone:
        talk.say(f"under the plan that has won, {gone.message}")
        return []


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


def _interrupted_row(subject: Subject, records: Records) -> Row:
    from tilewright.autotune.study import Outcome

    winner, ratio = records.winner(subject.key) or (None, 1.0)
    results = records.results(subject.key).values()
    failures = sum(1 for result in results if result.ratio is None)
    return _row(subject, Outcome(winner, ratio, len(results), failures, "interrupted", False))


def _head(subject: Subject) -> Row:
    key = subject.key
    sizes = dict(subject.case.sizes)
    return {"name": subject.name, "kind": key.kind, "shapes": key.shapes, "at": sizes}


def _report(run: _Run, model: str, talk: Talk) -> None:
    rows, path = run.rows, run.records.path
    for row in rows:
        talk.line(f"{row['name']} {row['shapes']}: {_verdict(row)}")
    if not run.complete:
        talk.say("the time was over before all was tried: run it again to go on")
    if any(row["winner"] is not None for row in rows):
        talk.say(f"use it with: tilewright compile {model} --records {path} -o DIR")
    else:
        talk.say(f"nothing beats the default outside the noise; kept in {path}")
    talk.result({"records": str(path), "searched": rows, "complete": run.complete})


def _verdict(row: Row) -> str:
    won = "default" if row["winner"] is None else f"x{row['ratio']:.3f} {row['winner']}"
    tried = "1 trial" if row["trials"] == 1 else f"{row['trials']} trials"
    if row["failures"]:
        tried += f", {row['failures']} failed"
    if row["reason"]:
        tried += f": {str(row['reason'])[:_REASON]}"
    return f"{won} ({tried})"


def default_records() -> Path:
    """Where records are kept if nobody says."""
    from tilewright.settings import cache_folder

    return cache_folder() / "tuning.db"
