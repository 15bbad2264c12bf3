"""What each operation should compute, written against torch in float64: nothing is shared with the
meanings that are held to it. Operands and results are NumPy arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from tilewright.dsl.attrs import Attrs
from tilewright.dsl.mask import Mask

Tensor = torch.Tensor
Formula = Callable[..., Any]

TORCH_DTYPES = {
    "f64": torch.float64,
    "f32": torch.float64,
    "f16": torch.float64,
    "bf16": torch.float64,
    "i64": torch.int64,
    "i32": torch.int32,
    "i8": torch.int8,
    "u8": torch.uint8,
    "bool": torch.bool,
}


def torch_value(x: np.ndarray[Any, Any]) -> Tensor:
    """The array as torch holds it, floats in float64."""
    wide = x if x.dtype.kind in "biu" else x.astype(np.float64)
    return torch.from_numpy(np.ascontiguousarray(wide).reshape(x.shape).copy())


def apply(name: str, xs: Sequence[np.ndarray[Any, Any]], a: Attrs) -> list[np.ndarray[Any, Any]]:
    """The results of an operation by its formula."""
    found = FORMULAS[name](*map(torch_value, xs), **dict(a))
    return [np.asarray(part) for part in (found if isinstance(found, tuple) else (found,))]


def _dtype(dtype: Any) -> torch.dtype:
    return TORCH_DTYPES[dtype.name]


def _mean(x: Tensor, axis: int, keepdims: bool) -> Tensor:
    return torch.mean(x, dim=axis, keepdim=keepdims)


def _logsumexp(x: Tensor, axis: int, keepdims: bool) -> Tensor:
    return torch.logsumexp(x, dim=axis, keepdim=keepdims)


def _sum(x: Tensor, axis: int, keepdims: bool) -> Tensor:
    return torch.sum(x, dim=axis, keepdim=keepdims, dtype=x.dtype)


def _extreme(function: Formula, empty: float) -> Formula:
    def apply_(x: Tensor, axis: int, keepdims: bool) -> Tensor:
        if x.shape[axis]:
            return function(x, dim=axis, keepdim=keepdims)
        return torch.sum(x, dim=axis, keepdim=keepdims) + empty

    return apply_


def _argmax(x: Tensor, axis: int, keepdims: bool) -> Tensor:
    best = torch.amax(x, dim=axis, keepdim=True)
    count = torch.arange(x.shape[axis]).reshape(-1, *[1] * (x.ndim - 1 - axis % x.ndim))
    places = torch.where(x == best, count, x.shape[axis])
    return torch.amin(places, dim=axis, keepdim=keepdims).to(torch.int32)


def _topk(x: Tensor, k: int, axis: int) -> tuple[Tensor, Tensor]:
    values, index = torch.sort(x, dim=axis, descending=True, stable=True)
    return values.narrow(axis, 0, k), index.narrow(axis, 0, k).to(torch.int32)


def _broadcast_to(x: Tensor, shape: Sequence[int]) -> Tensor:
    return torch.broadcast_to(x, shape)


def _clamp(x: Tensor, low: float, high: float) -> Tensor:
    return torch.clamp(x, low, high)


def _row(x: Tensor, at: int) -> Tensor:
    return x[at]


def _stack(*xs: Tensor) -> Tensor:
    return torch.stack(xs)


def _part(x: Tensor, start: int, shape: Sequence[int]) -> Tensor:
    return x[start : start + math.prod(shape)].reshape(tuple(shape))


def _concat(*xs: Tensor, axis: int) -> Tensor:
    return torch.cat(xs, axis)


def _cumsum(x: Tensor, axis: int) -> Tensor:
    return torch.cumsum(x, axis, dtype=x.dtype)


def _embedding(table: Tensor, ids: Tensor) -> Tensor:
    return torch.nn.functional.embedding(ids, table)


def _full(shape: Sequence[int], value: float, dtype: Any) -> Tensor:
    return torch.full(tuple(shape), value, dtype=_dtype(dtype))


def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return torch.nn.functional.layer_norm(x, weight.shape, weight, bias, eps)


def _permute_dims(x: Tensor, axes: Sequence[int]) -> Tensor:
    return torch.permute(x, tuple(axes))


def _softmax(x: Tensor, axis: int) -> Tensor:
    return torch.softmax(x, axis)


def _matmul(a: Tensor, b: Tensor, transpose_a: bool, transpose_b: bool, out_dtype: Any) -> Tensor:
    if a.dtype == torch.int8:
        a, b = a.to(torch.int32), b.to(torch.int32)
    left, right = ("...km" if transpose_a else "...mk"), ("...nk" if transpose_b else "...kn")
    return torch.einsum(f"{left},{right}->...mn", a, b)


def _slice(x: Tensor, start: Sequence[int], size: Sequence[int]) -> Tensor:
    for axis, (first, count) in enumerate(zip(start, size, strict=True)):
        x = x.narrow(axis, first, count)
    return x


def _pad(x: Tensor, low: Sequence[int], high: Sequence[int], value: float) -> Tensor:
    widths = [w for pair in reversed(list(zip(low, high, strict=True))) for w in pair]
    return torch.nn.functional.pad(x, widths, value=value)


def _gather(x: Tensor, index: Tensor, axis: int) -> Tensor:
    axis %= x.ndim
    moved = x.movedim(axis, 0)[index.long()]
    order = list(range(index.ndim, index.ndim + axis))
    rest = list(range(index.ndim + axis, moved.ndim))
    return moved.permute(*order, *range(index.ndim), *rest)


def _scatter_add(x: Tensor, index: Tensor, updates: Tensor, axis: int) -> Tensor:
    rows = updates.reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])
    return x.index_add(axis, index.reshape(-1).long(), rows)


def _iota(shape: Sequence[int], axis: int, start: int, dtype: Any) -> Tensor:
    axis %= len(shape)
    line = torch.arange(start, start + shape[axis]).to(_dtype(dtype))
    return line.reshape(-1, *[1] * (len(shape) - axis - 1)).expand(*shape)


def _constant(data: Any, shape: Sequence[int], dtype: Any) -> Tensor:
    code = {"f32": "<f4", "i64": "<i8", "bool": "?"}[dtype.name]
    return torch_value(np.frombuffer(data.raw, code).reshape(shape))


def _cast(x: Tensor, dtype: Any) -> Tensor:
    return x != 0 if dtype.name == "bool" else x.to(_dtype(dtype))


def _rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float) -> Tensor:
    return torch.nn.functional.rms_norm(x, weight.shape, weight + offset, eps)


def _rope(x: Tensor, positions: Tensor, theta: float, scaling: float) -> Tensor:
    half = x.shape[-1] // 2
    plane = torch.complex(x[..., :half], x[..., half:])
    angle = positions.double()[..., None] * theta ** (-torch.arange(half).double() / half) / scaling
    turned = plane * torch.exp(1j * angle).unsqueeze(-2)
    return torch.cat([turned.real, turned.imag], -1)


def _gated_mlp(x: Tensor, gate: Tensor, up: Tensor, down: Tensor, activation: str) -> Tensor:
    linear = torch.nn.functional.linear
    return linear(ACTIVATIONS[activation](linear(x, gate)) * linear(x, up), down)


def mask_array(mask: Mask, seq: int, keys: int) -> np.ndarray[Any, Any]:
    """Visibility [seq, keys], one position at a time."""
    from tilewright.dsl.dims import evaluate

    seen = np.zeros((seq, keys), np.bool_)
    for row in range(seq):
        for key in range(keys):
            shift = max(0, seq - keys)  # symbols q and k are not negative: move both
            env = {"q": row + keys - seq + shift, "k": key + shift}
            seen[row, key] = all(
                any(evaluate(e, env) >= 0 for e in clause) for clause in mask.clauses
            )
    return seen


def _attention(
    q: Tensor, k: Tensor, v: Tensor, *hidden: Tensor, mask: Mask, scale: float, softcap: Any
) -> tuple[Tensor, Tensor]:
    repeat = q.shape[2] // k.shape[2]
    k, v = k.repeat_interleave(repeat, 2), v.repeat_interleave(repeat, 2)
    scores = torch.einsum("bshd,bthd->bhst", q, k) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    seen = torch.from_numpy(mask_array(mask, q.shape[1], k.shape[1]))[None, None]
    for column in hidden:
        seen = seen & column[:, None, None, :]
    scores = torch.where(seen, scores, -math.inf)
    weights = torch.nan_to_num(torch.softmax(scores, -1), 0.0)
    out = torch.einsum("bhst,bthd->bshd", weights, v)
    return out, torch.logsumexp(scores, -1).movedim(1, 2)


ACTIVATIONS: Mapping[str, Formula] = {
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": partial(torch.nn.functional.gelu, approximate="tanh"),
    "silu": torch.nn.functional.silu,
}

FORMULAS: Mapping[str, Formula] = {
    "abs": torch.abs,
    "add": torch.add,
    "argmax": _argmax,
    "attention": _attention,
    "broadcast_to": _broadcast_to,
    "cast": _cast,
    "clamp": _clamp,
    "concat": _concat,
    "constant": _constant,
    "copy": torch.clone,
    "cos": torch.cos,
    "cumsum": _cumsum,
    "div": torch.div,
    "embedding": _embedding,
    "equal": torch.eq,
    "erf": torch.erf,
    "exp": torch.exp,
    "floordiv": torch.floor_divide,
    "full": _full,
    "gated_mlp": _gated_mlp,
    "gather": _gather,
    **ACTIVATIONS,
    "iota": _iota,
    "layer_norm": _layer_norm,
    "less": torch.lt,
    "less_equal": torch.le,
    "log": torch.log,
    "logical_and": torch.logical_and,
    "logical_not": torch.logical_not,
    "logical_or": torch.logical_or,
    "logsumexp": _logsumexp,
    "matmul": _matmul,
    "max": _extreme(torch.amax, -math.inf),
    "maximum": torch.maximum,
    "mean": _mean,
    "min": _extreme(torch.amin, math.inf),
    "minimum": torch.minimum,
    "mod": torch.remainder,
    "mul": torch.mul,
    "neg": torch.neg,
    "not_equal": torch.ne,
    "pad": _pad,
    "part": _part,
    "permute_dims": _permute_dims,
    "pow": torch.pow,
    "reshape": torch.reshape,
    "rms_norm": _rms_norm,
    "rope": _rope,
    "row": _row,
    "stack": _stack,
    "rsqrt": torch.rsqrt,
    "scatter_add": _scatter_add,
    "sigmoid": torch.sigmoid,
    "sin": torch.sin,
    "slice": _slice,
    "softmax": _softmax,
    "sqrt": torch.sqrt,
    "sub": torch.sub,
    "sum": _sum,
    "tanh": torch.tanh,
    "topk": _topk,
    "where": torch.where,
}
