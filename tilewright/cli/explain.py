"""`tilewright explain`: what the compiler did, what it declined and why, what each kernel costs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tilewright.cli.alike import merged, merged_choices
from tilewright.cli.compile import (
    Backend,
    CheckOption,
    ContextOption,
    DTypeOption,
    FallbackOption,
    MeshOption,
    PassesOption,
    PlanOption,
    ShardOption,
    Target,
    Untrusted,
    UntunedOption,
    WeightsOption,
)
from tilewright.cli.shell import Json, Traceback
from tilewright.cli.talk import Talk, amount

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tilewright.codegen.explanation import DecisionRecord, Explanation

At = Annotated[list[str] | None, typer.Option("--at", help="A size, such as seq=512.")]
_SHOWN = 3


def explain(
    what: Annotated[str, typer.Argument(metavar="DIR|MODEL", help="An artifact, or a model.")],
    rule: Annotated[str | None, typer.Option(help="Only the decisions of this rule.")] = None,
    at: At = None,
    target: Target = None,
    backend: Backend = None,
    dtype: DTypeOption = None,
    passes: PassesOption = None,
    plan: PlanOption = None,
    check: CheckOption = None,
    fallback: FallbackOption = None,
    context: ContextOption = None,
    weights: WeightsOption = None,
    untuned: UntunedOption = False,
    mesh: MeshOption = None,
    shard: ShardOption = None,
    untrusted: Untrusted = False,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Show stages, decisions with their reasons, and kernels against the machine's limits.

    A model is compiled into a temporary folder first.
    """
    from tilewright.dsl.errors import UnsuitableOption
    from tilewright.runtime.artifact import is_artifact

    talk = Talk(json)
    if is_artifact(Path(what)):
        of_models = (target, backend, dtype, passes, plan, check, fallback, context, weights, mesh)
        if untuned or any(option is not None for option in of_models):
            raise UnsuitableOption(
                "this is an artifact: how it was compiled is decided",
                where=what,
                fix="leave the options of `compile` out, or give a model",
            )
        _explain(Path(what), rule, at or [], talk)
        return
    from tilewright.autotune.winners import with_shipped
    from tilewright.cli.compile import compile_options, write
    from tilewright.cli.mesh import folders, on_mesh
    from tilewright.cli.source import Request, open_source

    options = compile_options(target, backend, passes, plan, check, fallback)
    options = options if untuned else with_shipped(options)
    source = open_source(Request(what, weights, dtype, context, untrusted), talk.say)
    source, options = on_mesh(source, options, mesh, shard, passes)
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        out = Path(folder, "artifact")
        write(source, options, out, talk)
        _explain(folders(source.program, out)[0], rule, at or [], talk)


def _explain(folder: Path, rule: str | None, at: Sequence[str], talk: Talk) -> None:
    from tilewright.cli.costs import graph_rows, kernel_rows, machine_limits, read_explanation
    from tilewright.cli.sizes import read_sizes
    from tilewright.hostcpu import usable_threads
    from tilewright.runtime.artifact import open_artifact
    from tilewright.runtime.dim_table import symbol_table

    artifact = open_artifact(folder)
    found = read_explanation(artifact)
    symbols = symbol_table(artifact.manifest.symbols)
    sizes = read_sizes(at, symbols)
    decisions = [d for d in found.decisions if rule in (None, d.rule)]
    limits = machine_limits(talk)
    rows = kernel_rows(found.kernels, artifact.manifest, symbols, sizes, limits, usable_threads())
    totals = graph_rows(found.graphs, artifact.manifest, symbols, sizes, rows)
    _show(found, decisions, rows, rule, talk)
    if rule is None:
        _show_totals(totals, talk)
    talk.result(
        {
            "stages": found.stages,
            "decisions": decisions,
            "choices": found.choices,
            "kernels": rows,
            "graphs": totals,
        }
    )


def _show(
    found: Explanation,
    decisions: Sequence[DecisionRecord],
    rows: Sequence[Mapping[str, Any]],
    rule: str | None,
    talk: Talk,
) -> None:
    if rule is None:
        stages = [(s.name, s.before, s.after, s.claim) for s in found.stages]
        talk.table("Passes", ("pass", "nodes before", "after", "claim"), stages)
    for outcome in ("fired", "refused"):
        these = [d for d in decisions if d.outcome == outcome]
        these = these if rule is not None else merged(these)
        cells = [(d.rule, len(d.places), d.reason, _places(d), _gain(d)) for d in these]
        heads = ("rule", "times", "reason", "where", "saves")
        talk.table(f"Decisions that {outcome}", heads, cells)
    if rule is not None:
        return
    talk.say("* stands for numbers that differ; --rule NAME shows every decision of a rule")
    alike = merged_choices(found.choices)
    if alike:
        cells = [(name, times, c.taken, ", ".join(c.options)) for name, times, c in alike]
        talk.table("Choices", ("choice", "times", "taken", "options"), cells)
    for place in dict.fromkeys((row["graph"], row["at"]) for row in rows):
        these = [r for r in rows if (r["graph"], r["at"]) == place]
        title = f"Kernels of {place[0]} at {place[1]}"
        heads = ("kernel", "calls", "operations", "flops", "bytes", "flops/byte", "bound")
        talk.table(title, heads, [_kernel_cells(row) for row in these])


def _show_totals(totals: Sequence[Mapping[str, Any]], talk: Talk) -> None:
    """A line for each graph; what it holds in memory are its weights, caches and scratch."""
    heads = ("graph", "at", "flops", "bytes", "weights", "cache", "activations", "flops/byte")
    cells = [
        (
            row["graph"],
            row["at"],
            amount(row["flops"], "FLOP"),
            *(amount(row[k], "B") for k in ("bytes", "weights", "cache", "activations")),
            float(row["intensity"]),
            _bound(row),
            " + ".join(amount(size, "B") for size in row["held"].values()),
        )
        for row in totals
    ]
    talk.table(
        "Graphs: one call of each", (*heads, "bound", "held: weights + cache + scratch"), cells
    )


def _bound(row: Mapping[str, Any]) -> str:
    return f"{row['bound']}: {row['bound_seconds'] * 1e6:.3g} us" if "bound" in row else ""


def _kernel_cells(row: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        row["name"],
        row["calls"],
        " ".join(row["ops"]),
        amount(row["flops"], "FLOP"),
        amount(row["bytes"], "B"),
        float(row["intensity"]),
        _bound(row),
    )


def _places(decision: DecisionRecord) -> str:
    more = len(decision.places) - _SHOWN
    shown = ", ".join(decision.places[:_SHOWN])
    return shown if more <= 0 else f"{shown} and {more} more"


def _gain(decision: DecisionRecord) -> str:
    return "" if decision.gain_bytes is None else amount(decision.gain_bytes, "B")
