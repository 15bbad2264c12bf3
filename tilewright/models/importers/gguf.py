"""Gemma 3 from a GGUF file, its values dequantized as they are read.

llama.cpp's converter stores a norm weight as `1 + w`; here it is `w` again, as Hugging Face has it
and as transformers reads it from the same file. The difference is taken in float32, where it is
exact for every stored value of at least 1/2, so that `1 + w` gives the stored number back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from tilewright.dsl.errors import MalformedModelFile, ModelConfigError, UnsupportedModel
from tilewright.models.config import Gemma3Config, LayerType, layer_types
from tilewright.models.importers.gguf_container import GgufFile, GgufTensor, Value, open_container
from tilewright.models.importers.gguf_tokenizer import tokenizer_json
from tilewright.models.importers.source import ImportedModel, missing_weight

# Dequantized at once: large enough that the calls cost nothing, small enough to stay in cache.
BLOCKS_AT_ONCE: Final = 1 << 13

_STORED: Final[Mapping[GGMLQuantizationType, npt.DTypeLike]] = {
    GGMLQuantizationType.F32: np.dtype("<f4"),
    GGMLQuantizationType.F16: np.dtype("<f2"),
    GGMLQuantizationType.BF16: np.dtype(ml_dtypes.bfloat16),
}
_OUTER: Final = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "output": "lm_head",
}
_IN_LAYER: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_LAYER_NAME: Final = re.compile(r"blk\.(0|[1-9][0-9]{0,3})\.([a-z_]+)\.weight", re.ASCII)


@dataclass(frozen=True, slots=True)
class GgufSource:
    """The weights of a GGUF file; `tensors` maps our parameter paths to entries of its table."""

    container: GgufFile
    tensors: Mapping[str, GgufTensor]

    def names(self) -> Sequence[str]:
        return tuple(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensor(name).shape

    def read(self, name: str) -> npt.NDArray[Any]:
        """The weight as float32, or as stored where that is float16 or bfloat16.

        Raises:
            MissingWeights: There is no such weight.
            MalformedModelFile: A value is not finite.
        """
        tensor = self._tensor(name)
        if tensor.kind in _STORED:
            dtype = np.dtype(_STORED[tensor.kind])
            flat = self.container.file.array(dtype, tensor.bytes // dtype.itemsize, tensor.offset)
            values = np.require(flat, requirements=["A"])
        else:
            values = self._dequantized(tensor)
        if not np.isfinite(values).all():
            raise MalformedModelFile(
                f"the weight {name!a} holds values that are not finite",
                where=str(self.container.file.path),
                fix="fetch the file again",
            )
        if tensor.name.endswith("norm.weight"):
            values = values.astype(np.float32) - np.float32(1)
        return values.reshape(tensor.shape)

    def _dequantized(self, tensor: GgufTensor) -> npt.NDArray[np.float32]:
        block, block_bytes = GGML_QUANT_SIZES[tensor.kind]
        codes = self.container.file.array(np.uint8, tensor.bytes, tensor.offset)
        values = np.empty(tensor.bytes // block_bytes * block, np.float32)
        with np.errstate(all="ignore"):
            for begin in range(0, tensor.bytes // block_bytes, BLOCKS_AT_ONCE):
                part = codes[begin * block_bytes : (begin + BLOCKS_AT_ONCE) * block_bytes]
                decoded = dequantize(part.reshape(1, -1), tensor.kind)
                values[begin * block : begin * block + decoded.size] = decoded.ravel()
        return values

    def _tensor(self, name: str) -> GgufTensor:
        if name not in self.tensors:
            raise missing_weight(name)
        return self.tensors[name]


def open_gguf(path: Path) -> ImportedModel:
    """The model in a GGUF file; weights are dequantized one at a time, when they are read.

    Raises:
        ModelFileNotFound: There is no such plain file.
        MalformedModelFile: It is truncated or corrupted.
        ModelConfigError: Its metadata lacks a key or contradicts itself.
        UnsupportedModel: Its architecture or a number format has no importer.
    """
    container = open_container(path)
    metadata = _Metadata(path, container.metadata)
    architecture = metadata.text("general.architecture")
    if architecture != "gemma3":
        raise UnsupportedModel(
            f"no importer for GGUF models of architecture {architecture[:60]!a}",
            where=str(path),
            fix="known is gemma3",
        )
    _check_kinds(container)
    tensors = {_parameter_path(name): tensor for name, tensor in container.tensors.items()}
    if len(tensors) != len(container.tensors):
        raise MalformedModelFile(
            "two tensors have names of one parameter",
            where=str(path),
            fix="convert the model again with a current converter",
        )
    config = _gemma3_config(metadata, tied="output.weight" not in container.tensors)
    return ImportedModel(
        config=config,
        weights=GgufSource(container, tensors),
        tokenizer_json=lambda: tokenizer_json(path, container.metadata),
    )


@dataclass(frozen=True, slots=True)
class _Metadata:
    path: Path
    values: Mapping[str, Value]

    def text(self, key: str) -> str:
        value = self._required(key)
        if not isinstance(value, str):
            raise self._wrong(key, "a text")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._required(key)
        if not isinstance(value, tuple):
            raise self._wrong(key, "an array of texts")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        value = self._required(key, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._wrong(key, "an integer")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._required(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self._wrong(key, "a number")
        return float(value)

    def _required(self, key: str, default: Value | None = None) -> Value:
        value = self.values.get(key, default)
        if value is None:
            raise ModelConfigError(
                f"the metadata lacks the key `{key}`",
                where=str(self.path),
                fix="convert the model again with a current converter",
            )
        return value

    def _wrong(self, key: str, wanted: str) -> ModelConfigError:
        return ModelConfigError(f"the metadata `{key}` is not {wanted}", where=str(self.path))


def _gemma3_config(metadata: _Metadata, *, tied: bool) -> Gemma3Config:
    values = metadata.values
    heads = metadata.integer("gemma3.attention.head_count")
    hidden_size = metadata.integer("gemma3.embedding_length")
    head_dim = metadata.integer("gemma3.attention.key_length")
    layers = metadata.integer("gemma3.block_count")
    if metadata.integer("gemma3.attention.value_length", head_dim) != head_dim:
        raise UnsupportedModel("keys and values have different widths", where=str(metadata.path))
    eos = values.get("tokenizer.ggml.eos_token_id")
    return Gemma3Config(
        vocab_size=len(metadata.texts("tokenizer.ggml.tokens")),
        hidden_size=hidden_size,
        intermediate_size=metadata.integer("gemma3.feed_forward_length"),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=metadata.integer("gemma3.attention.head_count_kv"),
        head_dim=head_dim,
        max_position_embeddings=metadata.integer("gemma3.context_length"),
        rms_norm_eps=metadata.number("gemma3.attention.layer_norm_rms_epsilon"),
        rope_theta=metadata.number("gemma3.rope.freq_base"),
        rope_local_base_freq=metadata.number("gemma3.rope.freq_base_swa", 10_000.0),
        rope_scaling_factor=_rope_scaling(metadata),
        # The file does not say. llama.cpp tells the 27B model, alone in scaling by the width per
        # head of the residual stream, by its 62 layers.
        query_pre_attn_scalar=float(hidden_size // max(heads, 1) if layers == 62 else head_dim),
        sliding_window=metadata.integer("gemma3.attention.sliding_window"),
        layer_types=_layer_types(metadata, layers),
        attn_logit_softcapping=_optional_number(metadata, "gemma3.attn_logit_softcapping"),
        final_logit_softcapping=_optional_number(metadata, "gemma3.final_logit_softcapping"),
        tie_word_embeddings=tied,
        bos_token_id=_optional_integer(metadata, "tokenizer.ggml.bos_token_id"),
        eos_token_ids=() if eos is None else (metadata.integer("tokenizer.ggml.eos_token_id"),),
        pad_token_id=_optional_integer(metadata, "tokenizer.ggml.padding_token_id"),
    )


def _optional_integer(metadata: _Metadata, key: str) -> int | None:
    return metadata.integer(key) if key in metadata.values else None


def _optional_number(metadata: _Metadata, key: str) -> float | None:
    return metadata.number(key) if key in metadata.values else None


def _rope_scaling(metadata: _Metadata) -> float:
    if "gemma3.rope.scaling.type" not in metadata.values:
        return 1.0
    kind = metadata.text("gemma3.rope.scaling.type")
    if kind == "none":
        return 1.0
    if kind != "linear":
        raise UnsupportedModel(
            f"rope scaling of type {kind[:60]!a} is unknown", where=str(metadata.path)
        )
    return metadata.number("gemma3.rope.scaling.factor")


def _layer_types(metadata: _Metadata, layers: int) -> tuple[LayerType, ...]:
    key = "gemma3.attention.sliding_window_pattern"
    flags = metadata.values.get(key)
    if isinstance(flags, np.ndarray):  # one flag per layer: does it slide?
        return tuple("sliding_attention" if flag else "full_attention" for flag in flags[:layers])
    # llama.cpp's default for this architecture: five sliding layers, then a full one.
    return layer_types(layers, metadata.integer(key, 6))


def _parameter_path(name: str) -> str:
    """Our path of a tensor; a name that is not Gemma's stays, to be reported as unexpected."""
    if match := _LAYER_NAME.fullmatch(name):
        layer, leaf = match.groups()
        return f"layers.{layer}.{_IN_LAYER[leaf]}.weight" if leaf in _IN_LAYER else name
    outer = name.removesuffix(".weight")
    return f"{_OUTER[outer]}.weight" if outer in _OUTER and outer != name else name


def _check_kinds(container: GgufFile) -> None:
    """Refuse number formats that the gguf package names but cannot decode, before any is read."""
    for kind in sorted({tensor.kind for tensor in container.tensors.values()}):
        if kind in _STORED:
            continue
        try:
            dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
        except NotImplementedError as error:
            raise UnsupportedModel(
                f"weights of type {kind.name} cannot be dequantized",
                where=str(container.file.path),
                fix="convert the model to another quantization",
            ) from error
