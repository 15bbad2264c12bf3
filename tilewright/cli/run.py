"""`tilewright run`: an artifact on a prompt, or on arrays."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tilewright.cli.shell import Json, Traceback
from tilewright.cli.talk import Talk

if TYPE_CHECKING:
    from tilewright.runtime import Model
    from tilewright.runtime.sampling import Sampling

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The artifact's folder.")]
Threads = Annotated[int | None, typer.Option(help="How many threads run kernels.")]


def run(
    folder: Folder,
    prompt: Annotated[str | None, typer.Option(help="Text to continue or to embed.")] = None,
    max_tokens: Annotated[int, typer.Option(min=0, help="New tokens at most.")] = 64,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Draw among so many; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Draw among this much probability.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the random draws.")] = 0,
    graph: Annotated[str | None, typer.Option(help="The graph to run on --inputs.")] = None,
    inputs: Annotated[Path | None, typer.Option(help="Arrays by name (.npz).")] = None,
    outputs: Annotated[Path | None, typer.Option(help="Where to write results (.npz).")] = None,
    threads: Threads = None,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Run an artifact: continue or embed a prompt, or run one graph on arrays."""
    from tilewright.cli.settings import threads_here
    from tilewright.dsl.errors import UnsuitableOption
    from tilewright.runtime import load
    from tilewright.runtime.sampling import Sampling

    talk = Talk(json)
    if (prompt is None) == (inputs is None):
        raise typer.BadParameter("give either --prompt or --inputs")
    if inputs is None and (outputs is not None or graph is not None):
        raise typer.BadParameter("--graph and --outputs go with --inputs")
    sampling = Sampling(temperature, top_k, top_p, seed)
    with load(folder, threads_here(threads)) as model:
        kind = model.metadata.get("kind")
        if inputs is not None:
            _arrays(model, graph, inputs, outputs, talk)
        elif prompt is not None and kind == "encoder":
            _embed(model, prompt, talk)
        elif prompt is not None and kind == "causal_lm":
            _continue(model, prompt, max_tokens, sampling, talk)
        else:
            raise UnsuitableOption(
                f"the artifact takes no text: its graphs are {', '.join(model.graphs)}",
                fix="run a graph on arrays: --graph NAME --inputs FILE.npz --outputs FILE.npz",
            )


def _continue(model: Model, prompt: str, most: int, sampling: Sampling, talk: Talk) -> None:
    from tilewright.runtime import LanguageModel

    language = LanguageModel(model)
    ids = language.encode(prompt)
    stream = model.tokenizer().stream()
    pieces: list[str] = []
    times = [time.perf_counter()]

    def show(token: int) -> None:
        times.append(time.perf_counter())
        piece = "" if token in language.eos else stream.step(token)
        pieces.append(piece)
        if not talk.json:
            sys.stdout.write(piece)
            sys.stdout.flush()

    found = language.generate(ids, max_tokens=most, sampling=sampling, on_token=show)
    talk.line("")
    rates = _rates(len(ids), times)
    speeds = {name: f"{value:.1f} tokens/s" for name, value in rates.items()}
    listed = "; ".join(f"{name} {speed}" for name, speed in speeds.items())
    talk.say(f"{len(ids)} + {len(found.tokens)} tokens ({found.reason}); {listed}")
    talk.result(
        {
            "text": "".join(pieces),
            "tokens": list(found.tokens),
            "prompt_tokens": len(ids),
            "reason": found.reason,
            "tokens_per_second": rates,
        }
    )


def _rates(prompt: int, times: list[float]) -> dict[str, float]:
    """Tokens a second up to the first new token, and after it. The clock is not asked twice."""
    rates: dict[str, float] = {}
    if len(times) > 1:
        rates["prefill"] = prompt / max(times[1] - times[0], 1e-9)
    if len(times) > 2:
        rates["decode"] = (len(times) - 2) / max(times[-1] - times[1], 1e-9)
    return rates


def _embed(model: Model, prompt: str, talk: Talk) -> None:
    import numpy as np

    from tilewright.dsl.errors import PromptTooLong

    ids = np.array([model.tokenizer().encode(prompt)], np.int32)
    limit = int(model.metadata.get("context", ids.size))
    if ids.size > limit:
        raise PromptTooLong(
            f"the prompt has {ids.size} tokens, the model takes {limit}", fix="shorten it"
        )
    outputs = model.run("encode", {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    found: list[float] = outputs["embedding"][0].tolist()
    talk.line(" ".join(f"{value:.7g}" for value in found))
    talk.result({"embedding": found, "tokens": ids.size})


def _arrays(
    model: Model, graph: str | None, inputs: Path, outputs: Path | None, talk: Talk
) -> None:
    from tilewright.cli.npz import read_inputs, write_outputs
    from tilewright.dsl.errors import UnknownGraph, UnsuitableOption

    if graph is None:
        if len(model.graphs) != 1:
            raise UnknownGraph(
                "the artifact has several graphs",
                fix=f"say which with --graph: {', '.join(model.graphs)}",
            )
        (graph,) = model.graphs
    if outputs is not None and outputs.exists() and inputs.exists() and outputs.samefile(inputs):
        raise UnsuitableOption(
            "--outputs names the file of --inputs, which would be lost",
            where=str(outputs),
            fix="name another file",
        )
    given = read_inputs(inputs, model, graph)
    session = model.session() if model.plan(graph).states else None
    start = time.perf_counter()
    found = model.run(graph, given, session=session)
    seconds = time.perf_counter() - start
    listed = {name: f"{array.dtype}{list(array.shape)}" for name, array in found.items()}
    if outputs is not None:
        write_outputs(outputs, found)
    else:
        for name, array in found.items():
            talk.line(f"{name} {listed[name]}")
            talk.line(str(array))
    talk.say(f"{graph} in {seconds * 1e3:.3g} ms: {listed}")
    talk.result(
        {
            "graph": graph,
            "seconds": seconds,
            "outputs": {n: {"dtype": str(a.dtype), "shape": a.shape} for n, a in found.items()},
            "file": None if outputs is None else str(outputs),
        }
    )
