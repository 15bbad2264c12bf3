"""`tilewright bench --generate`: how long a language model takes, told from a few short runs."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from tilewright.cli.talk import Talk
from tilewright.dsl.errors import PromptTooLong, UnsuitableOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tilewright.autotune.ideal_runtime import IdealRuntime
    from tilewright.runtime import Model

_ASKED = re.compile(r"([0-9]{1,9}),([0-9]{1,9})", re.ASCII)


def forecast(
    model: Model,
    asked: Sequence[str],
    runs: int,
    price: float | None,
    watts: float | None,
    accelerators: int,
    talk: Talk,
) -> None:
    """Shows seconds, and cost and energy where a price or a power is given, of each generation.

    asked: texts such as `2048,512`, tokens of the prompt and new ones.

    Raises UnsuitableOption, NotALanguageModel, PromptTooLong and TooFewProbes.
    """
    from tilewright.autotune.ideal_runtime import fit, probe, probe_points
    from tilewright.runtime import LanguageModel

    for option, value in (("--price", price), ("--watts", watts)):
        if value is not None and not math.isfinite(value):
            raise UnsuitableOption(f"{option} {value} is no number", fix="give one, such as 2.5")
    language = LanguageModel(model)
    pairs = [_pair(text, language.context) for text in asked]
    longest = max(prompt for prompt, _ in pairs)
    points = probe_points(longest, language.context)
    with talk.working(f"probing {len(points)} short generations") as progress:
        (probes,) = probe([language], points, runs, progress)
    runtime = fit(probes)
    rows = [_row(runtime, *pair, price, watts, accelerators) for pair in pairs]
    _show(runtime, rows, talk)
    talk.result(
        {
            "threads": model.threads,
            "runs": runs,
            "probes": [{"prompt": p.prompt, "output": p.output, "s": p.seconds} for p in probes],
            "prompts": list(runtime.knots),
            "first_token_s": [runtime.seconds(prompt, 1) for prompt in runtime.knots],
            "token_s": runtime.token_seconds,
            "generations": rows,
        }
    )


def _pair(text: str, context: int) -> tuple[int, int]:
    found = _ASKED.fullmatch(text)
    if found is None or 0 in (prompt := int(found[1]), output := int(found[2])):
        raise UnsuitableOption(
            f"--generate {text[:80]!r} names no generation",
            fix="write tokens of the prompt and new ones, such as --generate 2048,512",
        )
    if prompt + output > context:
        raise PromptTooLong(
            f"a prompt of {prompt} tokens and {output} new ones exceed the context of {context}",
            fix="ask for fewer, or compile with a larger --context",
        )
    return prompt, output


def _row(
    runtime: IdealRuntime,
    prompt: int,
    output: int,
    price: float | None,
    watts: float | None,
    accelerators: int,
) -> dict[str, Any]:
    row: dict[str, Any] = {"prompt": prompt, "output": output}
    row["seconds"] = runtime.seconds(prompt, output)
    if price is not None:
        row["cost"] = runtime.cost(prompt, output, price, accelerators)
    if watts is not None:
        row["joules"] = runtime.energy(prompt, output, watts, accelerators)
    return row


def _show(runtime: IdealRuntime, rows: Sequence[dict[str, Any]], talk: Talk) -> None:
    first = ((prompt, runtime.seconds(prompt, 1) * 1e3) for prompt in runtime.knots)
    talk.line(
        "first token after "
        + ", ".join(f"{ms:.3g} ms (prompt of {prompt})" for prompt, ms in first)
        + f"; then one every {runtime.token_seconds * 1e3:.3g} ms"
    )
    heads = [key for key in ("prompt", "output", "seconds", "cost", "joules") if key in rows[0]]
    names = {"output": "new tokens"}
    cells = [[row[key] for key in heads] for row in rows]
    talk.table("Undisturbed generation", [names.get(head, head) for head in heads], cells)
