"""What an operation is: one class that holds operands, attributes, types, placement, meaning, cost
and samples. `registry` lists all of them; a test walks it and fails on a hole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, Literal, TypeVar

from numpy.typing import NDArray

from tilewright.dsl.attrs import Attrs, AttrSpec, check_attrs
from tilewright.dsl.cost import Cost, nbytes
from tilewright.dsl.dims import Dim
from tilewright.dsl.errors import (
    ArityError,
    CompilerBug,
    DTypeError,
    EncodingError,
    TilewrightError,
    UnknownOp,
)
from tilewright.dsl.placement import REPLICATED, Mesh, Placement
from tilewright.dsl.sharding import Rule, infer
from tilewright.dsl.shards import check_borders
from tilewright.dsl.types import CacheType, TensorType, Type

T = TypeVar("T", bound="OpDef")

Array = NDArray[Any]
"""A dense array: float64 for every float, the exact width for integers and bools."""

Fill = Literal["normal", "positive", "unit", "index", "bool", "small_int"]
"""How test inputs are drawn; `index` draws below the bound a sample names."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A legal (or, with `error`, illegal) use, from which tests are derived."""

    operands: tuple[Type, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    error: type[TilewrightError] | None = None
    fills: tuple[Fill, ...] = ()
    below: int = 1
    """Exclusive bound of `index` fills."""
    mesh: Mesh = field(default_factory=Mesh)


def sample(*operands: Type, fills: tuple[Fill, ...] = (), below: int = 1, **attrs: Any) -> Sample:
    """A legal use."""
    return Sample(operands, attrs, None, fills, below)


def error(mistake: type[TilewrightError], *operands: Type, **attrs: Any) -> Sample:
    """An illegal use, which must raise `mistake`."""
    return Sample(operands, attrs, mistake)


class OpDef(ABC):
    """An operation. Subclasses are stateless; the registry holds one instance of each.

    `operands` names them in order; a trailing `?` marks an optional one, a trailing `*` any number.
    """

    name: ClassVar[str]
    operands: ClassVar[tuple[str, ...]]
    attrs: ClassVar[Mapping[str, AttrSpec]] = {}
    takes_encoded: ClassVar[bool] = False
    """True where operands may be encoded (they are moved, not computed with)."""
    is_collective: ClassVar[bool] = False
    is_backward_stable: ClassVar[bool] = False
    """True where a right result is that of slightly other operands, and may be far from the exact
    one: tolerances are derived so."""
    consumes: ClassVar[frozenset[int]] = frozenset()
    """Operands (states) that are used up: a later reader of the old value is an error."""

    @abstractmethod
    def types(self, xs: Sequence[Type], a: Attrs) -> tuple[Type, ...]:
        """Result types, placement aside. Raises the mistake it finds."""

    @abstractmethod
    def rule(self, xs: Sequence[Type], a: Attrs) -> Rule:
        """The placement rule for operands of these shapes."""

    @abstractmethod
    def meaning(self, xp: Any, xs: Sequence[Any], a: Attrs, out: Sequence[Type]) -> tuple[Any, ...]:
        """The results over the array namespace `xp`, floats in float64; shapes are concrete."""

    @abstractmethod
    def flops(self, xs: Sequence[Type], a: Attrs, out: Sequence[Type]) -> Dim:
        """Arithmetic of one application; 0 for pure data movement."""

    @abstractmethod
    def samples(self) -> Sequence[Sample]:
        """Uses from which tests are derived: at least one legal."""

    def cost(self, xs: Sequence[Type], a: Attrs, out: Sequence[Type]) -> Cost:
        """FLOPs, and every operand read and every result written once."""
        return Cost(self.flops(xs, a, out), nbytes(xs), nbytes(out))

    def placements(
        self, xs: Sequence[Type], a: Attrs, out: Sequence[Type], mesh: Mesh
    ) -> Sequence[Placement]:
        """Where the results lie. Follows from `rule`; collectives say it themselves."""
        held = [x.placement if isinstance(x, TensorType) else REPLICATED for x in xs]
        if not any(held):
            return [REPLICATED] * len(out)
        return infer(self.rule(xs, a), held, self.name)

    def check_values(self, xs: Sequence[Any], a: Attrs) -> None:  # noqa: B027  # most check nothing
        """Raises IndexOutOfRange where checked evaluation refuses the operands' values."""

    def localize(self, a: Attrs, out: Sequence[Type]) -> Attrs:
        """Attributes of the same operation on one rank's shards; `out` has the local shapes."""
        return a

    def arity(self) -> tuple[int, int | None]:
        """Fewest and most operands (None: no limit)."""
        return _arity(self.operands)

    def infer(self, xs: Sequence[Type], a: Attrs, mesh: Mesh) -> tuple[Type, ...]:
        """Result types with placement: the complete type rule."""
        least, most = self.arity()
        if len(xs) < least or (most is not None and len(xs) > most):
            wanted = str(least) if least == most else f"{least} to {most or 'any number'}"
            raise ArityError(f"{self.name} takes {wanted} operands, got {len(xs)}")
        if not self.takes_encoded:
            self._check_dense(xs)
        out = self.types(xs, a)
        places = self.placements(xs, a, out, mesh)
        results = tuple(_place(o, p) for o, p in zip(out, places, strict=True))
        for type_ in (*xs, *results):
            if isinstance(type_, TensorType) and not type_.is_dense:
                check_borders(self.name, type_, mesh)
        return results

    def _check_dense(self, xs: Sequence[Type]) -> None:
        for index, x in enumerate(xs):
            if isinstance(x, TensorType) and not x.is_dense:
                raise EncodingError(
                    f"{self.name}: operand {index} is stored as {x.encoding}",
                    fix=f"decode it first: {self.name}(decode(x))",
                )


@cache
def _arity(operands: tuple[str, ...]) -> tuple[int, int | None]:
    least = sum(1 for o in operands if o[-1] not in "?*")
    endless = any(o.endswith("*") for o in operands)
    return least, None if endless else len(operands)


def _place(type_: Type, placement: Placement) -> Type:
    return type_.with_placement(placement) if isinstance(type_, TensorType) else type_


_REGISTRY: dict[str, OpDef] = {}


def register(cls: type[T]) -> type[T]:
    """Class decorator: puts one instance into the registry."""
    if cls.name in _REGISTRY:
        raise CompilerBug(f"operation {cls.name} is defined twice")
    _REGISTRY[cls.name] = cls()
    return cls


def registry() -> Mapping[str, OpDef]:
    """All operations, sorted by name."""
    return dict(sorted(_REGISTRY.items()))


def get(name: str) -> OpDef:
    """The operation of that name. Raises UnknownOp with the nearest names."""
    found = _REGISTRY.get(name)
    if found is None:
        from difflib import get_close_matches

        near = ", ".join(get_close_matches(name, _REGISTRY)) or "see `tilewright list ops`"
        raise UnknownOp(f"there is no operation {name!r}", fix=f"did you mean: {near}")
    return found


def checked_attrs(op: OpDef, given: Mapping[str, Any]) -> Attrs:
    """Defaults filled in and kinds checked."""
    return check_attrs(op.name, op.attrs, given)


def tensors(op: str, xs: Sequence[Type]) -> tuple[TensorType, ...]:
    """The operands as tensor types. Raises DTypeError where one is a cache."""
    for index, x in enumerate(xs):
        if isinstance(x, CacheType):
            raise DTypeError(f"{op}: operand {index} is a cache", fix="take a view of it")
    return tuple(x for x in xs if isinstance(x, TensorType))


def same_dtype(op: str, xs: Sequence[TensorType]) -> None:
    """Raises DTypeError unless all dtypes agree: tensors never promote."""
    for x in xs[1:]:
        if x.dtype != xs[0].dtype:
            raise DTypeError(
                f"{op}: operands are {xs[0].dtype} and {x.dtype}",
                fix=f"cast(x, {xs[0].dtype}) makes the conversion visible",
            )


def need_float(op: str, x: TensorType) -> None:
    """Raises DTypeError unless the operand is a float."""
    if not x.dtype.is_float:
        raise DTypeError(f"{op} needs a float operand, got {x.dtype}", fix="cast it first")
