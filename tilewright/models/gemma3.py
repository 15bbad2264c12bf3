"""Gemma 3 decoders (Gemma Team, 2025): sandwich norms, local and global layers, one table for both
embedding and logits.

Weights are those of Hugging Face's `Gemma3TextModel`, stored [out, in]; norm weights act as `1 + w`
and stay f32. Two graphs share parameters and caches: `prefill` takes any number of tokens, `decode`
one.
"""

from __future__ import annotations

from tilewright.dsl.builder import graph, param, scope, state
from tilewright.dsl.dims import Dim, DimExpr, dim
from tilewright.dsl.dtypes import DType, bf16, f32, i32
from tilewright.dsl.errors import ModelConfigError
from tilewright.dsl.mask import causal, window
from tilewright.dsl.ops.activation import gated_mlp
from tilewright.dsl.ops.attention import attention
from tilewright.dsl.ops.create import iota
from tilewright.dsl.ops.elementwise import tanh
from tilewright.dsl.ops.embedding import embedding
from tilewright.dsl.ops.matmul import matmul
from tilewright.dsl.ops.norm import rms_norm
from tilewright.dsl.ops.rope import rope
from tilewright.dsl.program import Traced, program
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.types import CacheType
from tilewright.models.config import Gemma3Config

_ACTIVATIONS = {
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu": "gelu",
    "silu": "silu",
}


def gemma3(config: Gemma3Config, context: int = 2048, dtype: DType = bf16) -> Traced:
    """The program `prefill(tokens i32[1, seq], past)`, `decode(tokens i32[1, 1], past)` -> logits.

    `past` counts the positions that the caches hold already; logits are f32[1, vocabulary], of the
    last position. `score(tokens)` gives the logits of every position, without caches. Raises
    ModelConfigError for an activation that is not implemented.
    """
    if config.hidden_activation not in _ACTIVATIONS:
        raise ModelConfigError(f"Gemma with {config.hidden_activation!r} is not supported")
    past, seq = dim("past", 0, context - 1), dim("seq", 1, context)

    @graph(tokens=i32[1, seq], past=past)
    def prefill(tokens: Tensor, past: DimExpr) -> dict[str, Tensor]:
        x = backbone(tokens, past, config, context, dtype)
        return {"logits": head(x[:, -1], config)}

    @graph(tokens=i32[1, 1], past=past)
    def decode(tokens: Tensor, past: DimExpr) -> dict[str, Tensor]:
        x = backbone(tokens, past, config, context, dtype)
        return {"logits": head(x[:, -1], config)}

    return program("gemma3", prefill, decode)


def backbone(tokens: Tensor, past: Dim, config: Gemma3Config, context: int, dtype: DType) -> Tensor:
    """All layers over new tokens, after the cached positions: [1, seq, hidden]."""
    positions = iota((tokens.shape[1],), start=past, dtype=i32)
    table = embedding_table(config, dtype)
    x = embedding(table, tokens) * embedding_scale(config, dtype)
    for layer in range(config.num_hidden_layers):
        with scope("layers", layer):
            x = block(x, positions, past, layer, config, context)
    return norm(x, "norm", config)


def block(
    x: Tensor, positions: Tensor, past: Dim, layer: int, config: Gemma3Config, context: int
) -> Tensor:
    """Attention and MLP, each normalised before and after: [1, seq, hidden]."""
    mixed = self_attention(
        norm(x, "input_layernorm", config), positions, past, layer, config, context
    )
    x = x + norm(mixed, "post_attention_layernorm", config)
    hidden = mlp(norm(x, "pre_feedforward_layernorm", config), config)
    return x + norm(hidden, "post_feedforward_layernorm", config)


def self_attention(
    x: Tensor, positions: Tensor, past: Dim, layer: int, config: Gemma3Config, context: int
) -> Tensor:
    """Grouped-query attention over the cache, with normalised and rotated queries and keys."""
    batch, seq, _ = x.shape
    heads, groups, size = (
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
    )
    local = config.layer_types[layer] == "sliding_attention"
    cache_type = CacheType(
        batch, context, groups, size, x.dtype, window=config.sliding_window if local else None
    )
    with scope("self_attn"):
        cache = state("cache", cache_type)
        q = linear(x, "q_proj", heads * size).reshape(batch, seq, heads, size)
        k = linear(x, "k_proj", groups * size).reshape(batch, seq, groups, size)
        v = linear(x, "v_proj", groups * size).reshape(batch, seq, groups, size)
        q, k = (
            rotate(norm(part, name, config), positions, local, config)
            for part, name in ((q, "q_norm"), (k, "k_norm"))
        )
        keys, values = cache.append(k, v, at=past).view(past + seq)
        mask = causal() & window(config.sliding_window) if local else causal()
        out, _ = attention(
            q,
            keys,
            values,
            mask=mask,
            scale=config.query_pre_attn_scalar**-0.5,
            softcap=config.attn_logit_softcapping,
        )
        return linear(out.reshape(batch, seq, heads * size), "o_proj", config.hidden_size)


def rotate(x: Tensor, positions: Tensor, local: bool, config: Gemma3Config) -> Tensor:
    """Rotary embedding with the base of the layer's kind."""
    if local:
        return rope(x, positions, theta=config.rope_local_base_freq)
    return rope(x, positions, theta=config.rope_theta, scaling=config.rope_scaling_factor)


def mlp(x: Tensor, config: Gemma3Config) -> Tensor:
    """The gated MLP: [1, seq, hidden]."""
    width, inner = config.hidden_size, config.intermediate_size
    with scope("mlp"):
        gate = param("gate_proj.weight", x.dtype[inner, width])
        up = param("up_proj.weight", x.dtype[inner, width])
        down = param("down_proj.weight", x.dtype[width, inner])
    activation = _ACTIVATIONS[config.hidden_activation]
    return gated_mlp(x, gate, up, down, activation=activation)


def head(x: Tensor, config: Gemma3Config) -> Tensor:
    """Logits of x [1, hidden] in f32: [1, vocabulary]."""
    shape = (config.vocab_size, config.hidden_size)
    table = (
        embedding_table(config, x.dtype)
        if config.tie_word_embeddings
        else param("lm_head.weight", x.dtype[shape])
    )
    logits = matmul(x, table, transpose_b=True, out_dtype=f32)
    cap = config.final_logit_softcapping
    return logits if cap is None else tanh(logits / cap) * cap


def embedding_table(config: Gemma3Config, dtype: DType) -> Tensor:
    """The table of token embeddings: [vocabulary, hidden]."""
    return param("embed_tokens.weight", dtype[config.vocab_size, config.hidden_size])


def embedding_scale(config: Gemma3Config, dtype: DType) -> float:
    """sqrt(hidden), rounded to the format of the activations as the reference rounds it."""
    return float(dtype.numpy.type(config.hidden_size**0.5))


def linear(x: Tensor, name: str, width: int) -> Tensor:
    """x @ weight.T, [..., width]."""
    return x @ param(f"{name}.weight", x.dtype[width, x.shape[-1]]).T


def norm(x: Tensor, name: str, config: Gemma3Config) -> Tensor:
    """Root-mean-square norm by `1 + w`, computed in f32."""
    weight = param(f"{name}.weight", f32[x.shape[-1]])
    return rms_norm(x.cast(f32), weight, config.rms_norm_eps, offset=1.0).cast(x.dtype)
