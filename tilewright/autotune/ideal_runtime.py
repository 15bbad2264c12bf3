"""The idealized runtime of a language model: how long it generates where nothing else disturbs it.

    T(p, o) = encode(p) + o * token          p tokens of prompt, o new ones

`encode` is linear between the knots, `token` does not depend on p. Both follow from a few short
runs, of which only the fastest at each (p, o) counts: what disturbs a run makes it slower, never
faster. Long generations are then predicted, and variants of a model compared, without running them.

Source: Narayanan et al., "Cheaply Estimating Inference Efficiency Metrics for Autoregressive
Transformer Models", NeurIPS 2023.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilewright.dsl.errors import PromptTooLong, TooFewProbes
from tilewright.runtime.generate import LanguageModel

_HOUR = 3600.0
_LENGTHS, _STEPS = 5, 32


@dataclass(frozen=True, slots=True)
class Probe:
    """One run: seconds until `output` new tokens after `prompt` tokens were known."""

    prompt: int
    output: int
    seconds: float


@dataclass(frozen=True, slots=True)
class IdealRuntime:
    """The fitted model: seconds to encode a prompt of `knots[i]` tokens, and for each new token."""

    knots: tuple[int, ...]
    encode_seconds: tuple[float, ...]
    token_seconds: float

    def encode(self, prompt: int) -> float:
        """Seconds for a prompt; beyond the last knot the last piece goes on, before the first one
        it takes as long as there.
        """
        weights = _hat(self.knots, prompt)
        return float(weights @ np.asarray(self.encode_seconds))

    def seconds(self, prompt: int, output: int) -> float:
        """Seconds for a prompt and its continuation."""
        return self.encode(prompt) + output * self.token_seconds

    def cost(self, prompt: int, output: int, price_per_hour: float, accelerators: int = 1) -> float:
        """What it costs where each of the accelerators has a price by the hour."""
        return self.seconds(prompt, output) / _HOUR * price_per_hour * accelerators

    def energy(self, prompt: int, output: int, watts: float, accelerators: int = 1) -> float:
        """The joules it takes where each of the accelerators draws so many watts."""
        return self.seconds(prompt, output) * watts * accelerators


def fit(probes: Iterable[Probe], knots: Sequence[int] | None = None) -> IdealRuntime:
    """The runtime whose relative errors at the probed points are least, in the sum of squares.

    knots: prompt lengths between which encoding is linear; by default all that were probed.

    Raises TooFewProbes where the points do not determine it, or more tokens took no longer.
    """
    fastest: dict[tuple[int, int], float] = {}
    for probe in probes:
        point = probe.prompt, probe.output
        fastest[point] = min(probe.seconds, fastest.get(point, probe.seconds))
    at = tuple(sorted({p for p, _ in fastest} if knots is None else set(knots)))
    rows = [[*_hat(at, prompt), output] for prompt, output in fastest] if at else []
    if not rows or np.linalg.matrix_rank(np.asarray(rows)) < len(at) + 1:
        raise TooFewProbes(
            f"{len(fastest)} points do not determine the runtime at {len(at)} prompt lengths",
            fix="probe each of them, and one of them with two numbers of new tokens",
        )
    times = np.asarray([*fastest.values()])
    found = np.linalg.lstsq(np.asarray(rows) / times[:, None], np.ones(len(times)))[0]
    *encode, token = map(float, found)
    if token <= 0:
        raise TooFewProbes(
            "more new tokens took no longer: something disturbed the runs",
            fix="repeat them more often, or on a machine with less to do",
        )
    return IdealRuntime(at, tuple(encode), token)


def probe(
    models: Sequence[LanguageModel],
    points: Sequence[tuple[int, int]],
    repeats: int,
    progress: Callable[[str], None] = lambda step: None,
) -> list[list[Probe]]:
    """The probes of each model at these points: tokens of the prompt, and new ones (at least 1).

    Every model generates from every prompt length in turn, `repeats` times and once before for
    nothing: what disturbs one disturbs all. Of each step of a generation the fastest counts, since
    a long run has no quiet moment as a whole. Raises PromptTooLong for a point beyond a context.
    """
    most, context = max(p + o for p, o in points), min(model.context for model in models)
    if most > context:
        raise PromptTooLong(
            f"a probe of {most} tokens in all exceeds the context of {context}",
            fix="probe fewer tokens, or compile with a larger --context",
        )
    longest = {prompt: max(o for p, o in points if p == prompt) for prompt, _ in points}
    steps: dict[tuple[int, int], NDArray[np.float64]] = {}
    for turn in range(repeats + 1):
        progress(f"round {turn} of {repeats}")
        for index, model in enumerate(models):
            for prompt, count in longest.items():
                taken = _step_times(model, prompt, count)
                if turn:
                    steps[index, prompt] = np.minimum(taken, steps.get((index, prompt), taken))
    return [
        [Probe(p, o, float(steps[index, p][:o].sum())) for p, o in points]
        for index in range(len(models))
    ]


def probe_points(longest: int, context: int) -> list[tuple[int, int]]:
    """Up to ten points that tell generations after prompts of up to so many tokens.

    Up to five lengths, each half of the next, and one token; each with one new token and, where the
    context has room, with as many more as 32 steps of decoding give.
    """
    halves = {max(longest >> shift, 1) for shift in range(_LENGTHS - 1)}
    outputs = 1, min(1 + _STEPS, max(context - longest, 2))
    points = [(prompt, output) for prompt in sorted(halves | {1}) for output in outputs]
    return [(prompt, output) for prompt, output in points if prompt + output <= context]


def _step_times(model: LanguageModel, prompt: int, count: int) -> NDArray[np.float64]:
    """Seconds until the first new token was known, and from each to the next; what the tokens are
    does not matter.
    """
    session, clock = model.model.session(), [time.perf_counter()]
    model.generate(
        [1] * prompt,
        max_tokens=count,
        stop=(),
        on_token=lambda token: clock.append(time.perf_counter()),
        session=session,
    )
    return np.diff(clock)


def _hat(knots: Sequence[int], prompt: int) -> NDArray[np.float64]:
    """How much the value at each knot counts at a prompt length."""
    weights = np.zeros(len(knots))
    if prompt <= knots[0] or len(knots) == 1:
        weights[0] = 1.0
        return weights
    right = min(int(np.searchsorted(knots, prompt)), len(knots) - 1)
    left = right - 1
    share = (prompt - knots[left]) / (knots[right] - knots[left])
    weights[left], weights[right] = 1.0 - share, share
    return weights
