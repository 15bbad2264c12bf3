"""Reductions along one axis, and what else needs a whole axis: prefix sums and selection."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from tilewright.dsl.attrs import Attrs, AttrSpec
from tilewright.dsl.builder import active
from tilewright.dsl.composite import Composite
from tilewright.dsl.dims import Dim, dim, known_le
from tilewright.dsl.dtypes import DType, bf16, bool_, f16, f32, i8, i32, i64, u8
from tilewright.dsl.errors import DTypeError, RankError, ShapeError
from tilewright.dsl.op import OpDef, Sample, error, get, need_float, register, sample, tensors
from tilewright.dsl.ops.elementwise import equal, exp, log, where
from tilewright.dsl.ops.shape import concrete, normal_axis, without_axis
from tilewright.dsl.sharding import Letters, Rule, axis_letters
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.types import TensorType, Type

_N = dim("n", 1, 64)
_AXIS = {"axis": AttrSpec("axis", -1), "keepdims": AttrSpec("bool", False)}
_INFINITY = float("inf")


def _need_number(op: str, x: TensorType) -> None:
    if x.dtype == bool_:
        raise DTypeError(f"{op} needs numbers, got bool", fix="cast(x, i32) counts")


def _axis(op: OpDef, x: TensorType, a: Attrs) -> int:
    return normal_axis(op.name, a.int("axis"), x.rank)


def _reduced_letters(x: TensorType, axis: int, *, keepdims: bool) -> tuple[Letters, Letters]:
    letters = axis_letters(x.rank)
    kept: Letters = ("1",) if keepdims else ()
    return letters, (*letters[:axis], *kept, *letters[axis + 1 :])


class Reduction(OpDef):
    """One result element from all elements along `axis`."""

    operands = ("x",)
    attrs = _AXIS
    reduction: ClassVar[Literal["sum", "max", "min"]]

    def types(self, xs: Sequence[Type], a: Attrs) -> tuple[Type, ...]:
        (x,) = tensors(self.name, xs)
        _need_number(self.name, x)
        shape = without_axis(x.shape, _axis(self, x, a), keepdims=a.bool("keepdims"))
        return (TensorType(shape, x.dtype),)

    def rule(self, xs: Sequence[Type], a: Attrs) -> Rule:
        (x,) = tensors(self.name, xs)
        given, kept = _reduced_letters(x, _axis(self, x, a), keepdims=a.bool("keepdims"))
        return Rule((given,), (kept,)).reduces(self.reduction)

    def flops(self, xs: Sequence[Type], a: Attrs, out: Sequence[Type]) -> Dim:
        return tensors(self.name, xs)[0].numel

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        (x,) = xs
        axis, keepdims = normal_axis(self.name, a.int("axis"), x.ndim), a.bool("keepdims")
        if x.shape[axis] == 0:
            (result,) = tensors(self.name, out)
            return (xp.full(concrete(result.shape), self.identity(result.dtype), dtype=x.dtype),)
        return (self.reduced(xp, x, axis, keepdims),)

    @abstractmethod
    def reduced(self, xp: Any, x: Any, axis: int, keepdims: bool) -> Any:
        """The reduction of at least one element along a normalised axis."""

    @abstractmethod
    def identity(self, dtype: DType) -> float:
        """The reduction of no elements."""

    def samples(self) -> Sequence[Sample]:
        return [
            sample(f32[2, 8]),
            sample(bf16[_N, 3], axis=0, keepdims=True),
            sample(i32[2, 3, 4], axis=1),
            sample(i8[_N], fills=("small_int",)),
            sample(f32[3, 0]),
            error(RankError, f32[2, 8], axis=2),
            error(RankError, f32[()]),
            error(DTypeError, bool_[4]),
        ]


@register
class Sum(Reduction):
    """Sum along an axis; 0 of nothing. Integers wrap in their own width. Linear."""

    name = "sum"
    reduction = "sum"

    def rule(self, xs: Sequence[Type], a: Attrs) -> Rule:
        return super().rule(xs, a).terms()

    def reduced(self, xp: Any, x: Any, axis: int, keepdims: bool) -> Any:
        return xp.sum(x, axis=axis, dtype=x.dtype, keepdims=keepdims)

    def identity(self, dtype: DType) -> float:
        return 0


@register
class Max(Reduction):
    """Largest element along an axis; NaN propagates; of nothing the least value there is."""

    name = "max"
    reduction = "max"

    def reduced(self, xp: Any, x: Any, axis: int, keepdims: bool) -> Any:
        return xp.max(x, axis=axis, keepdims=keepdims)

    def identity(self, dtype: DType) -> float:
        return -_INFINITY if dtype.is_float else integer_range(dtype)[0]


@register
class Min(Reduction):
    """Smallest element along an axis; NaN propagates; of nothing the largest value there is."""

    name = "min"
    reduction = "min"

    def reduced(self, xp: Any, x: Any, axis: int, keepdims: bool) -> Any:
        return xp.min(x, axis=axis, keepdims=keepdims)

    def identity(self, dtype: DType) -> float:
        return _INFINITY if dtype.is_float else integer_range(dtype)[1]


def identity_of(op: str, dtype: DType) -> float | int:
    """The reduction of no elements, as a number of the format: what partial results start from."""
    found = get(op)
    assert isinstance(found, Reduction)
    number = found.identity(dtype)
    return float(number) if dtype.is_float else int(number)


def integer_range(dtype: DType) -> tuple[int, int]:
    """Least and largest integer of a format."""
    if dtype.kind == "int":
        return -(1 << (dtype.bits - 1)), (1 << (dtype.bits - 1)) - 1
    return 0, (1 << dtype.bits) - 1


class WholeAxis(OpDef):
    """An operation that sees all elements along `axis` at once."""

    operands = ("x",)

    def types(self, xs: Sequence[Type], a: Attrs) -> tuple[Type, ...]:
        (x,) = tensors(self.name, xs)
        _need_number(self.name, x)
        return self.results(x, _axis(self, x, a), a)

    @abstractmethod
    def results(self, x: TensorType, axis: int, a: Attrs) -> tuple[Type, ...]:
        """Result types, `axis` normalised."""


@register
class ArgMax(WholeAxis):
    """Index (i32) of the largest element: the lowest of equals; the first NaN, if there is one."""

    name = "argmax"
    attrs = _AXIS

    def results(self, x: TensorType, axis: int, a: Attrs) -> tuple[Type, ...]:
        if not (known_le(1, x.shape[axis]) and known_le(x.shape[axis], 2**31 - 1)):
            raise ShapeError(f"argmax needs 1 to 2**31 - 1 elements, got {x.shape[axis]}")
        return (i32[without_axis(x.shape, axis, keepdims=a.bool("keepdims"))],)

    def rule(self, xs: Sequence[Type], a: Attrs) -> Rule:
        (x,) = tensors(self.name, xs)
        axis = _axis(self, x, a)
        given, kept = _reduced_letters(x, axis, keepdims=a.bool("keepdims"))
        return Rule((given,), (kept,)).keep_whole(given[axis])

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        axis = normal_axis(self.name, a.int("axis"), xs[0].ndim)
        found = xp.argmax(xs[0], axis=axis, keepdims=a.bool("keepdims"))
        return (xp.astype(xp.asarray(found), xp.int32),)

    def flops(self, xs: Sequence[Type], a: Attrs, out: Sequence[Type]) -> Dim:
        return tensors(self.name, xs)[0].numel

    def samples(self) -> Sequence[Sample]:
        return [
            sample(f32[2, 8]),
            sample(bf16[_N, 3], axis=0, keepdims=True),
            sample(i32[2, 30], fills=("small_int",)),
            error(RankError, f32[2], axis=1),
            error(ShapeError, f32[2, 0]),
            error(DTypeError, bool_[4]),
        ]


@register
class CumSum(WholeAxis):
    """Sums of the first 1, 2, ... elements along an axis. Integers wrap. Linear."""

    name = "cumsum"
    attrs = {"axis": AttrSpec("axis", -1)}

    def results(self, x: TensorType, axis: int, a: Attrs) -> tuple[Type, ...]:
        return (TensorType(x.shape, x.dtype),)

    def rule(self, xs: Sequence[Type], a: Attrs) -> Rule:
        (x,) = tensors(self.name, xs)
        letters = axis_letters(x.rank)
        return Rule((letters,), (letters,)).terms().keep_whole(letters[_axis(self, x, a)])

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        axis = normal_axis(self.name, a.int("axis"), xs[0].ndim)
        return (xp.cumulative_sum(xs[0], axis=axis, dtype=xs[0].dtype),)

    def flops(self, xs: Sequence[Type], a: Attrs, out: Sequence[Type]) -> Dim:
        return tensors(self.name, xs)[0].numel

    def samples(self) -> Sequence[Sample]:
        return [
            sample(f32[2, 8]),
            sample(bf16[_N, 3], axis=0),
            sample(i8[2, 40], axis=1),
            sample(f32[2, 0]),
            error(RankError, f32[2], axis=-2),
            error(DTypeError, bool_[4]),
        ]


@register
class TopK(WholeAxis):
    """The `k` largest elements along an axis in descending order, and their indices (i32).

    Of equals the lowest index comes first; NaN counts as larger than everything.
    """

    name = "topk"
    attrs = {"k": AttrSpec("int"), "axis": AttrSpec("axis", -1)}

    def results(self, x: TensorType, axis: int, a: Attrs) -> tuple[Type, ...]:
        k, extent = a.int("k"), x.shape[axis]
        if k < 1 or not (known_le(k, extent) and known_le(extent, 2**31 - 1)):
            raise ShapeError(
                f"topk: k is {k}, but the dimension has {extent} elements",
                fix="k must be 1 to the dimension's least size",
            )
        shape = (*x.shape[:axis], k, *x.shape[axis + 1 :])
        return TensorType(shape, x.dtype), i32[shape]

    def rule(self, xs: Sequence[Type], a: Attrs) -> Rule:
        (x,) = tensors(self.name, xs)
        axis, letters = _axis(self, x, a), axis_letters(x.rank)
        kept = (*letters[:axis], "top", *letters[axis + 1 :])
        return Rule((letters,), (kept, kept)).keep_whole(letters[axis])

    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        x = xp.moveaxis(xs[0], a.int("axis"), -1)
        last = x.shape[-1] - 1
        # Ascending and stable over the reversed axis puts the lowest of equal indices last.
        order = last - xp.flip(xp.argsort(xp.flip(x, axis=-1), axis=-1, stable=True), axis=-1)
        index = order[..., : a.int("k")]
        values = xp.take_along_axis(x, index, axis=-1)
        back = (xp.moveaxis(part, -1, a.int("axis")) for part in (values, index))
        top, places = back
        return top, xp.astype(places, xp.int32)

    def flops(self, xs: Sequence[Type], a: Attrs, out: Sequence[Type]) -> Dim:
        return tensors(self.name, xs)[0].numel * a.int("k").bit_length()

    def samples(self) -> Sequence[Sample]:
        return [
            sample(f32[2, 8], k=3),
            sample(bf16[4, _N], k=2, axis=0),
            sample(i32[30], k=30, fills=("small_int",)),
            error(ShapeError, f32[2, 8], k=9),
            error(ShapeError, f32[2, _N], k=2),
            error(ShapeError, f32[2, 8], k=0),
            error(RankError, f32[8], k=1, axis=3),
            error(DTypeError, bool_[4], k=1),
        ]


def accumulated(x: Tensor) -> Tensor:
    """x in the format that its sums are kept in: short floats are cast to f32."""
    return x.cast(x.dtype.accumulator) if x.dtype.is_float else x


class FloatRow(Composite):
    """A composite over one float operand and one axis."""

    operands = ("x",)

    def check(self, xs: Sequence[TensorType], a: Attrs) -> None:
        need_float(self.name, xs[0])
        normal_axis(self.name, a.int("axis"), xs[0].rank)

    def samples(self) -> Sequence[Sample]:
        return [
            sample(f32[2, 8]),
            sample(bf16[_N, 3], axis=0),
            sample(f16[2, 3, 4], axis=1),
            error(RankError, f32[2, 8], axis=2),
            error(DTypeError, i64[4]),
            error(DTypeError, u8[4]),
        ]


@register
class Mean(FloatRow):
    """sum(x) / n along an axis, n the whole dimension's size; short floats are summed in f32."""

    name = "mean"
    attrs = _AXIS

    def body(self, *xs: Tensor, a: Attrs) -> Tensor:
        (x,) = xs
        axis, wide = normal_axis(self.name, a.int("axis"), x.rank), accumulated(x)
        count = active().lift(x.shape[axis], wide.dtype)
        return (wide.sum(axis, keepdims=a.bool("keepdims")) / count).cast(x.dtype)


@register
class LogSumExp(FloatRow):
    """log(sum(exp(x))) along an axis without overflow; -inf where all of x is -inf."""

    name = "logsumexp"
    attrs = _AXIS

    def body(self, *xs: Tensor, a: Attrs) -> Tensor:
        (x,) = xs
        axis, wide = normal_axis(self.name, a.int("axis"), x.rank), accumulated(x)
        top = wide.max(axis, keepdims=True)
        shift = where(equal(abs(top), _INFINITY), 0.0, top)
        total = log(exp(wide - shift).sum(axis, keepdims=True)) + shift
        if not a.bool("keepdims"):
            total = total.reshape(*without_axis(total.shape, axis, keepdims=False))
        return total.cast(x.dtype)


def sum(x: Tensor, axis: int = -1, *, keepdims: bool = False) -> Tensor:
    """Sum along an axis."""
    return x.sum(axis, keepdims=keepdims)


def max(x: Tensor, axis: int = -1, *, keepdims: bool = False) -> Tensor:
    """Largest element along an axis; NaN propagates."""
    return x.max(axis, keepdims=keepdims)


def min(x: Tensor, axis: int = -1, *, keepdims: bool = False) -> Tensor:
    """Smallest element along an axis; NaN propagates."""
    return x.min(axis, keepdims=keepdims)


def mean(x: Tensor, axis: int = -1, *, keepdims: bool = False) -> Tensor:
    """Mean along an axis."""
    return x.mean(axis, keepdims=keepdims)


def argmax(x: Tensor, axis: int = -1, *, keepdims: bool = False) -> Tensor:
    """Index (i32) of the largest element, the lowest of equals."""
    return active().tensor("argmax", x, axis=axis, keepdims=keepdims)


def logsumexp(x: Tensor, axis: int = -1, *, keepdims: bool = False) -> Tensor:
    """log(sum(exp(x))) along an axis."""
    return active().tensor("logsumexp", x, axis=axis, keepdims=keepdims)


def cumsum(x: Tensor, axis: int = -1) -> Tensor:
    """Running sums along an axis."""
    return active().tensor("cumsum", x, axis=axis)


def topk(x: Tensor, k: int, axis: int = -1) -> tuple[Tensor, Tensor]:
    """The k largest elements in descending order, and their indices (i32)."""
    values, index = active().tensors("topk", x, k=k, axis=axis)
    return values, index
