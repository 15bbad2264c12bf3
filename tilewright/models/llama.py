"""Llama decoders (Touvron et al., 2023) without caches, for programs over a mesh.

Weights are those of Hugging Face's `LlamaForCausalLM`, stored [out, in].
"""

from __future__ import annotations

from tilewright.dsl.builder import graph, param, scope
from tilewright.dsl.dims import Dim
from tilewright.dsl.dtypes import DType, f32, i32
from tilewright.dsl.mask import causal
from tilewright.dsl.ops.activation import gated_mlp
from tilewright.dsl.ops.attention import attention
from tilewright.dsl.ops.create import iota
from tilewright.dsl.ops.embedding import embedding
from tilewright.dsl.ops.matmul import matmul
from tilewright.dsl.ops.norm import rms_norm
from tilewright.dsl.ops.rope import rope
from tilewright.dsl.placement import Mesh
from tilewright.dsl.program import Traced, program
from tilewright.dsl.tensor import Tensor
from tilewright.models.config import LlamaConfig


def llama(
    config: LlamaConfig, batch: Dim, seq: Dim, dtype: DType = f32, mesh: Mesh | None = None
) -> Traced:
    """The program `score(tokens i32[batch, seq])` -> logits f32[batch, seq, vocabulary]."""

    @graph(tokens=i32[batch, seq])
    def score(tokens: Tensor) -> dict[str, Tensor]:
        x = embedding(_weight("embed_tokens", config.vocab_size, config.hidden_size, dtype), tokens)
        positions = iota((seq,), dtype=i32)
        for layer in range(config.num_hidden_layers):
            with scope("layers", layer):
                x = block(x, positions, config)
        head = _weight("lm_head", config.vocab_size, config.hidden_size, dtype)
        return {"logits": matmul(_norm(x, "norm", config), head, transpose_b=True, out_dtype=f32)}

    return program("llama", score, mesh=mesh)


def block(x: Tensor, positions: Tensor, config: LlamaConfig) -> Tensor:
    """Attention and MLP, each behind a norm and beside a residual: [batch, seq, hidden]."""
    x = x + _self_attention(_norm(x, "input_layernorm", config), positions, config)
    return x + _mlp(_norm(x, "post_attention_layernorm", config), config)


def _self_attention(x: Tensor, positions: Tensor, config: LlamaConfig) -> Tensor:
    batch, seq, _ = x.shape
    heads, groups, size = (
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
    )
    with scope("self_attn"):
        q = _linear(x, "q_proj", heads * size).reshape(batch, seq, heads, size)
        k = _linear(x, "k_proj", groups * size).reshape(batch, seq, groups, size)
        v = _linear(x, "v_proj", groups * size).reshape(batch, seq, groups, size)
        q, k = (rope(part, positions, theta=config.rope_theta) for part in (q, k))
        out, _ = attention(q, k, v, mask=causal(), scale=size**-0.5)
        return _linear(out.reshape(batch, seq, heads * size), "o_proj", config.hidden_size)


def _mlp(x: Tensor, config: LlamaConfig) -> Tensor:
    width, inner = config.hidden_size, config.intermediate_size
    with scope("mlp"):
        gate = _weight("gate_proj", inner, width, x.dtype)
        up = _weight("up_proj", inner, width, x.dtype)
        down = _weight("down_proj", width, inner, x.dtype)
    return gated_mlp(x, gate, up, down, activation="silu")


def _norm(x: Tensor, name: str, config: LlamaConfig) -> Tensor:
    weight = param(f"{name}.weight", x.dtype[x.shape[-1]])
    return rms_norm(x, weight, config.rms_norm_eps)


def _linear(x: Tensor, name: str, width: int) -> Tensor:
    return x @ _weight(name, width, x.shape[-1], x.dtype).T


def _weight(name: str, rows: Dim, columns: Dim, dtype: DType) -> Tensor:
    return param(f"{name}.weight", dtype[rows, columns])
