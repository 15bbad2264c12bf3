"""`tilewright tune`: search schedules and choices of a model by measuring them here."""

from __future__ import annotations

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

Kernels = Annotated[
    list[str] | None,
    typer.Option(help="Pattern of kernels to tune; all of them, unless --choice is given."),
]
ChoicesOption = Annotated[
    list[str] | None, typer.Option(help="Pattern of choices to tune: horizontal_matmul:*")
]
Timed = Annotated[
    str | None, typer.Option(help="What choices are timed on: the first graph without state.")
]
Seconds = Annotated[str | None, typer.Option(help="Time for all searches together: 90s, 5m, 1h.")]
Trials = Annotated[int | None, typer.Option(help="Most candidates of one kernel or choice.")]
Effort = Annotated[
    Literal["quick", "full"],
    typer.Option(help="What --budget and --trials are unless they are given."),
]
Search = Annotated[
    Literal["guided", "tpe", "cmaes", "gp", "random", "neighbours"],
    typer.Option(help="How candidates are proposed."),
]
AimOption = Annotated[
    str, typer.Option(help="What candidates are proposed for: latency, memory, latency,memory.")
]
Workers = Annotated[
    int, typer.Option(help="Processes that measure; times are taken one after another.")
]
Cluster = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="Run the workers on a Ray cluster.")
]


def tune(
    model: ModelArgument,
    kernel: Kernels = None,
    choice: ChoicesOption = None,
    graph: Timed = None,
    at: At = None,
    budget: Seconds = None,
    trials: Trials = None,
    effort: Effort = "quick",
    search: Search = "guided",
    aim: AimOption = "latency",
    storage: Storage = None,
    workers: Workers = 1,
    ray: Cluster = None,
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
    from tilewright.cli import tuning
    from tilewright.cli.aims import read_aims
    from tilewright.cli.fleet import others
    from tilewright.cli.source import Request, open_source

    talk = Talk(json)
    whole, aims = _budget(effort, budget, trials), read_aims(aim)
    options = compile_options(target, backend, passes, plan, "off", None)
    tuning.require_tvm(options)
    records = open_records(storage)
    records.require_writable()
    program = open_source(Request(model, weights, dtype, context, untrusted), talk.say).program
    choices = [*tuning.choice_subjects(program, options, choice or [], graph, at or [])]
    patterns = kernel or ([] if choice else ["*"])
    kernels = tuning.kernels_of(program, options, patterns)
    run = tuning.TuningRun(records, whole, len(choices) + len(kernels), search, aims)
    heading = f"tuning {program.name}: {run.searches} searches"
    try:
        with talk.working(heading) as work, others(workers, ray, whole.seconds):
            run.search(choices, work)
            if run.has_won:
                found = records.applied(program, options)
                kernels = tuning.kernels_of_winners(program, found, patterns, talk)
            run.search(kernels, work)
    except KeyboardInterrupt:  # what is known by then is told all the same
        run.complete = False
        tuning.report(run, model, talk)
        raise
    tuning.report(run, model, talk)


def _budget(effort: str, budget: str | None, trials: int | None) -> Budget:
    """What is given, and the rest by the effort. Raises InvalidBudget."""
    from tilewright.autotune.study import Budget
    from tilewright.cli.tuning import EFFORTS, seconds_of

    usual, seconds = EFFORTS[effort]
    return Budget(
        usual if trials is None else trials, seconds if budget is None else seconds_of(budget)
    )
