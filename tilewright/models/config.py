"""Hyperparameters of the models, under their Hugging Face names.

A config is a value: frozen, checked once when it is made, and free of any trace of the file it
came from. Importers make them; models read them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from tilewright.dsl.errors import ModelConfigError

LayerType = Literal["sliding_attention", "full_attention"]
Activation = Literal["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu"]
Pooling = Literal["mean", "cls", "max"]

# Far above any model there is, far below what would exhaust memory before a weight is read.
LARGEST_WIDTH: Final = 1 << 20
LARGEST_VOCABULARY: Final = 1 << 24
MOST_LAYERS: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class BertConfig:
    """An encoder of Devlin et al. 2018, as `transformers.BertConfig` describes it.

    Raises:
        ModelConfigError: A value is out of range, or two values contradict each other.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float
    hidden_act: Activation = "gelu"
    pad_token_id: int | None = 0

    def __post_init__(self) -> None:
        _check_range("vocab_size", self.vocab_size, LARGEST_VOCABULARY)
        _check_range("hidden_size", self.hidden_size, LARGEST_WIDTH)
        _check_range("num_hidden_layers", self.num_hidden_layers, MOST_LAYERS)
        _check_range("num_attention_heads", self.num_attention_heads, LARGEST_WIDTH)
        _check_range("intermediate_size", self.intermediate_size, LARGEST_WIDTH)
        _check_range("max_position_embeddings", self.max_position_embeddings, LARGEST_VOCABULARY)
        _check_range("type_vocab_size", self.type_vocab_size, LARGEST_WIDTH)
        _check_positive("layer_norm_eps", self.layer_norm_eps)
        _check_multiple(
            "hidden_size", self.hidden_size, "num_attention_heads", self.num_attention_heads
        )
        _check_token("pad_token_id", self.pad_token_id, self.vocab_size)

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceConfig:
    """How the hidden states of an encoder become one vector per sentence.

    `max_seq_length` is in tokens, special tokens included; longer sentences are cut.
    """

    pooling: Pooling
    normalize: bool
    max_seq_length: int | None = None

    def __post_init__(self) -> None:
        if self.max_seq_length is not None:
            _check_range("max_seq_length", self.max_seq_length, LARGEST_VOCABULARY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemma3Config:
    """A decoder of the Gemma 3 family, as `transformers.Gemma3TextConfig` describes it.

    `layer_types` has one entry per layer. Layers of sliding attention see `sliding_window`
    positions, their own included, and rotate by `rope_local_base_freq`; the others see everything
    and rotate by `rope_theta`, with positions divided by `rope_scaling_factor`. Scores are
    multiplied by `query_pre_attn_scalar ** -0.5`. Norm weights `w` are applied as `1 + w`.

    Raises:
        ModelConfigError: A value is out of range, or two values contradict each other.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    query_pre_attn_scalar: float
    sliding_window: int
    layer_types: tuple[LayerType, ...]
    rope_local_base_freq: float = 10_000.0
    rope_scaling_factor: float = 1.0
    hidden_activation: Activation = "gelu_pytorch_tanh"
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    tie_word_embeddings: bool = True
    bos_token_id: int | None = 2
    eos_token_ids: tuple[int, ...] = (1,)
    pad_token_id: int | None = 0

    def __post_init__(self) -> None:
        _check_decoder_sizes(self)
        _check_range("max_position_embeddings", self.max_position_embeddings, LARGEST_VOCABULARY)
        _check_range("sliding_window", self.sliding_window, LARGEST_VOCABULARY)
        for name in ("rms_norm_eps", "rope_theta", "rope_local_base_freq", "rope_scaling_factor"):
            _check_positive(name, getattr(self, name))
        _check_positive("query_pre_attn_scalar", self.query_pre_attn_scalar)
        for name in ("attn_logit_softcapping", "final_logit_softcapping"):
            if getattr(self, name) is not None:
                _check_positive(name, getattr(self, name))
        _check_decoder_heads(self)
        if len(self.layer_types) != self.num_hidden_layers:
            raise ModelConfigError(
                f"`layer_types` has {len(self.layer_types)} entries for"
                f" {self.num_hidden_layers} layers",
                fix="give one entry per layer",
            )
        for token in (self.bos_token_id, self.pad_token_id, *self.eos_token_ids):
            _check_token("a special token id", token, self.vocab_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaConfig:
    """A decoder of the Llama family (Touvron et al., 2023), as `transformers.LlamaConfig` has it.

    Raises:
        ModelConfigError: A value is out of range, or two values contradict each other.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10_000.0

    def __post_init__(self) -> None:
        _check_decoder_sizes(self)
        for name in ("rms_norm_eps", "rope_theta"):
            _check_positive(name, getattr(self, name))
        _check_decoder_heads(self)


def layer_types(num_hidden_layers: int, sliding_window_pattern: int) -> tuple[LayerType, ...]:
    """One type per layer: every `sliding_window_pattern`-th layer attends to everything.

    Raises:
        ModelConfigError: Either number is out of range.
    """
    _check_range("num_hidden_layers", num_hidden_layers, MOST_LAYERS)
    _check_range("sliding_window_pattern", sliding_window_pattern, LARGEST_VOCABULARY)
    return tuple(
        "full_attention" if (layer + 1) % sliding_window_pattern == 0 else "sliding_attention"
        for layer in range(num_hidden_layers)
    )


def _check_decoder_sizes(config: Gemma3Config | LlamaConfig) -> None:
    _check_range("vocab_size", config.vocab_size, LARGEST_VOCABULARY)
    _check_range("hidden_size", config.hidden_size, LARGEST_WIDTH)
    _check_range("intermediate_size", config.intermediate_size, LARGEST_WIDTH)
    _check_range("num_hidden_layers", config.num_hidden_layers, MOST_LAYERS)
    _check_range("num_attention_heads", config.num_attention_heads, LARGEST_WIDTH)
    _check_range("num_key_value_heads", config.num_key_value_heads, LARGEST_WIDTH)
    _check_range("head_dim", config.head_dim, LARGEST_WIDTH)


def _check_decoder_heads(config: Gemma3Config | LlamaConfig) -> None:
    heads, shared = config.num_attention_heads, config.num_key_value_heads
    _check_multiple("num_attention_heads", heads, "num_key_value_heads", shared)
    _check_multiple("head_dim", config.head_dim, "the two halves that rope rotates", 2)


def _check_range(name: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise ModelConfigError(
            f"`{name}` is {value}, outside 1..{most}", fix="correct the model's configuration"
        )


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ModelConfigError(
            f"`{name}` is {value}, not a positive number", fix="correct the model's configuration"
        )


def _check_multiple(name: str, value: int, divisor_name: str, divisor: int) -> None:
    if value % divisor:
        raise ModelConfigError(
            f"`{name}` = {value} is not a multiple of {divisor_name} = {divisor}",
            fix="correct the model's configuration",
        )


def _check_token(name: str, token: int | None, vocab_size: int) -> None:
    if token is not None and not 0 <= token < vocab_size:
        raise ModelConfigError(
            f"{name} is {token}, outside the vocabulary of {vocab_size} tokens",
            fix="correct the model's configuration",
        )
