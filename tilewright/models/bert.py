"""BERT encoders (Devlin et al., 2018), down to one vector per sentence.

Weights are those of Hugging Face's `BertModel`, stored [out, in]. Norms and embeddings are kept in
f32; matrices and activations are of the dtype that is asked for.
"""

from __future__ import annotations

from tilewright.dsl.builder import graph, param, scope
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import DType, f32, i32
from tilewright.dsl.errors import ModelConfigError
from tilewright.dsl.ops.activation import gelu, gelu_tanh
from tilewright.dsl.ops.attention import attention
from tilewright.dsl.ops.elementwise import equal, maximum, rsqrt, where
from tilewright.dsl.ops.embedding import embedding
from tilewright.dsl.ops.norm import layer_norm
from tilewright.dsl.program import Traced, program
from tilewright.dsl.tensor import Tensor
from tilewright.models.config import BertConfig, SentenceConfig

MAX_BATCH = 1024
_ACTIVATIONS = {"gelu": gelu, "gelu_new": gelu_tanh, "gelu_pytorch_tanh": gelu_tanh}


def bert(config: BertConfig, sentence: SentenceConfig, dtype: DType = f32) -> Traced:
    """The program with one graph, `encode(input_ids, attention_mask) -> embedding`.

    Ids and mask are i32[batch, seq], the embedding is f32[batch, hidden]. Raises ModelConfigError
    for an activation that is not implemented.
    """
    if config.hidden_act not in _ACTIVATIONS:
        raise ModelConfigError(f"BERT with activation {config.hidden_act!r} is not supported")
    longest = min(
        sentence.max_seq_length or config.max_position_embeddings, config.max_position_embeddings
    )
    batch, seq = dim("batch", 1, MAX_BATCH), dim("seq", 1, longest)

    @graph(input_ids=i32[batch, seq], attention_mask=i32[batch, seq])
    def encode(input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        visible = attention_mask > 0
        x = embed(input_ids, config).cast(dtype)
        for layer in range(config.num_hidden_layers):
            with scope("encoder", "layer", layer):
                x = block(x, visible, config)
        return {"embedding": pool(x.cast(f32), visible, sentence)}

    return program("bert", encode)


def embed(ids: Tensor, config: BertConfig) -> Tensor:
    """Word, position and (first) type embeddings, normalised: f32[batch, seq, hidden]."""
    width = config.hidden_size
    with scope("embeddings"):
        words = param("word_embeddings.weight", f32[config.vocab_size, width])
        positions = param("position_embeddings.weight", f32[config.max_position_embeddings, width])
        types = param("token_type_embeddings.weight", f32[config.type_vocab_size, width])
        x = embedding(words, ids) + positions[: ids.shape[1]] + types[0]
        return norm(x, "LayerNorm", config)


def block(x: Tensor, visible: Tensor, config: BertConfig) -> Tensor:
    """One encoder layer, normalised after each residual."""
    width, inner = config.hidden_size, config.intermediate_size
    with scope("attention"):
        mixed = linear(self_attention(x, visible, config), "output.dense", width)
        x = norm(mixed + x, "output.LayerNorm", config)
    hidden = _ACTIVATIONS[config.hidden_act](linear(x, "intermediate.dense", inner))
    return norm(linear(hidden, "output.dense", width) + x, "output.LayerNorm", config)


def self_attention(x: Tensor, visible: Tensor, config: BertConfig) -> Tensor:
    """Attention of all heads over the visible positions: [batch, seq, hidden]."""
    batch, seq, width = x.shape
    heads = (batch, seq, config.num_attention_heads, config.head_dim)
    with scope("self"):
        q, k, v = (
            linear(x, name, config.hidden_size).reshape(*heads)
            for name in ("query", "key", "value")
        )
    out, _ = attention(q, k, v, visible, scale=config.head_dim**-0.5)
    return out.reshape(batch, seq, width)


def pool(x: Tensor, visible: Tensor, sentence: SentenceConfig) -> Tensor:
    """One vector per sentence from the visible positions: [batch, hidden]."""
    batch, seq, _ = x.shape
    seen = visible.reshape(batch, seq, 1)
    match sentence.pooling:
        case "cls":
            pooled = x[:, 0]
        case "max":
            pooled = where(seen, x, float("-inf")).max(1)
        case "mean":
            weight = seen.cast(f32)
            pooled = (x * weight).sum(1) / maximum(weight.sum(1), 1e-9)
    if not sentence.normalize:
        return pooled
    square = (pooled * pooled).sum(-1, keepdims=True)
    return pooled * where(equal(square, 0.0), 0.0, rsqrt(maximum(square, 1e-24)))


def linear(x: Tensor, name: str, width: int) -> Tensor:
    """x @ weight.T + bias, [..., width]."""
    weight = param(f"{name}.weight", x.dtype[width, x.shape[-1]])
    bias = param(f"{name}.bias", x.dtype[width])
    return x @ weight.T + bias


def norm(x: Tensor, name: str, config: BertConfig) -> Tensor:
    """Layer normalisation with f32 parameters."""
    weight = param(f"{name}.weight", f32[config.hidden_size])
    bias = param(f"{name}.bias", f32[config.hidden_size])
    return layer_norm(x.cast(f32), weight, bias, config.layer_norm_eps).cast(x.dtype)
