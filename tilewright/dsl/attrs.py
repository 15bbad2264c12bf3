"""Attributes of a node: a small closed set of immutable kinds, each with one text form."""

from __future__ import annotations

import json
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar, cast

from tilewright.dsl.dims import Dim, DimExpr, substitute, to_text
from tilewright.dsl.dtypes import DType
from tilewright.dsl.encoding import Dense, Encoding, LowRank, Quantized, Sparse, Sum, Tiled
from tilewright.dsl.errors import AttributeError_, ConstantTooLarge
from tilewright.dsl.mask import Mask

if TYPE_CHECKING:
    from collections.abc import Callable

    from tilewright.dsl.graph import Graph

MAX_DATA_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Data:
    """The little-endian bytes of a literal tensor; anything larger is a parameter."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) > MAX_DATA_BYTES:
            raise ConstantTooLarge(
                f"a literal of {len(self.raw)} bytes is over the limit of {MAX_DATA_BYTES}",
                fix="make it a parameter of the program",
            )

    def __str__(self) -> str:
        return f"0x{self.raw.hex()}"


Leaf = bool | int | float | str | DimExpr | DType | Encoding | Mask | Data
Attr: TypeAlias = "Leaf | tuple[Attr, ...] | Graph | None"

AttrKind = Literal[
    "bool",
    "int",
    "float",
    "str",
    "dim",
    "dtype",
    "encoding",
    "mask",
    "data",
    "graph",
    "scalar",
    "ints",
    "dims",
    "strs",
    "axis",
    "none",
]

T = TypeVar("T")


class Required:
    """Marks an attribute without a default."""


REQUIRED = Required()


@dataclass(frozen=True, slots=True)
class AttrSpec:
    """What an operation expects under one name; a `scalar` is a bool, int, float or dim."""

    kind: AttrKind
    default: object = REQUIRED
    optional: bool = False
    """True where None is allowed."""


class Attrs(Mapping[str, "Attr"]):
    """An immutable, hashable mapping; equality is that of the texts (so 1, 1.0, -0.0 differ)."""

    __slots__ = ("_items", "_text")

    def __init__(self, items: Mapping[str, Attr] | None = None) -> None:
        self._items: dict[str, Attr] = dict(sorted((items or {}).items()))
        self._text = ", ".join(f"{name}={attr_text(v)}" for name, v in self._items.items())

    def __getitem__(self, name: str) -> Attr:
        try:
            return self._items[name]
        except KeyError:
            raise AttributeError_(f"attribute {name!r} is missing") from None

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def keys(self) -> KeysView[str]:
        return self._items.keys()

    def values(self) -> ValuesView[Attr]:
        return self._items.values()

    def items(self) -> ItemsView[str, Attr]:
        return self._items.items()

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Attrs) or self._text != other._text:
            return False
        return all(map(_same, self._items.values(), other._items.values()))

    def __hash__(self) -> int:
        return hash(self._text)

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"Attrs({self._text})"

    def replace(self, **changes: Attr) -> Attrs:
        """The same attributes with some replaced or added."""
        return Attrs({**self._items, **changes})

    def int(self, name: str) -> int:
        """An integer attribute."""
        return self._typed(name, int)

    def bool(self, name: str) -> bool:
        """A boolean attribute."""
        return self._typed(name, bool)

    def float(self, name: str) -> float:
        """A float attribute (integers convert)."""
        value = self[name]
        return float(value) if isinstance(value, int) else self._typed(name, float)

    def str(self, name: str) -> str:
        """A string attribute."""
        return self._typed(name, str)

    def dtype(self, name: str) -> DType:
        """A number format."""
        return self._typed(name, DType)

    def mask(self, name: str) -> Mask:
        """An attention mask."""
        return self._typed(name, Mask)

    def data(self, name: str) -> Data:
        """A literal's bytes."""
        return self._typed(name, Data)

    def graph(self, name: str) -> Graph:
        """A body graph."""
        from tilewright.dsl.graph import Graph

        return self._typed(name, Graph)

    def encoding(self, name: str) -> Encoding:
        """A storage encoding."""
        value = self[name]
        if isinstance(value, Dense | Quantized | Sparse | LowRank | Sum | Tiled):
            return value
        raise self._wrong(name, "an encoding")

    def dim(self, name: str) -> Dim:
        """A dimension: an int or an expression."""
        value = self[name]
        if isinstance(value, int | DimExpr):
            return value
        raise self._wrong(name, "a dimension")

    def dims(self, name: str) -> tuple[Dim, ...]:
        """A shape."""
        value = self[name]
        if isinstance(value, tuple) and all(isinstance(v, int | DimExpr) for v in value):
            return tuple(v for v in value if isinstance(v, int | DimExpr))
        raise self._wrong(name, "a tuple of dimensions")

    def ints(self, name: str) -> tuple[int, ...]:
        """A tuple of integers."""
        value = self[name]
        if isinstance(value, tuple) and all(isinstance(v, int) for v in value):
            return tuple(v for v in value if isinstance(v, int))
        raise self._wrong(name, "a tuple of integers")

    def strs(self, name: str) -> tuple[str, ...]:
        """A tuple of strings."""
        value = self[name]
        if isinstance(value, tuple) and all(isinstance(v, str) for v in value):
            return tuple(v for v in value if isinstance(v, str))
        raise self._wrong(name, "a tuple of strings")

    def _typed(self, name: str, kind: type[T]) -> T:
        value = self[name]
        if isinstance(value, kind):
            return value
        raise self._wrong(name, kind.__name__)

    def _wrong(self, name: str, wanted: str) -> AttributeError_:
        return AttributeError_(f"attribute {name!r} is {attr_text(self[name])}, not {wanted}")


EMPTY = Attrs()


def _same(one: Attr, other: Attr) -> bool:
    """Whether two values of one text agree in what the text leaves out: the ranges of symbols."""
    from tilewright.dsl.graph import Graph

    if isinstance(one, DimExpr | Mask | Graph):
        return one == other
    if isinstance(one, tuple) and isinstance(other, tuple):
        return all(map(_same, one, other))
    return True


def attr_text(value: Attr) -> str:
    """The one text form of an attribute value; the parser reads it back to an equal value."""
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case float():
            return _float_text(value)
        case str():
            return json.dumps(value, ensure_ascii=True)
        case DimExpr():
            return to_text(value)
        case tuple():
            return "[" + ", ".join(attr_text(part) for part in value) + "]"
        case _:
            return str(value)


def _float_text(value: float) -> str:
    if value != value:
        return "nan"
    if value in (float("inf"), float("-inf")):
        return "inf" if value > 0 else "-inf"
    return repr(float(value))  # of a NumPy float too


def substitute_attrs(attrs: Attrs, env: Mapping[str, Dim]) -> Attrs:
    """The attributes with symbols replaced in every dimension they hold (body graphs included)."""
    return Attrs({name: _substitute(value, env) for name, value in attrs.items()})


def _substitute(value: Attr, env: Mapping[str, Dim]) -> Attr:
    from tilewright.dsl.graph import Graph, substitute_graph

    match value:
        case DimExpr():
            return substitute(value, env)
        case tuple():
            return tuple(_substitute(part, env) for part in value)
        case Graph():
            return substitute_graph(value, env)
        case Mask(clauses):
            free = {name: size for name, size in env.items() if name not in ("q", "k")}
            return Mask(tuple(tuple(substitute(e, free) for e in clause) for clause in clauses))
        case _:
            return value


def check_attrs(op: str, specs: Mapping[str, AttrSpec], given: Mapping[str, object]) -> Attrs:
    """Defaults filled in, kinds checked. Raises AttributeError_ naming the operation."""
    unknown = sorted(given.keys() - specs.keys())
    if unknown:
        known = ", ".join(specs) or "none"
        raise AttributeError_(f"{op} has no attribute {unknown[0]!r}", fix=f"it has: {known}")
    found: dict[str, Attr] = {}
    for name, spec in specs.items():
        value = given.get(name, REQUIRED) if name in given else spec.default
        if isinstance(value, Required):
            raise AttributeError_(f"{op} needs attribute {name!r} ({spec.kind})")
        if not _fits(value, spec):
            raise AttributeError_(f"{op}: attribute {name!r} must be {spec.kind}, got {value!r}")
        found[name] = _normal(value, spec)
    if (
        isinstance(given, Attrs)
        and len(given) == len(found)
        and all(given[name] is value for name, value in found.items())
    ):
        return given
    return Attrs(found)


def _normal(value: object, spec: AttrSpec) -> Attr:
    if spec.kind == "float" and isinstance(value, int):
        return float(value)
    return cast("Attr", value)


def _fits(value: object, spec: AttrSpec) -> bool:
    if value is None:
        return spec.optional or spec.kind == "none"
    return _FITS[spec.kind](value)


def _is_int(value: object) -> bool:
    """Whether this is an integer that 64 bits hold, signed or unsigned."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**64


def _is_float(value: object) -> bool:
    return isinstance(value, float) or _is_int(value)


def _is_dim(value: object) -> bool:
    return isinstance(value, DimExpr) or _is_int(value)


def _is_scalar(value: object) -> bool:
    return isinstance(value, bool | float | DimExpr) or _is_int(value)


def _is_str(value: object) -> bool:
    """Whether this is a text; lone surrogates are none, and would not survive being printed."""
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


def _is_graph(value: object) -> bool:
    from tilewright.dsl.graph import Graph

    return isinstance(value, Graph)


def _all(kind: Callable[[object], bool]) -> Callable[[object], bool]:
    def fits(value: object) -> bool:
        return isinstance(value, tuple) and all(map(kind, cast("tuple[object, ...]", value)))

    return fits


def _is(*kinds: type) -> Callable[[object], bool]:
    return lambda value: isinstance(value, kinds)


_FITS: dict[AttrKind, Callable[[object], bool]] = {
    "bool": _is(bool),
    "int": _is_int,
    "axis": _is_int,
    "float": _is_float,
    "str": _is_str,
    "dim": _is_dim,
    "scalar": _is_scalar,
    "dtype": _is(DType),
    "encoding": _is(Dense, Quantized, Sparse, LowRank, Sum, Tiled),
    "mask": _is(Mask),
    "data": _is(Data),
    "graph": _is_graph,
    "ints": _all(_is_int),
    "dims": _all(_is_dim),
    "strs": _all(_is_str),
    "none": lambda value: value is None,
}
