"""Choosing the next token from logits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilewright.dsl.errors import InvalidLogits, InvalidSampling
from tilewright.runtime.buffers import Array


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. The default is greedy: the likeliest, the lowest id of equals.

    temperature: logits are divided by it; 0 is greedy.
    top_k: only the k likeliest remain; 0 for all.
    top_p: of these only the fewest that together have at least this probability (Holtzman et al.,
        2020), after the temperature; 1 for all.
    seed: equal seeds give equal tokens.

    Raises InvalidSampling.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InvalidSampling(
                f"the temperature is {self.temperature}", fix="use 0 (greedy) or a positive number"
            )
        if self.top_k < 0:
            raise InvalidSampling(f"top-k is {self.top_k}", fix="use 0 (all) or a positive count")
        if not 0 < self.top_p <= 1:
            raise InvalidSampling(f"top-p is {self.top_p}", fix="use a number above 0, at most 1")
        if self.seed < 0:
            raise InvalidSampling(
                f"the seed is {self.seed}", fix="use a number that is not negative"
            )


class Sampler:
    """Draws tokens one after another from a seeded stream."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._random = np.random.Generator(np.random.PCG64(sampling.seed))

    def pick(self, logits: Array) -> int:
        """A token id for logits [vocabulary].

        Raises InvalidLogits where one is NaN or none is finite.
        """
        best = int(np.argmax(logits))  # the first NaN, if there is one
        top = float(logits[best])
        if not math.isfinite(top):
            raise InvalidLogits(
                f"the model returned {top} as its largest logit",
                fix="compile in float32, or check the weights",
            )
        if self.sampling.temperature == 0:
            return best
        ids, weights = _remaining(logits, top, self.sampling)
        cumulated = np.cumsum(weights)
        drawn = self._random.random() * float(cumulated[-1])
        return int(ids[min(int(np.searchsorted(cumulated, drawn, side="right")), len(ids) - 1)])


def _remaining(
    logits: Array, top: float, sampling: Sampling
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The ids that may be drawn and their weights; the likeliest first where some are left out."""
    ids = np.arange(logits.size)
    if 0 < sampling.top_k < logits.size:
        rest = logits.size - sampling.top_k
        sorted_enough: Array = np.partition(logits, rest)
        least = float(sorted_enough[rest])
        ids = np.flatnonzero(logits >= least)
        ids = ids[np.argsort(-logits[ids].astype(np.float64), kind="stable")][: sampling.top_k]
    with np.errstate(over="ignore"):  # what a tiny temperature makes infinite has no weight
        distances = (logits[ids].astype(np.float64) - top) / sampling.temperature
    weights: NDArray[np.float64] = np.exp(distances)
    if sampling.top_p == 1:
        return ids, weights
    total = float(weights.sum())
    # What is less likely than this has, all together, less than the probability to be left out.
    few = weights >= (1 - sampling.top_p) * total / weights.size
    ids, weights = ids[few], weights[few]
    order = np.argsort(-weights, kind="stable")
    ids, weights = ids[order], weights[order]
    count = int(np.searchsorted(np.cumsum(weights), sampling.top_p * total)) + 1
    return ids[:count], weights[:count]
