"""`tilewright bench`: how long each graph of an artifact takes."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tilewright.cli.explain import At
from tilewright.cli.run import Folder, Threads
from tilewright.cli.shell import Json, Traceback
from tilewright.cli.talk import Talk

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tilewright.runtime import Model, Session
    from tilewright.runtime.schema import GraphPlan
    from tilewright.runtime.timeline import Timeline


MOST_RUNS = 1_000_000
Generate = Annotated[
    list[str] | None,
    typer.Option(metavar="P,O", help="Predict O new tokens after a prompt of P; may be repeated."),
]
Price = Annotated[
    float | None, typer.Option(min=0, help="What an accelerator costs an hour (--generate).")
]
Watts = Annotated[float | None, typer.Option(min=0, help="What it draws (--generate).")]
Accelerators = Annotated[
    int, typer.Option(min=1, help="How many of them the model occupies (--generate).")
]


def bench(
    folder: Folder,
    graph: Annotated[str | None, typer.Option(help="Only this graph.")] = None,
    at: At = None,
    runs: Annotated[int, typer.Option(min=1, max=MOST_RUNS, help="Runs that are timed.")] = 20,
    warmup: Annotated[int, typer.Option(min=0, max=MOST_RUNS, help="Runs before that.")] = 3,
    threads: Threads = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Tell where the time goes, kernel by kernel.")
    ] = False,
    generate: Generate = None,
    price: Price = None,
    watts: Watts = None,
    accelerators: Accelerators = 1,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Time each graph: the median of several runs, and the middle half of them.

    Float inputs are random, integers are all 1: a legal token, index and mask. With --generate,
    tell instead from short runs of a language model how long its generations take.
    """
    from tilewright.cli.settings import threads_here
    from tilewright.cli.sizes import listed, read_sizes, sizes_of
    from tilewright.runtime import load
    from tilewright.runtime.dim_table import symbol_table

    talk = Talk(json)
    _check_options(generate, (graph, at, explain or None), (price, watts))
    rows: list[dict[str, Any]] = []
    with load(folder, threads_here(threads)) as model:
        if generate:
            from tilewright.cli.forecast import forecast

            forecast(model, generate, runs, price, watts, accelerators, talk)
            return
        symbols = symbol_table(model.manifest.symbols)
        given = read_sizes(at or [], symbols)
        for name in model.graphs if graph is None else (graph,):
            sizes = sizes_of(model.plan(name), symbols, given)
            with talk.working(f"timing {name} at {listed(sizes)}"):
                times = _times(model, model.plan(name), sizes, warmup, [None] * runs)
            low, middle, high = _quartiles(times)
            rows.append(
                {"graph": name, "at": sizes, "threads": model.threads, "runs": runs}
                | {"median_ms": middle, "low_ms": low, "high_ms": high, "best_ms": min(times)}
            )
            if explain:
                rows[-1]["breakdown"] = traced(model, name, sizes, warmup, runs, talk)
    cells = [
        (r["graph"], listed(r["at"]), r["threads"], r["median_ms"], r["low_ms"], r["high_ms"])
        for r in rows
    ]
    talk.table("", ("graph", "at", "threads", "median ms", "lower", "upper quartile"), cells)
    if explain:
        from tilewright.cli.breakdown import show

        for row in rows:
            show(row, talk)
    talk.result(rows)


def _check_options(
    generate: Sequence[str] | None, of_graphs: Sequence[object], of_generations: Sequence[object]
) -> None:
    """Raises UnsuitableOption for options of the other kind of measurement."""
    from tilewright.dsl.errors import UnsuitableOption

    if generate and any(option is not None for option in of_graphs):
        raise UnsuitableOption(
            "--generate runs whole generations, not single graphs",
            fix="leave --graph, --at and --explain out",
        )
    if not generate and any(option is not None for option in of_generations):
        raise UnsuitableOption(
            "--price and --watts are for generations", fix="say which, such as --generate 512,128"
        )


def _times(
    model: Model,
    plan: GraphPlan,
    sizes: Mapping[str, int],
    warmup: int,
    timelines: Sequence[Timeline | None],
) -> list[float]:
    """Milliseconds of one timed run for each timeline; every run begins with the same state."""
    inputs = _inputs(model, plan, sizes)
    session = _session(model, plan, sizes)
    times: list[float] = []
    for timeline in [None] * warmup + [*timelines]:
        start = time.perf_counter()
        model.run(plan.name, inputs, session=session, timeline=timeline)
        times.append((time.perf_counter() - start) * 1e3)
        if session is not None:
            _go_back(session, sizes)
    return times[warmup:]


def traced(
    model: Model, graph: str, sizes: Mapping[str, int], warmup: int, runs: int, talk: Talk
) -> dict[str, Any]:
    """Where the time of some runs goes, as `breakdown` tells it."""
    from tilewright.cli.breakdown import breakdown
    from tilewright.cli.costs import kernel_rows, machine_limits, read_explanation
    from tilewright.cli.sizes import listed
    from tilewright.runtime.dim_table import symbol_table
    from tilewright.runtime.timeline import Timeline

    manifest, limits = model.manifest, machine_limits(talk)
    kernels = [k for k in read_explanation(model.artifact).kernels if k.graph == graph]
    symbols = symbol_table(manifest.symbols)
    costs = kernel_rows(kernels, manifest, symbols, sizes, limits, model.threads)
    timelines = [Timeline() for _ in range(runs)]
    plain = [None] * runs
    with talk.working(f"tracing {graph} at {listed(sizes)}"):
        # In turn, so that the machine's drift meets both alike.
        order = [each for pair in zip(timelines, plain, strict=True) for each in pair]
        times = _times(model, model.plan(graph), sizes, warmup, order)
    return breakdown(timelines, times[1::2], {row["name"]: row for row in costs})


def _inputs(model: Model, plan: GraphPlan, sizes: Mapping[str, int]) -> dict[str, Any]:
    import numpy as np

    from tilewright.cli.sizes import shape
    from tilewright.dsl.dtypes import BY_NAME
    from tilewright.runtime.dim_table import symbol_table

    symbols = symbol_table(model.manifest.symbols)
    random = np.random.default_rng(0)
    inputs: dict[str, Any] = {name: sizes[name] for name in plan.bound}
    for port in plan.inputs:
        dtype = BY_NAME[port.dtype]
        dims = shape(port.shape, symbols, sizes)
        drawn = random.standard_normal(dims) if dtype.is_float else np.ones(dims)
        inputs[port.name] = drawn.astype(dtype.numpy)
    return inputs


def _session(model: Model, plan: GraphPlan, sizes: Mapping[str, int]) -> Session | None:
    """State with as many filled positions as the graph is told there are."""
    from tilewright.runtime.session import PAST

    if not plan.states:
        return None
    wanted = {name for state in model.manifest.states for name in _names(state.components)}
    session = model.session(**{name: sizes[name] for name in sizes if name in wanted})
    session.advance(sizes.get(PAST, 0))
    return session


def _names(components: Any) -> set[str]:
    return {text for port in components for text in port.shape}


def _go_back(session: Session, sizes: Mapping[str, int]) -> None:
    from tilewright.runtime.session import PAST

    past = sizes.get(PAST, 0)
    if session.position > past:
        session.rollback(past)


def _quartiles(times: list[float]) -> tuple[float, float, float]:
    if len(times) < 2:
        return times[0], times[0], times[0]
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return low, middle, high
