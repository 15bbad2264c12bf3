"""A graph for each of the operations that models spend time in, with any number of rows."""

from __future__ import annotations

import tilewright as tw
from tilewright import Tensor
from tilewright.dsl.program import Program, program

WIDTH, ROWS = 512, (64, 256, 1024)
N = tw.dim("n", 1, 1024)
ROW, COLUMN, HEADS = tw.f32[N, WIDTH], tw.f32[WIDTH], tw.f32[1, N, 4, 64]


@tw.graph(x=ROW, y=ROW)
def add(x: Tensor, y: Tensor) -> Tensor:
    return x + y


@tw.graph(q=HEADS, k=HEADS, v=HEADS)
def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return tw.attention(q, k, v, mask=tw.causal())[0]


@tw.graph(x=ROW)
def cast(x: Tensor) -> Tensor:
    return x.cast(tw.bf16)


@tw.graph(x=ROW, y=ROW)
def concat(x: Tensor, y: Tensor) -> Tensor:
    return tw.concat([x, y], axis=1)


@tw.graph(ids=tw.i32[N])
def embedding(ids: Tensor) -> Tensor:
    return tw.embedding(tw.param("table", tw.f32[8192, WIDTH]), ids)


@tw.graph(x=ROW)
def exp(x: Tensor) -> Tensor:
    return tw.exp(x)


@tw.graph(x=ROW)
def gelu(x: Tensor) -> Tensor:
    return tw.gelu(x)


@tw.graph(x=ROW)
def gelu_tanh(x: Tensor) -> Tensor:
    return tw.gelu_tanh(x)


@tw.graph(x=ROW)
def layer_norm(x: Tensor) -> Tensor:
    return tw.layer_norm(x, tw.param("ln_w", COLUMN), tw.param("ln_b", COLUMN))


@tw.graph(x=ROW)
def logsumexp(x: Tensor) -> Tensor:
    return tw.logsumexp(x)


@tw.graph(x=ROW)
def matmul(x: Tensor) -> Tensor:
    return x @ tw.param("square", tw.f32[WIDTH, WIDTH])


@tw.graph(x=tw.bf16[N, WIDTH])
def matmul_bf16(x: Tensor) -> Tensor:
    return x @ tw.param("halves", tw.bf16[WIDTH, WIDTH])


@tw.graph(x=ROW)
def matmul_wide(x: Tensor) -> Tensor:
    return x @ tw.param("wide", tw.f32[WIDTH, 4 * WIDTH])


@tw.graph(x=ROW)
def largest(x: Tensor) -> Tensor:
    return tw.max(x)


@tw.graph(x=ROW)
def transposed(x: Tensor) -> Tensor:
    return tw.permute_dims(x, (1, 0))


@tw.graph(x=ROW)
def rms_norm(x: Tensor) -> Tensor:
    return tw.rms_norm(x, tw.param("rms_w", COLUMN))


@tw.graph(x=tw.f32[1, N, 8, 64], at=tw.i32[N])
def rope(x: Tensor, at: Tensor) -> Tensor:
    return tw.rope(x, at)


@tw.graph(x=ROW)
def silu(x: Tensor) -> Tensor:
    return tw.silu(x)


@tw.graph(x=ROW)
def softmax(x: Tensor) -> Tensor:
    return tw.softmax(x)


@tw.graph(x=ROW)
def total(x: Tensor) -> Tensor:
    return tw.sum(x)


@tw.graph(x=ROW, y=ROW)
def where(x: Tensor, y: Tensor) -> Tensor:
    return tw.where(x > 0.0, x, y)


@tw.graph(x=ROW)
def gated_mlp(x: Tensor) -> Tensor:
    gate, up = (tw.param(name, tw.f32[768, WIDTH]) for name in ("gate", "up"))
    return tw.gated_mlp(x, gate, up, tw.param("down", tw.f32[WIDTH, 768]))


OPERATIONS = (
    add,
    attention,
    cast,
    concat,
    embedding,
    exp,
    gelu,
    gelu_tanh,
    layer_norm,
    logsumexp,
    matmul,
    matmul_bf16,
    matmul_wide,
    largest,
    transposed,
    rms_norm,
    rope,
    silu,
    softmax,
    total,
    where,
    gated_mlp,
)


def op_graphs() -> Program:
    """The program whose graphs are called as what they do."""
    return program("operations", *OPERATIONS).program
