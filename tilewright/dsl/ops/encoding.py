"""`encode` and `decode`: between a dense tensor and the components that store it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tilewright.dsl.attrs import Attrs, AttrSpec
from tilewright.dsl.builder import active
from tilewright.dsl.codec import decode_values, encode_values
from tilewright.dsl.dims import Dim, dim
from tilewright.dsl.dtypes import bf16, f32, i32
from tilewright.dsl.encoding import (
    NM,
    SHORT,
    BlockFloat,
    Codebook,
    Columns,
    Dense,
    Encoding,
    FloatFormat,
    IntFormat,
    LowRank,
    Quantized,
    Sparse,
    Sum,
    Tiled,
    components,
)
from tilewright.dsl.errors import DTypeError, EncodingError
from tilewright.dsl.op import OpDef, Sample, error, need_float, register, sample, tensors
from tilewright.dsl.sharding import Rule, axis_letters
from tilewright.dsl.shards import shard_unit
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.types import TensorType, Type

_N = dim("n", 1, 64)
_INT8 = Quantized(IntFormat(8), 1)
_INT4 = Quantized(IntFormat(4), 1, 8, packing="nibbles")


@register
class Encode(OpDef):
    """The components that store a dense tensor under `encoding`; see `tilewright.dsl.codec`.

    Partial is refused (an encoding is not linear), and so is a shard that cuts a group, or any
    shard where the encoding looks at the whole tensor (codebooks, kept columns, low rank).
    """

    name = "encode"
    operands = ("x",)
    attrs = {"encoding": AttrSpec("encoding")}

    def types(self, xs: Sequence[Type], a: Attrs) -> tuple[Type, ...]:
        (x,) = tensors(self.name, xs)
        need_float(self.name, x)
        encoding = a.encoding("encoding")
        if isinstance(encoding, Dense):
            raise EncodingError("encode needs a storage encoding, a tensor is dense already")
        found = TensorType(x.shape, x.dtype, encoding=encoding)
        components(found)
        return (found,)

    def rule(self, xs: Sequence[Type], a: Attrs) -> Rule:
        (x,) = tensors(self.name, xs)
        letters = axis_letters(x.rank)
        encoding = a.encoding("encoding")
        global_view = _looks_at_everything(encoding)
        whole = (
            letter
            for axis, letter in enumerate(letters)
            if global_view or shard_unit(encoding, axis, x.rank) is None
        )
        return Rule((letters,), (letters,)).keep_whole(*whole)

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        (found,) = tensors(self.name, out)
        return (encode_values(xs[0], found),)

    def flops(self, xs: Sequence[Type], a: Attrs, out: Sequence[Type]) -> Dim:
        """A comparison, a division, a rounding and a clip an element; per rank of a factor two
        products with the matrix (as subspace iteration needs them).
        """
        (x,) = tensors(self.name, xs)
        return x.numel * (4 + 4 * _ranks(a.encoding("encoding")))

    def samples(self) -> Sequence[Sample]:
        nm = Sparse(NM(2, 4), 1)
        legal: list[Encoding] = [
            _INT8,
            _INT4,
            Quantized(IntFormat(8), 0, symmetric=False),
            Quantized(FloatFormat(4, 3), 1, 8),
            Quantized(BlockFloat(6), 1, 16),
            SHORT,
            Quantized(Codebook(4), 1),
            nm,
            Sparse(NM(2, 4), 1, _INT8),
            Sparse(Columns(3), 0),
            LowRank(2),
            Tiled(4, 2, _INT8),
            Tiled(4, 2, SHORT),
            Sum((LowRank(1), nm)),
        ]
        return [
            *(sample(f32[8, 16], encoding=encoding) for encoding in legal),
            sample(bf16[_N, 16], encoding=_INT4),
            error(DTypeError, i32[8, 16], encoding=_INT8),
            error(EncodingError, f32[8, 15], encoding=nm),
            error(EncodingError, f32[8, 16], encoding=Dense()),
            error(EncodingError, f32[8, 16], encoding=Quantized(IntFormat(8), 2)),
        ]


@register
class Decode(OpDef):
    """The dense tensor that an encoded one stands for, rounded once to its dtype.

    `encoding` is the operand's own, so that the components can be read without its type.
    """

    name = "decode"
    operands = ("x",)
    attrs = {"encoding": AttrSpec("encoding")}
    takes_encoded = True

    def types(self, xs: Sequence[Type], a: Attrs) -> tuple[Type, ...]:
        (x,) = tensors(self.name, xs)
        if x.is_dense:
            raise EncodingError("decode needs an encoded operand, this one is dense")
        if x.encoding != a.encoding("encoding"):
            raise EncodingError(
                f"decode reads {a.encoding('encoding')}, but the operand is stored as {x.encoding}"
            )
        return (TensorType(x.shape, x.dtype),)

    def rule(self, xs: Sequence[Type], a: Attrs) -> Rule:
        (x,) = tensors(self.name, xs)
        letters = axis_letters(x.rank)
        whole = (
            letter
            for axis, letter in enumerate(letters)
            if shard_unit(x.encoding, axis, x.rank) is None
        )
        return Rule((letters,), (letters,)).keep_whole(*whole)

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        (result,) = tensors(self.name, out)
        encoding = a.encoding("encoding")
        return (decode_values(xs[0], result.with_encoding(encoding)),)

    def flops(self, xs: Sequence[Type], a: Attrs, out: Sequence[Type]) -> Dim:
        """A conversion and a product an element; of low rank, the product of the factors."""
        (x,) = tensors(self.name, xs)
        return x.numel * (2 + 2 * _ranks(x.encoding))

    def samples(self) -> Sequence[Sample]:
        stored: list[Encoding] = [
            _INT8,
            _INT4,
            Sparse(NM(2, 4), 1, _INT8),
            LowRank(2),
            Tiled(4, 2, _INT8),
            SHORT,
        ]
        return [
            *(sample(f32[8, 16].with_encoding(each), encoding=each) for each in stored),
            sample(bf16[_N, 16].with_encoding(_INT4), encoding=_INT4),
            error(EncodingError, f32[8, 16], encoding=_INT8),
            error(EncodingError, f32[8, 16].with_encoding(_INT4), encoding=_INT8),
        ]


def _looks_at_everything(encoding: Encoding) -> bool:
    """True where a group's codes depend on elements outside the group."""
    match encoding:
        case Quantized(format=Codebook()) | LowRank():
            return True
        case Sparse(pattern=pattern, values=values):
            return not isinstance(pattern, NM) or _looks_at_everything(values)
        case Tiled(values=values):
            return _looks_at_everything(values)
        case Sum(parts):
            return any(map(_looks_at_everything, parts))
        case _:
            return False


def _ranks(encoding: Encoding) -> int:
    """The inner dimension of all low-rank factors together."""
    match encoding:
        case LowRank(rank):
            return rank
        case Sum(parts):
            return sum(map(_ranks, parts))
        case _:
            return 0


def encode(x: Tensor, encoding: Encoding) -> Tensor:
    """`x` stored under `encoding`; what was lost by that, `decode` shows."""
    return active().tensor("encode", x, encoding=encoding)


def decode(x: Tensor) -> Tensor:
    """The dense tensor that an encoded one stands for; a dense one as it is."""
    return x if x.type.is_dense else active().tensor("decode", x, encoding=x.type.encoding)
