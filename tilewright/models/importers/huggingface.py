"""A Hugging Face model folder: `config.json`, safetensors weights, `tokenizer.json`.

Keys that a model needs must be there: a default that belongs to some other checkpoint would be
applied in silence. Keys that nobody reads are ignored, as every version adds some.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from tilewright.dsl.errors import MalformedModelFile, ModelConfigError, UnsupportedModel
from tilewright.models.config import (
    Activation,
    BertConfig,
    Gemma3Config,
    LayerType,
    layer_types,
)
from tilewright.models.importers.mapped import inside
from tilewright.models.importers.records import read_record
from tilewright.models.importers.safetensors import open_safetensors
from tilewright.models.importers.sentence import read_sentence_config
from tilewright.models.importers.source import ImportedModel, RenamedSource, WeightSource

LARGEST_TOKENIZER: Final = 256 << 20

# What a BERT checkpoint holds besides the encoder: heads of other tasks, and a buffer that old
# versions saved. Pass it to `check_weights` as `unused`.
BERT_UNUSED: Final = ("pooler.", "cls.", "classifier.", "qa_outputs.", "embeddings.position_ids")


class _Kind(msgspec.Struct, frozen=True):
    model_type: str


class _Bert(msgspec.Struct, frozen=True):
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float
    hidden_act: Activation
    pad_token_id: int | None = 0
    position_embedding_type: str = "absolute"
    is_decoder: bool = False


class _Rope(msgspec.Struct, frozen=True):
    rope_type: str | None = None
    type: str | None = None
    rope_theta: float | None = None
    factor: float | None = None


class _RopePair(msgspec.Struct, frozen=True):
    full_attention: _Rope
    sliding_attention: _Rope


class _Gemma3(msgspec.Struct, frozen=True):
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    query_pre_attn_scalar: float
    sliding_window: int
    hidden_activation: Activation
    rope_theta: float | None = None
    rope_local_base_freq: float | None = None
    rope_scaling: _Rope | None = None
    rope_parameters: _RopePair | None = None
    layer_types: tuple[LayerType, ...] | None = None
    sliding_window_pattern: int | None = None
    legacy_sliding_window_pattern: int | None = msgspec.field(
        default=None, name="_sliding_window_pattern"
    )
    attention_bias: bool = False
    use_bidirectional_attention: bool | None = None
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    tie_word_embeddings: bool = True
    bos_token_id: int | None = 2
    eos_token_id: int | tuple[int, ...] | None = 1
    pad_token_id: int | None = 0


def open_huggingface(folder: Path) -> ImportedModel:
    """The model of a folder that `save_pretrained` wrote.

    Raises:
        ModelFileNotFound: A file of the model is absent.
        MalformedModelFile: A file is truncated or corrupted.
        ModelConfigError: The configuration lacks a key or contradicts itself.
        UnsupportedModel: No importer knows this kind of model.
        UnsafePath: A name or a symbolic link leads out of the folder.
    """
    config = read_config(folder)
    stored = open_safetensors(folder)
    rename = _bert_path if isinstance(config, BertConfig) else _gemma3_path
    return ImportedModel(
        config=config,
        weights=_renamed(stored, rename, folder),
        tokenizer_json=_tokenizer_reader(folder),
        sentence=read_sentence_config(folder),
    )


def read_config(folder: Path) -> BertConfig | Gemma3Config:
    """The hyperparameters that `config.json` states; errors as in `open_huggingface`."""
    path = inside(folder, "config.json")
    kind = read_record(path, _Kind).model_type
    if kind not in _READERS:
        raise UnsupportedModel(
            f"no importer for models of type {kind[:60]!a}",
            where=str(path),
            fix=f"known types are {', '.join(sorted(_READERS))}",
        )
    return _READERS[kind](path)


def _read_bert(path: Path) -> BertConfig:
    raw = read_record(path, _Bert)
    if raw.position_embedding_type != "absolute" or raw.is_decoder:
        raise UnsupportedModel(
            "only BERT encoders with absolute positions can be imported", where=str(path)
        )
    return BertConfig(
        vocab_size=raw.vocab_size,
        hidden_size=raw.hidden_size,
        num_hidden_layers=raw.num_hidden_layers,
        num_attention_heads=raw.num_attention_heads,
        intermediate_size=raw.intermediate_size,
        max_position_embeddings=raw.max_position_embeddings,
        type_vocab_size=raw.type_vocab_size,
        layer_norm_eps=raw.layer_norm_eps,
        hidden_act=raw.hidden_act,
        pad_token_id=raw.pad_token_id,
    )


def _read_gemma3(path: Path) -> Gemma3Config:
    raw = read_record(path, _Gemma3)
    if raw.attention_bias or raw.use_bidirectional_attention:
        raise UnsupportedModel(
            "Gemma 3 with attention biases or bidirectional attention cannot be imported",
            where=str(path),
        )
    theta, local, factor = _rope(path, raw)
    eos = raw.eos_token_id
    return Gemma3Config(
        vocab_size=raw.vocab_size,
        hidden_size=raw.hidden_size,
        intermediate_size=raw.intermediate_size,
        num_hidden_layers=raw.num_hidden_layers,
        num_attention_heads=raw.num_attention_heads,
        num_key_value_heads=raw.num_key_value_heads,
        head_dim=raw.head_dim,
        max_position_embeddings=raw.max_position_embeddings,
        rms_norm_eps=raw.rms_norm_eps,
        rope_theta=theta,
        rope_local_base_freq=local,
        rope_scaling_factor=factor,
        query_pre_attn_scalar=raw.query_pre_attn_scalar,
        sliding_window=raw.sliding_window,
        layer_types=_layer_types(raw),
        hidden_activation=raw.hidden_activation,
        attn_logit_softcapping=raw.attn_logit_softcapping,
        final_logit_softcapping=raw.final_logit_softcapping,
        tie_word_embeddings=raw.tie_word_embeddings,
        bos_token_id=raw.bos_token_id,
        eos_token_ids=() if eos is None else (eos,) if isinstance(eos, int) else eos,
        pad_token_id=raw.pad_token_id,
    )


def _layer_types(raw: _Gemma3) -> tuple[LayerType, ...]:
    if raw.layer_types is not None:
        return raw.layer_types
    # Transformers' default for files that state nothing: five sliding layers, then a full one.
    stated = (raw.sliding_window_pattern, raw.legacy_sliding_window_pattern, 6)
    return layer_types(raw.num_hidden_layers, next(p for p in stated if p is not None))


def _rope(path: Path, raw: _Gemma3) -> tuple[float, float, float]:
    """Base of full layers, base of sliding layers and scaling factor, from either spelling.

    Flat keys until version 4 of transformers, `rope_parameters` since version 5.
    """
    if raw.rope_parameters is None:
        full, theta, local = raw.rope_scaling, raw.rope_theta, raw.rope_local_base_freq
    else:
        full, sliding = raw.rope_parameters.full_attention, raw.rope_parameters.sliding_attention
        theta, local = full.rope_theta, sliding.rope_theta
        if _rope_type(path, sliding) != "default":
            raise UnsupportedModel("scaled rope in sliding layers is unknown", where=str(path))
    factor = 1.0
    if full is not None and _rope_type(path, full) == "linear":
        factor = _stated(path, "factor", full.factor)
    return (
        _stated(path, "rope_theta", theta),
        _stated(path, "rope_local_base_freq", local),
        factor,
    )


def _rope_type(path: Path, rope: _Rope) -> str:
    kind = rope.rope_type or rope.type or "default"
    if kind not in ("default", "linear"):
        raise UnsupportedModel(
            f"rope scaling of type {kind[:60]!a} is unknown",
            where=str(path),
            fix="known types are default and linear",
        )
    return kind


def _stated(path: Path, key: str, value: float | None) -> float:
    if value is None:
        raise ModelConfigError(
            f"the configuration cannot be used: it lacks the key `{key}`",
            where=str(path),
            fix=f"add `{key}`",
        )
    return value


_READERS: Final[Mapping[str, Callable[[Path], BertConfig | Gemma3Config]]] = {
    "bert": _read_bert,
    "gemma3_text": _read_gemma3,
}


def _bert_path(name: str) -> str:
    # Checkpoints converted from TensorFlow call the two halves of a layer norm gamma and beta.
    name = name.removeprefix("bert.")
    if name.endswith(".LayerNorm.gamma"):
        return name.removesuffix("gamma") + "weight"
    return name.removesuffix("beta") + "bias" if name.endswith(".LayerNorm.beta") else name


def _gemma3_path(name: str) -> str:
    return name.removeprefix("model.")


def _renamed(stored: WeightSource, rename: Callable[[str], str], folder: Path) -> RenamedSource:
    originals: dict[str, str] = {}
    for name in stored.names():
        path = rename(name)
        if path in originals:
            raise MalformedModelFile(
                f"the weights {originals[path]!a} and {name!a} are one parameter",
                where=str(folder),
                fix="remove one of them",
            )
        originals[path] = name
    return RenamedSource(stored, originals)


def _tokenizer_reader(folder: Path) -> Callable[[], str] | None:
    """Reads `tokenizer.json` without its padding and truncation: they serve training batches."""
    if not (folder / "tokenizer.json").exists():
        return None

    def read() -> str:
        path = inside(folder, "tokenizer.json")
        parts = read_record(path, dict[str, Any], LARGEST_TOKENIZER)
        return json.dumps(parts | {"truncation": None, "padding": None}, ensure_ascii=False)

    return read
