"""The files that sentence-transformers adds to a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from tilewright.dsl.errors import UnsupportedModel
from tilewright.models.config import Pooling, SentenceConfig
from tilewright.models.importers.mapped import inside
from tilewright.models.importers.records import read_record

_KNOWN_CHAINS: Final = (
    ["Transformer", "Pooling"],
    ["Transformer", "Pooling", "Normalize"],
)
_KNOWN_POOLINGS: Final[dict[str, Pooling]] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
}


class _Module(msgspec.Struct, frozen=True):
    path: str
    type: str


class _Transformer(msgspec.Struct, frozen=True):
    max_seq_length: int | None = None


class _Modes(msgspec.Struct, frozen=True):
    pooling_mode_cls_token: bool = False
    pooling_mode_mean_tokens: bool = False
    pooling_mode_max_tokens: bool = False
    pooling_mode_mean_sqrt_len_tokens: bool = False
    pooling_mode_weightedmean_tokens: bool = False
    pooling_mode_lasttoken: bool = False


def read_sentence_config(folder: Path) -> SentenceConfig | None:
    """How hidden states become one vector per sentence; None where `modules.json` is absent.

    Raises:
        UnsupportedModel: The modules or the pooling are of another kind.
        ModelConfigError: A file lacks a key.
        MalformedModelFile: A file is not JSON.
        ModelFileNotFound: A module's configuration is absent.
        UnsafePath: A module's path leaves the folder.
    """
    path = folder / "modules.json"
    if not path.exists():
        return None
    modules = read_record(inside(folder, path.name), list[_Module])
    kinds = [module.type.rpartition(".")[2] for module in modules]
    if kinds not in _KNOWN_CHAINS:
        raise UnsupportedModel(
            f"the sentence model is a chain of {', '.join(kinds)[:200]!a}",
            where=str(path),
            fix="known is Transformer, Pooling and, if wanted, Normalize",
        )
    return SentenceConfig(
        pooling=_read_pooling(inside(folder, f"{modules[1].path}/config.json")),
        normalize="Normalize" in kinds,
        max_seq_length=_read_limit(folder),
    )


def _read_limit(folder: Path) -> int | None:
    path = folder / "sentence_bert_config.json"
    if not path.exists():
        return None
    return read_record(inside(folder, path.name), _Transformer).max_seq_length


def _read_pooling(path: Path) -> Pooling:
    modes = msgspec.structs.asdict(read_record(path, _Modes))
    chosen = [name for name, on in modes.items() if on]
    if len(chosen) != 1 or chosen[0] not in _KNOWN_POOLINGS:
        raise UnsupportedModel(
            f"the pooling is {' and '.join(chosen) or 'not stated'}",
            where=str(path),
            fix=f"exactly one of {', '.join(_KNOWN_POOLINGS)} can be imported",
        )
    return _KNOWN_POOLINGS[chosen[0]]
