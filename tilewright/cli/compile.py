"""`tilewright compile`: a model or a program to an artifact."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tilewright.cli.shell import Json, Traceback
from tilewright.cli.talk import Talk, amount

if TYPE_CHECKING:
    from tilewright.cli.source import ModelSource
    from tilewright.codegen.compiler import Options
    from tilewright.dsl.program import Program
    from tilewright.passes.base import Check
    from tilewright.passes.plan import Plan
    from tilewright.runtime.schema import Manifest

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="file.py:function (which is run: trust it), a model folder, file.gguf or program.tw.",
    ),
]
Target = Annotated[str | None, typer.Option(help="What to compile for: cpu, cpu:generic ...")]
Backend = Annotated[str | None, typer.Option(help="Who makes kernels: tvm or reference.")]
DTypeOption = Annotated[
    Literal["f32", "bf16"] | None, typer.Option(help="Number format of an imported model.")
]
PassesOption = Annotated[str | None, typer.Option(help="Pass list instead of the default one.")]
PlanOption = Annotated[Path | None, typer.Option(help="JSON file: option by choice.")]
CheckOption = Annotated[
    Literal["off", "local", "full"] | None, typer.Option(help="How rewrites are validated.")
]
FallbackOption = Annotated[
    Literal["reference"] | None, typer.Option(help="Who runs what the backend refuses.")
]
ContextOption = Annotated[int | None, typer.Option(help="Positions of an imported model.")]
WeightsOption = Annotated[
    Path | None, typer.Option(help="Safetensors file or folder, for programs with parameters.")
]
StorageOption = Annotated[
    str | None,
    typer.Option(help="Where tuning records are: a file, or postgresql://USER@HOST/NAME."),
]
UntunedOption = Annotated[
    bool, typer.Option("--untuned", help="Take no schedule that ships with the package.")
]
MeshOption = Annotated[
    str | None,
    typer.Option(
        metavar="AXES",
        help="Devices to run on, such as dp=2,tp=4; DIR gets a folder for each rank.",
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        metavar="HINTS",
        help="How values lie on the mesh: a strategy (data, fsdp, megatron, sequence, zero1; "
        "@axis) or hints such as input/x:dp=shard(0).",
    ),
]
Prefer = Annotated[
    str | None,
    typer.Option(
        metavar="memory:PERCENT%",
        help="Of each kernel's records, take the least memory that is at most so much slower.",
    ),
]
Untrusted = Annotated[bool, typer.Option("--untrusted", help="Refuse to run Python files.")]

_MOST_PLAN = 1 << 24


def compile(
    model: ModelArgument,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Where to write.")],
    target: Target = None,
    backend: Backend = None,
    dtype: DTypeOption = None,
    passes: PassesOption = None,
    plan: PlanOption = None,
    check: CheckOption = None,
    fallback: FallbackOption = None,
    context: ContextOption = None,
    weights: WeightsOption = None,
    storage: StorageOption = None,
    tune: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Search schedules first, for so long: 90s, 5m, 1h."),
    ] = None,
    prefer: Prefer = None,
    untuned: UntunedOption = False,
    mesh: MeshOption = None,
    shard: ShardOption = None,
    untrusted: Untrusted = False,
    force: Annotated[
        bool, typer.Option("--force", help="Compile even if nothing changed.")
    ] = False,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Compile a model into an artifact: a folder that runs without the compiler."""
    from tilewright.autotune.winners import with_shipped
    from tilewright.cli.mesh import folders, on_mesh
    from tilewright.cli.source import Request, open_source

    talk = Talk(json)
    start = time.perf_counter()
    slack = _slack(prefer, storage, tune)
    options = compile_options(target, backend, passes, plan, check, fallback)
    source = open_source(Request(model, weights, dtype, context, untrusted), talk.say)
    source, options = on_mesh(source, options, mesh, shard, passes)
    if storage is not None or tune is not None:
        options = _tuned(source.program, options, storage, tune, slack, talk, shipped=not untuned)
    elif not untuned:
        options = with_shipped(options)
    keyed = _keyed(source, options)
    places = folders(source.program, out)
    found = None if force or options.check == "full" else _finished(places, keyed)
    cached = found is not None
    if found is None:
        found = write(source, keyed, out, talk)
    _report(talk, found, out, places, cached, time.perf_counter() - start)


def _finished(places: list[Path], options: Options) -> list[Manifest] | None:
    """The manifests of all ranks, if all were compiled under this key."""
    from tilewright.codegen.key import KEY, finished

    found = [finished(place, options.metadata[KEY]) for place in places]
    whole = [m for rank, m in enumerate(found) if m is not None and m.rank in (None, rank)]
    return whole if len(whole) == len(places) else None


def _slack(prefer: str | None, storage: str | None, tune: str | None) -> float | None:
    """How much slower kernels may be. Raises InvalidPreference and UnsuitableOption."""
    from tilewright.cli.aims import read_slack
    from tilewright.dsl.errors import UnsuitableOption

    if prefer is None:
        return None
    if storage is None and tune is None:
        raise UnsuitableOption(
            "--prefer chooses among records, and there are none",
            fix="add --storage, or leave it out",
        )
    return read_slack(prefer)


def _tuned(
    program: Program,
    options: Options,
    storage: str | None,
    tune: str | None,
    slack: float | None,
    talk: Talk,
    *,
    shipped: bool,
) -> Options:
    """The options with what is on record, after a search where `tune` gives it time."""
    from tilewright.cli.storage import open_records

    records = open_records(storage)
    if tune is not None:
        from tilewright.cli.tuning import tune_kernels

        tune_kernels(program, options, records, tune, talk)
    if slack is None:
        return records.applied(program, options, shipped=shipped)
    from tilewright.autotune.prefer import applied_within

    return applied_within(records, program, options, slack, shipped=shipped)


def compile_options(
    target: str | None,
    backend: str | None,
    passes: str | None,
    plan: Path | None,
    check: Check | None,
    fallback: str | None,
) -> Options:
    """Flags, settings and defaults in one. Raises what reading each of them raises."""
    from tilewright.cli.settings import settings_here
    from tilewright.codegen.compiler import Options, require_backend
    from tilewright.passes.registry import default_pipeline, read_passes
    from tilewright.target.spec import parse_target

    settings = settings_here({"target": target, "backend": backend})
    chosen = settings.backend or "tvm"
    require_backend(chosen)
    return Options(
        parse_target(settings.target),
        backend=chosen,
        plan=_plan(plan),
        check=check or ("full" if settings.check == "full" else "local"),
        pipeline=default_pipeline() if passes is None else read_passes(passes),
        fallback=fallback is not None,
    )


def write(source: ModelSource, options: Options, out: Path, talk: Talk) -> list[Manifest]:
    """Compile, all ranks of a mesh, with a line about what is being done."""
    from dataclasses import replace

    from tilewright.codegen.compiler import compile_program
    from tilewright.codegen.ranks import compile_ranks

    with talk.working(f"compiling {source.program.name} for {options.target}") as step:
        if source.tokenizer is not None:
            step("reading the tokenizer")
            options = replace(options, tokenizer=_checked_tokenizer(source.tokenizer()))
        options = replace(options, progress=step)
        if source.program.mesh.ranks > 1:
            made = compile_ranks(source.program, source.weights, out, options)
        else:
            made = [compile_program(source.program, source.weights, out, options)]
    for entry in made[0].context.choices.unused():
        talk.say(
            f"{entry!r} of the plan names no choice; `tilewright explain` lists those there are"
        )
    return [each.manifest for each in made]


def _checked_tokenizer(text: str) -> str:
    """The tokenizer's text, tried here where it can be tried. Raises MalformedModelFile."""
    from tilewright.dsl.errors import MalformedModelFile, MissingPackage, TokenizerMissing
    from tilewright.runtime.tokenizer import Tokenizer

    try:
        Tokenizer(text)
    except MissingPackage:
        pass
    except TokenizerMissing as error:
        raise MalformedModelFile(
            f"the model's tokenizer cannot be read: {error.__cause__}",
            fix="fetch the model's tokenizer again, or remove it: token ids still work",
        ) from error
    return text


def _keyed(source: ModelSource, options: Options) -> Options:
    """The options with the source's metadata and the key of the compilation in them."""
    from dataclasses import replace

    from tilewright.codegen.key import KEY, compilation_key, file_digest

    told = replace(options, metadata=source.metadata)
    inputs = [(name, file_digest(path)) for name, path in source.files]
    key = compilation_key(source.program, told, inputs)
    return replace(told, metadata={**source.metadata, KEY: key})


def _plan(path: Path | None) -> Plan:
    from tilewright.dsl.errors import PlanError
    from tilewright.passes.plan import Plan

    if path is None:
        return Plan()
    import msgspec

    try:
        with path.open("rb") as file:
            text = file.read(_MOST_PLAN)  # a part of a larger one is no JSON
        return Plan.of(msgspec.json.decode(text, type=dict[str, str]))
    except OSError as error:
        raise PlanError(f"the plan cannot be read: {error.strerror}", where=str(path)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PlanError(
            f"a plan is a JSON object of texts: {error}",
            where=str(path),
            fix='write {"choice": "option"}',
        ) from error


def _report(
    talk: Talk,
    manifests: list[Manifest],
    out: Path,
    places: list[Path],
    cached: bool,
    seconds: float,
) -> None:
    from tilewright.runtime.schema import SpanStep

    manifest = manifests[0]
    kernels = {
        name
        for graph in manifest.graphs
        for step in graph.steps
        if isinstance(step, SpanStep)
        for name in step.kernels
    }
    size = sum(
        (place / name).stat().st_size
        for place, each in zip(places, manifests, strict=True)
        for name in each.files
    )
    graphs = [graph.name for graph in manifest.graphs]
    talk.line(str(out))
    how = "cached" if cached else "compiled"
    talk.say(
        f"{how} in {seconds:.2f} s: graphs {', '.join(graphs)}; {len(kernels)} kernels; "
        f"{amount(size, 'B')}" + (f" for {len(places)} ranks" if len(places) > 1 else "")
    )
    talk.result(
        {
            "artifact": str(out),
            "ranks": len(places),
            "cached": cached,
            "seconds": seconds,
            "graphs": graphs,
            "kernels": len(kernels),
            "bytes": size,
            "key": manifest.metadata["key"],
        }
    )
