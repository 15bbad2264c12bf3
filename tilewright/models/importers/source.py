"""Where weights come from: one protocol for every file format.

Parameter paths are Hugging Face names without the prefix of the base model:
`encoder.layer.0.attention.self.query.weight`, `layers.0.self_attn.q_proj.weight`. Matrices stay
[out, in]. A weight is the value that Hugging Face stores: Gemma's norm weights are `w`, applied as
`1 + w`, also where a file keeps `1 + w` itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from tilewright.dsl.errors import MissingWeights, UnexpectedWeights, WeightShapeMismatch
from tilewright.models.config import BertConfig, Gemma3Config, SentenceConfig

MOST_NAMES_SHOWN: Final = 500


class WeightSource(Protocol):
    """Named weights that can be looked at without being read."""

    def names(self) -> Sequence[str]:
        """Parameter paths, in a fixed order."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a weight; raises `MissingWeights` for an unknown name."""
        ...

    def read(self, name: str) -> npt.NDArray[Any]:
        """A weight as a C-contiguous array of float32, bfloat16 or float16.

        The array may be a read-only view of the file. Raises `MissingWeights` for an unknown name
        and `UnsupportedModel` for numbers of another kind.
        """
        ...


@dataclass(frozen=True, slots=True)
class RenamedSource:
    """The weights of `source` under other names; `originals` maps a new name to the old one."""

    source: WeightSource
    originals: Mapping[str, str]

    def names(self) -> Sequence[str]:
        return tuple(self.originals)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.source.shape(self._original(name))

    def read(self, name: str) -> npt.NDArray[Any]:
        return self.source.read(self._original(name))

    def _original(self, name: str) -> str:
        if name not in self.originals:
            raise missing_weight(name)
        return self.originals[name]


@dataclass(frozen=True, slots=True)
class ImportedModel:
    """A model as a file describes it: hyperparameters, weights and, if it has one, a tokenizer.

    `tokenizer_json` gives the text that `tokenizers.Tokenizer.from_str` reads, without padding and
    truncation, which are the caller's. It is a function since a GGUF file holds no such text and
    making it takes seconds.
    """

    config: BertConfig | Gemma3Config
    weights: WeightSource
    tokenizer_json: Callable[[], str] | None = None
    sentence: SentenceConfig | None = None


def check_weights(
    expected: Mapping[str, tuple[int, ...]], source: WeightSource, *, unused: Sequence[str] = ()
) -> None:
    """Demand that `source` holds exactly the expected weights, in the expected shapes.

    Args:
        expected: Shape of every parameter of the model, by path.
        source: Where the weights will be read.
        unused: Names, or prefixes that end in a dot, which the source may hold for other uses of
            the same checkpoint (`pooler.`).

    Raises:
        MissingWeights: The source lacks weights; the message lists all of them.
        UnexpectedWeights: The source holds others; the message lists all of them.
        WeightShapeMismatch: Shapes differ; the message lists all of them.
    """
    held = set(source.names())
    if missing := sorted(expected.keys() - held):
        raise MissingWeights(
            f"{_count(missing)} missing:{_listing(missing)}",
            fix="use the checkpoint that belongs to this configuration",
        )
    extra = sorted(name for name in held - expected.keys() if not _is_unused(name, unused))
    if extra:
        raise UnexpectedWeights(
            f"{_count(extra)} unknown to the model:{_listing(extra)}",
            fix="use the model that this checkpoint was saved from",
        )
    differing = [
        f"{name}: {list(source.shape(name))}, expected {list(shape)}"
        for name, shape in sorted(expected.items())
        if source.shape(name) != tuple(shape)
    ]
    if differing:
        raise WeightShapeMismatch(
            f"{_count(differing)} of another shape:{_listing(differing)}",
            fix="use the checkpoint that belongs to this configuration",
        )


def missing_weight(name: str) -> MissingWeights:
    """The error for a read of a name that a source does not hold."""
    return MissingWeights(f"there is no weight {name!a}", fix="see `names()` for those there are")


def contiguous(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array itself if it is aligned and C-contiguous, else a copy that is."""
    return np.require(array, requirements=["C", "A"])


def _is_unused(name: str, unused: Sequence[str]) -> bool:
    return any(name.startswith(entry) if entry.endswith(".") else name == entry for entry in unused)


def _count(entries: Sequence[str]) -> str:
    return "1 weight" if len(entries) == 1 else f"{len(entries)} weights"


def _listing(entries: Iterable[str]) -> str:
    # Names of a hostile file may hold control characters or be a million; neither reaches the
    # terminal.
    shown = [entry if entry.isprintable() else ascii(entry) for entry in entries]
    lines = [f"\n  {entry[:300]}" for entry in shown[:MOST_NAMES_SHOWN]]
    if len(shown) > MOST_NAMES_SHOWN:
        lines.append(f"\n  ... and {len(shown) - MOST_NAMES_SHOWN} more")
    return "".join(lines)
