"""Scaled dot-product attention."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from tilewright.dsl.attrs import Attrs, AttrSpec
from tilewright.dsl.builder import active
from tilewright.dsl.composite import Composite
from tilewright.dsl.dims import Dim, Symbol, arithmetic, dim, fold, quotient, symbols
from tilewright.dsl.dtypes import bf16, bool_, f32, i32
from tilewright.dsl.errors import DimError, DTypeError, RankError, ShapeError
from tilewright.dsl.mask import EVERYTHING, POSITIONS, Mask, Q, causal, sinks, window
from tilewright.dsl.op import Sample, error, need_float, register, same_dtype, sample
from tilewright.dsl.ops.create import full, iota
from tilewright.dsl.ops.elementwise import log, maximum, minimum, tanh, where
from tilewright.dsl.ops.matmul import matmul
from tilewright.dsl.ops.norm import exponentials, nonzero
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.types import TensorType, shape_text

_S, _PAST = dim("s", 1, 64), dim("past", 0, 64)
_TENSORS = arithmetic(smaller=minimum, larger=maximum)


@register
class Attention(Composite):
    """softmax(mask(softcap(scale * q @ k.T))) @ v per head, and the scores' log-sum-exp.

    q is [batch, seq, heads, d], k [batch, keys, groups, d], v [batch, keys, groups, e], where
    `groups` divides `heads` and head h reads group h // (heads / groups). `key_mask`, a bool
    [batch, keys], hides keys where it is false; `mask` is a predicate on positions in which the
    last query stands at the last key. `softcap` c replaces a score x by c * tanh(x / c).

    Results: [batch, seq, heads, e], and the log-sum-exp [batch, seq, heads] in f32 (f64 for f64). A
    row without visible keys is 0, its log-sum-exp -inf. Scores, exponentials and sums are f32 for
    short floats; the exponentials are rounded to v's format before they multiply it, as in
    FlashAttention (Dao, 2023).
    """

    name = "attention"
    operands = ("q", "k", "v", "key_mask?")
    attrs = {
        "mask": AttrSpec("mask", EVERYTHING),
        "scale": AttrSpec("float", 1.0),
        "softcap": AttrSpec("float", None, optional=True),
    }

    def check(self, xs: Sequence[TensorType], a: Attrs) -> None:
        q, k, v, *_ = xs
        need_float(self.name, q)
        same_dtype(self.name, (q, k, v))
        for operand in (q, k, v):
            if operand.rank != 4:
                raise RankError(
                    "attention takes [batch, seq, heads, head_dim], got "
                    f"{shape_text(operand.shape)}"
                )
        if k.shape[:3] != v.shape[:3] or q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
            listed = ", ".join(shape_text(x.shape) for x in (q, k, v))
            raise ShapeError(f"attention: q, k and v do not fit: {listed}")
        if quotient(q.shape[2], k.shape[2]) is None:
            raise ShapeError(f"attention: {k.shape[2]} groups do not divide {q.shape[2]} heads")
        for hidden in xs[3:]:
            if hidden.dtype != bool_:
                raise DTypeError(f"attention: key_mask is a bool, got {hidden.dtype}")
            if hidden.shape != k.shape[:2]:
                raise ShapeError(
                    f"attention: key_mask is {shape_text(hidden.shape)}, expected "
                    f"{shape_text(k.shape[:2])}"
                )
        _check_mask(a.mask("mask"))
        if a["softcap"] is not None and a.float("softcap") <= 0:
            raise ShapeError(f"attention: softcap must be positive, got {a.float('softcap')}")

    def body(self, *xs: Tensor, a: Attrs) -> tuple[Tensor, ...]:
        q, k, v, *hidden = xs
        batch, seq, heads, _ = q.shape
        _, keys, groups, _ = k.shape
        each = quotient(heads, groups)
        assert each is not None
        rows = q.reshape(batch, seq, groups, each, q.shape[3]).permute_dims(0, 2, 3, 1, 4)
        wide = q.dtype.accumulator
        scores = matmul(rows, _per_group(k), transpose_b=True, out_dtype=wide) * a.float("scale")
        if a["softcap"] is not None:
            cap = a.float("softcap")
            scores = tanh(scores / cap) * cap
        scores = _masked(scores, a.mask("mask"), seq, keys)
        if hidden:
            seen = hidden[0].reshape(batch, 1, 1, 1, keys)
            scores = where(seen, scores, float("-inf"))
        weights, total, shift = exponentials(scores, 4)
        sums = matmul(weights.cast(v.dtype), _per_group(v), out_dtype=wide)
        out = (sums / nonzero(total)).cast(q.dtype).permute_dims(0, 3, 1, 2, 4)
        lse = (log(total) + shift).permute_dims(0, 3, 1, 2, 4)
        return out.reshape(batch, seq, heads, v.shape[3]), lse.reshape(batch, seq, heads)

    def samples(self) -> Sequence[Sample]:
        q, k = f32[2, 3, 4, 8], f32[2, 5, 2, 8]
        sliding = causal() & (window(3) | sinks(1))
        return [
            sample(q, k, k, scale=0.3),
            sample(q, k, k, bool_[2, 5], mask=causal(), softcap=2.0),
            sample(q, k, f32[2, 5, 2, 6], mask=sliding),
            sample(bf16[1, _S, 2, 4], *[bf16[1, _S + _PAST, 1, 4]] * 2, mask=causal()),
            sample(f32[1, 5, 1, 4], f32[1, 2, 1, 4], f32[1, 2, 1, 4], mask=causal()),
            error(ShapeError, q, f32[2, 5, 3, 8], f32[2, 5, 3, 8]),
            error(ShapeError, q, k, f32[2, 4, 2, 8]),
            error(ShapeError, q, k, k, bool_[2, 4]),
            error(DTypeError, q, k, k, f32[2, 5]),
            error(DTypeError, q, k, bf16[2, 5, 2, 8]),
            error(RankError, f32[3, 4, 8], k, k),
            error(ShapeError, q, k, k, softcap=0.0),
            error(DimError, q, k, k, mask=Mask(((Q - dim("past", 0, 9),),))),
        ]


def _per_group(x: Tensor) -> Tensor:
    """[batch, keys, groups, d] as [batch, groups, 1, keys, d]."""
    batch, keys, groups, size = x.shape
    return x.permute_dims(0, 2, 1, 3).reshape(batch, groups, 1, keys, size)


def _check_mask(mask: Mask) -> None:
    found = {symbol for clause in mask.clauses for e in clause for symbol in symbols(e)}
    foreign = sorted(symbol.name for symbol in found - POSITIONS)
    if foreign:
        raise DimError(
            f"an attention mask speaks of q and k alone, not of {foreign[0]}",
            fix="the last query stands at the last key: no offset is needed",
        )


def _masked(scores: Tensor, mask: Mask, seq: Dim, keys: Dim) -> Tensor:
    """Scores with -inf where the mask hides the key."""
    if not mask.clauses:
        return scores
    return where(visible(mask, seq, keys), scores, float("-inf"))


def visible(mask: Mask, seq: Dim, keys: Dim) -> Tensor:
    """The mask as a bool tensor [seq, keys]."""
    places = {
        "q": iota((seq, 1), axis=0, start=keys - seq),
        "k": iota((1, keys), axis=1),
    }
    nowhere = full((1, 1), False, bool_)
    clauses = [
        reduce(Tensor.__or__, [_position(e, places) >= 0 for e in clause] or [nowhere])
        for clause in mask.clauses
    ]
    return reduce(Tensor.__and__, clauses)


def _position(expression: Dim, places: dict[str, Tensor]) -> Tensor:
    def symbol(of: Symbol) -> Tensor:
        return places[of.name]

    return fold(expression, lambda value: full((1, 1), value, i32), symbol, _TENSORS)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_mask: Tensor | None = None,
    *,
    mask: Mask = EVERYTHING,
    scale: float = 1.0,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """The output [batch, seq, heads, head_dim] and the log-sum-exp [batch, seq, heads]."""
    operands = (q, k, v) if key_mask is None else (q, k, v, key_mask)
    out, lse = active().tensors("attention", *operands, mask=mask, scale=scale, softcap=softcap)
    return out, lse
