"""Text generation: a loop over the graphs `prefill` and `decode` of a language model.

A language model is a program with the graphs

    prefill(tokens i32[1, seq], past) -> logits f32[1, vocabulary]      of the last position
    decode(tokens i32[1, 1], past) -> logits f32[1, vocabulary]

over caches, and with the metadata `kind` ("causal_lm"), `context` (positions), `eos` (ids with
commas between) and `bos` (an id, where texts begin with one).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from tilewright.dsl.errors import InvalidPrompt, NotALanguageModel, PromptTooLong
from tilewright.runtime.buffers import Array
from tilewright.runtime.model import Model
from tilewright.runtime.sampling import Sampler, Sampling
from tilewright.runtime.session import TOKENS, Session

KIND: Final = "causal_lm"
LOGITS: Final = "logits"

StopReason = Literal["stop", "length", "context"]


@dataclass(frozen=True, slots=True)
class Generated:
    """New tokens (the stop token, if one came, is the last) and why there are no more.

    `stop`: a stop token came; `length`: as many as were asked for; `context`: no room for more.
    """

    tokens: tuple[int, ...]
    reason: StopReason


class LanguageModel:
    """A model with the graphs and metadata of a language model.

    Raises NotALanguageModel.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        meta = model.metadata
        graphs = {"prefill", "decode"} <= set(model.graphs)
        if meta.get("kind") != KIND or not graphs:
            raise NotALanguageModel(
                f"the artifact is no language model: it has the graphs {', '.join(model.graphs)}",
                fix="call model.run with a graph and its inputs",
            )
        try:
            self.context = int(meta["context"])
            self.eos = frozenset(int(t) for t in meta.get("eos", "").split(",") if t)
            self.bos = int(meta["bos"]) if meta.get("bos") else None
        except (KeyError, ValueError) as error:
            raise NotALanguageModel(
                f"the artifact's metadata for generation are incomplete: {error}",
                fix="compile the model again",
            ) from error
        self._chunk = self._longest_prefill()

    def encode(self, text: str) -> list[int]:
        """The ids of a prompt; it begins as the model's texts do."""
        ids = self.model.tokenizer().encode(text)
        return ids if self.bos is None or ids[:1] == [self.bos] else [self.bos, *ids]

    def prefill(self, session: Session, tokens: Sequence[int]) -> Array:
        """Logits [vocabulary] after the last token, all of them being appended to the session.

        Raises InvalidPrompt for no tokens or negative ones, PromptTooLong where they do not fit.
        """
        ids = _token_array(tokens)
        room = self.context - session.position
        if ids.size > room:
            raise PromptTooLong(
                f"the prompt has {ids.size} tokens, the context has room for {room}",
                fix="shorten it, or compile with a larger --context",
            )
        logits: Array | None = None
        for start in range(0, ids.size, self._chunk):
            part = ids[None, start : start + self._chunk]
            logits = session.run("prefill", {TOKENS: part})[LOGITS]
        assert logits is not None
        return logits[0]

    def decode(self, session: Session, token: int) -> Array:
        """Logits [vocabulary] after one more token. Raises as `prefill`."""
        if session.position >= self.context:
            raise PromptTooLong(f"the context of {self.context} positions is full")
        return session.run("decode", {TOKENS: _token_array([token])[None]})[LOGITS][0]

    def generate(
        self,
        prompt: Sequence[int],
        *,
        max_tokens: int,
        sampling: Sampling | None = None,
        stop: Collection[int] | None = None,
        on_token: Callable[[int], None] | None = None,
        session: Session | None = None,
    ) -> Generated:
        """Continue a prompt of token ids by up to `max_tokens`.

        stop: ids that end the text, by default the model's `eos`.
        on_token: called with each new token as soon as it is known.
        session: state to go on from, which then holds the prompt and all new tokens but the last.

        Raises InvalidPrompt, PromptTooLong and InvalidLogits.
        """
        session = self.model.session() if session is None else session
        sampler = Sampler(Sampling() if sampling is None else sampling)
        ends = self.eos if stop is None else frozenset(stop)
        found: list[int] = []
        logits = self.prefill(session, prompt)
        while len(found) < max_tokens:
            found.append(sampler.pick(logits))
            if on_token is not None:
                on_token(found[-1])
            if found[-1] in ends:
                return Generated(tuple(found), "stop")
            if session.position >= self.context:
                return Generated(tuple(found), "context")
            if len(found) < max_tokens:
                logits = self.decode(session, found[-1])
        return Generated(tuple(found), "length")

    def _longest_prefill(self) -> int:
        """How many tokens one call of `prefill` takes."""
        tokens = next((p for p in self.model.plan("prefill").inputs if p.name == TOKENS), None)
        if tokens is None or len(tokens.shape) != 2:
            raise NotALanguageModel(f"prefill has no input {TOKENS}[1, seq]")
        ranges = {record.name: record.hi for record in self.model.manifest.symbols}
        return ranges.get(tokens.shape[1], self.context)


def _token_array(tokens: Sequence[int]) -> Array:
    ids = np.asarray(tokens)
    if ids.ndim != 1 or ids.size == 0 or ids.dtype.kind not in "iu":
        raise InvalidPrompt("a prompt is one or more token ids", fix="give at least one token")
    if int(ids.min()) < 0 or int(ids.max()) >= 1 << 31:
        raise InvalidPrompt(
            "a token id is out of range", fix="use ids of the model's own tokenizer"
        )
    return ids.astype(np.int32)
