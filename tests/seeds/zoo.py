"""The models of the zoo with small configurations, and the shape of a model of seven billion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tilewright.dsl.builder import graph
from tilewright.dsl.dims import DimExpr, dim
from tilewright.dsl.dtypes import bf16, f32, i32
from tilewright.dsl.program import Program, program
from tilewright.dsl.tensor import Tensor
from tilewright.models.bert import bert
from tilewright.models.config import (
    BertConfig,
    Gemma3Config,
    LlamaConfig,
    SentenceConfig,
    layer_types,
)
from tilewright.models.gemma3 import backbone, gemma3, head

CONTEXT = 4096
BERT = BertConfig(
    vocab_size=50,
    hidden_size=12,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=20,
    max_position_embeddings=16,
    type_vocab_size=2,
    layer_norm_eps=1e-12,
)
GEMMA = Gemma3Config(
    vocab_size=70,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=64,
    rms_norm_eps=1e-6,
    rope_theta=1e6,
    query_pre_attn_scalar=8.0,
    sliding_window=4,
    layer_types=layer_types(3, 3),
)
LLAMA = LlamaConfig(
    vocab_size=24,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=4,
)
WIDE = replace(GEMMA, vocab_size=300, hidden_size=128, intermediate_size=256, head_dim=32)
"""Wide enough for its matrices to be worth another format."""
SEVEN_BILLION = replace(
    GEMMA,
    vocab_size=32_000,
    hidden_size=4096,
    intermediate_size=11_008,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=32,
    head_dim=128,
    max_position_embeddings=CONTEXT,
    query_pre_attn_scalar=128.0,
    layer_types=("full_attention",) * 32,
)


def zoo() -> Iterator[tuple[str, Program]]:
    """Every model in the variants that its code tells apart, by name."""
    for pooling in ("mean", "cls", "max"):
        how = SentenceConfig(pooling=pooling, normalize=pooling != "cls")
        yield f"bert-{pooling}", bert(BERT, how).program
    other = replace(BERT, hidden_act="gelu_new")
    yield (
        "bert-gelu_new-bf16",
        bert(other, SentenceConfig(pooling="mean", normalize=True), bf16).program,
    )
    yield "gemma", gemma3(GEMMA, 32, f32).program
    capped = replace(
        GEMMA,
        hidden_activation="silu",
        rope_scaling_factor=8.0,
        attn_logit_softcapping=20.0,
        final_logit_softcapping=30.0,
        tie_word_embeddings=False,
    )
    yield "gemma-capped-bf16", gemma3(capped, 32, bf16).program


def seven_billion() -> Program:
    """The decoding step of 7B dimensions in bf16 for any number of sequences; only its shape."""
    past, batch = dim("past", 0, CONTEXT - 1), dim("batch", 1, 4096)

    @graph(tokens=i32[batch, 1], past=past)
    def decode(tokens: Tensor, past: DimExpr) -> dict[str, Tensor]:
        x = backbone(tokens, past, SEVEN_BILLION, CONTEXT, bf16)
        return {"logits": head(x[:, -1], SEVEN_BILLION)}

    return program("seven_billion", decode).program
