"""`tilewright tune`: search schedules and choices of a model by measuring them here."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tilewright.cli.compile import (
    Backend,
    ContextOption,
    DTypeOption,
    ModelArgument,
    PassesOption,
    PlanOption,
    Target,
    Untrusted,
    WeightsOption,
    compile_options,
)
from tilewright.cli.explain import At
from tilewright.cli.shell import Json, Traceback
from tilewright.cli.storage import Storage, open_records
from tilewright.cli.talk import Talk

if TYPE_CHECKING:
    from tilewright.autotune.study import Budget

Effort = Literal["quick", "full"]
Search = Literal["tpe", "cmaes", "gp", "random", "neighbours"]


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
    budget: Annotated[
        str | None, typer.Option(help="Time for all searches together: 90s, 5m, 1h.")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(help="Most candidates of one kernel or choice.")
    ] = None,
    effort: Annotated[
        Effort, typer.Option(help="What --budget and --trials are unless they are given.")
    ] = "quick",
    search: Annotated[Search, typer.Option(help="How candidates are proposed.")] = "tpe",
    storage: Storage = None,
    workers: Annotated[
        int, typer.Option(help="Processes that measure; times are taken one after another.")
    ] = 1,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Run the workers on a Ray cluster.")
    ] = None,
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
    from tilewright.cli.source import Request, open_source
    from tilewright.cli.tuning import (
        TuningRun,
        choice_subjects,
        kernels_of,
        kernels_of_winners,
        report,
        require_tvm,
    )

    talk = Talk(json)
    whole = _budget(effort, budget, trials)
    options = compile_options(target, backend, passes, plan, "off", None)
    require_tvm(options)
    records = open_records(storage)
    records.require_writable()
    program = open_source(Request(model, weights, dtype, context, untrusted), talk.say).program
    choices = [*choice_subjects(program, options, choice or [], graph, at or [])]
    patterns = kernel or ([] if choice else ["*"])
    kernels = kernels_of(program, options, patterns)
    run = TuningRun(records, whole, len(choices) + len(kernels), search)
    try:
        with ExitStack() as stack:
            work = stack.enter_context(
                talk.working(f"tuning {program.name}: {run.searches} searches")
            )
            _start_workers(stack, workers, ray)
            run.search(choices, work)
            if any(row["winner"] is not None for row in run.rows):
                kernels = kernels_of_winners(
                    program, records.applied(program, options), patterns, talk
                )
            run.search(kernels, work)
    except KeyboardInterrupt:  # what is known by then is told all the same
        run.complete = False
        report(run, model, talk)
        raise
    report(run, model, talk)


def _budget(effort: Effort, budget: str | None, trials: int | None) -> Budget:
    """What is given, and the rest by the effort. Raises InvalidBudget."""
    from tilewright.autotune.study import Budget
    from tilewright.cli.tuning import EFFORTS, seconds_of

    usual, seconds = EFFORTS[effort]
    return Budget(
        usual if trials is None else trials, seconds if budget is None else seconds_of(budget)
    )


def _start_workers(stack: ExitStack, workers: int, ray: str | None) -> None:
    """Other processes that run this command too, until the stack ends; a worker starts none."""
    from tilewright.autotune.launch import die_with_parent
    from tilewright.cli.fleet import is_worker, local_workers, ray_workers

    if is_worker():
        die_with_parent()
    elif ray is not None:
        stack.enter_context(ray_workers(ray, workers))
    else:
        stack.enter_context(local_workers(workers - 1))
