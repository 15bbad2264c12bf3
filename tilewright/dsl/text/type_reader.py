"""Types, placements and encodings, read from the syntax tree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar, cast

from tilewright.dsl.dims import Dim, Symbol, build_dim
from tilewright.dsl.dtypes import BY_NAME, DType, names
from tilewright.dsl.encoding import (
    CSR,
    DENSE,
    NM,
    BlockFloat,
    Blocks,
    Codebook,
    Columns,
    Encoding,
    FloatFormat,
    IntFormat,
    LowRank,
    NumberFormat,
    Pattern,
    Quantized,
    Sparse,
    Sum,
    Tiled,
)
from tilewright.dsl.errors import DTypeError, EncodingError, PlacementError, TextSyntaxError
from tilewright.dsl.ident import Ident, ident
from tilewright.dsl.placement import (
    REDUCE_OPS,
    REPLICATE,
    At,
    AxisPlacement,
    Local,
    Partial,
    Placement,
    Shard,
)
from tilewright.dsl.text.syntax import Source, first_token, last_token
from tilewright.dsl.types import CacheType, TensorType, Type

if TYPE_CHECKING:
    from lark import Token, Tree

MAX_DIGITS = 20
T = TypeVar("T")


def number(token: Token) -> int:
    """A plain integer. Raises TextSyntaxError beyond `MAX_DIGITS` digits."""
    if len(token) > MAX_DIGITS:
        raise TextSyntaxError(
            f"a number of {len(token)} digits", fix=f"numbers have at most {MAX_DIGITS} digits"
        )
    return int(token)


def dtype(name: str) -> DType:
    """The number format of that name. Raises DTypeError."""
    found = BY_NAME.get(name)
    if found is None:
        raise DTypeError(f"{name} is no number format", fix=f"use one of {names()}")
    return found


def tokens(tree: Tree[Token]) -> list[Token]:
    """The children of a rule that holds tokens alone."""
    return cast("list[Token]", tree.children)


def trees(tree: Tree[Token]) -> list[Tree[Token]]:
    """The children of a rule that holds no tokens."""
    return cast("list[Tree[Token]]", tree.children)


@dataclass(slots=True)
class TypeReader:
    """Reads types over the symbols that are declared."""

    source: Source
    symbols: Mapping[str, Symbol]
    _plain: dict[str, TensorType] = field(default_factory=dict[str, TensorType])

    def dim(self, tree: Tree[Token]) -> Dim:
        """A dimension over the declared symbols. Raises DimError."""
        with self.source.at(tree):
            self.source.check_span(first_token(tree), last_token(tree))
            return build_dim(tree, self.symbols)

    def type(self, tree: Tree[Token]) -> Type:
        """A tensor or cache type. Raises the mistake, with its place."""
        return self._cache(tree) if tree.data == "cache" else self._tensor(tree)

    def _tensor(self, tree: Tree[Token]) -> TensorType:
        shaped, *rest = cast("tuple[Token, Tree[Token]]", tuple(tree.children))
        found = self._plain.get(shaped)
        if found is None:
            found = self._plain[str(shaped)] = self._shaped(shaped)
        for part in rest:
            with self.source.at(part):
                if part.data == "placement":
                    found = found.with_placement(self._placement(part))
                else:
                    found = found.with_encoding(self.encoding(part))
        return found

    def _shaped(self, token: Token) -> TensorType:
        name, *sizes = self.source.shaped(token).children
        with self.source.at(token):
            found = dtype(str(name))
            dims = cast("list[Tree[Token]]", sizes)
            return TensorType(tuple(build_dim(d, self.symbols) for d in dims), found)

    def _cache(self, tree: Tree[Token]) -> CacheType:
        _, tensor, *options = cast("tuple[Token, Tree[Token], Tree[Token]]", tuple(tree.children))
        part = self._tensor(tensor)
        found: dict[str, int] = {}
        for option in options:
            name, size = tokens(option)
            with self.source.at(option):
                if name in found or name not in ("page", "window"):
                    raise TextSyntaxError(f"a cache has no further option {name}")
                found[str(name)] = number(size)
        with self.source.at(tensor):
            match part.shape:
                case (batch, capacity, int(heads), int(head_dim)) if not part.placement:
                    pass
                case _:
                    raise TextSyntaxError(
                        f"{part} is not what a cache stores",
                        fix="write kv<f32[batch, capacity, 8, 64]>, the last two being numbers",
                    )
            return CacheType(
                batch,
                capacity,
                heads,
                head_dim,
                part.dtype,
                found.get("page"),
                found.get("window"),
                part.encoding,
            )

    def _placement(self, tree: Tree[Token]) -> Placement:
        with self.source.at(tree):
            return Placement(tuple(map(self._axis_place, trees(tree))))

    def _axis_place(self, tree: Tree[Token]) -> tuple[Ident, AxisPlacement]:
        axis, kind, *rest = tokens(tree)
        with self.source.at(axis):
            name = ident(str(axis))
        with self.source.at(kind):
            match str(kind), rest:
                case "replicate", []:
                    return name, REPLICATE
                case "local", []:
                    return name, Local()
                case "shard", [size] if size.type == "INT":
                    return name, Shard(number(size))
                case "at", [size] if size.type == "INT":
                    return name, At(number(size))
                case "partial", [op]:
                    for known in REDUCE_OPS:
                        if op == known:
                            return name, Partial(known)
                case _:
                    pass
            raise PlacementError(
                f"{kind} is no placement here",
                fix="use replicate, shard(dim), partial(sum|max|min), local or at(index)",
            )

    def encoding(self, tree: Tree[Token]) -> Encoding:
        """A storage encoding. Raises EncodingError."""
        with self.source.at(tree):
            if tree.data != "encoding":
                return _plain(str(tree.children[0]))
            name, *parts = tree.children
            return self._encoding(str(name), _Parts(self, cast("list[Tree[Token]]", parts)))

    def _encoding(self, name: str, parts: _Parts) -> Encoding:
        match name:
            case "sum":
                found: Encoding = Sum(tuple(parts.rest(self.encoding)))
            case "lowrank":
                found = LowRank(parts.number())
            case "sparse":
                pattern = parts.pattern()
                axis = parts.axis()
                found = Sparse(pattern, axis, *self._values(name, parts))
            case "tiled":
                rows, columns = parts.number(), parts.number()
                found = Tiled(rows, columns, *self._values(name, parts))
            case _:
                found = _quantized(_number_format(name), parts)
        parts.finish(name)
        return found

    def _values(self, name: str, parts: _Parts) -> list[Encoding]:
        found = parts.rest(self.encoding)
        if len(found) > 1:
            raise EncodingError(f"{name} holds one encoding of its values")
        return found


class _Parts:
    """What stands between the angle brackets of an encoding, taken one by one."""

    def __init__(self, reader: TypeReader, parts: list[Tree[Token]]) -> None:
        self._reader = reader
        self._left = parts[::-1]

    def _take(self, rule: str) -> list[Token]:
        if self._left and self._left[-1].data == rule:
            return tokens(self._left.pop())
        raise EncodingError(f"a {rule} is missing")

    def number(self) -> int:
        return number(self._take("number")[0])

    def word(self) -> str:
        return str(self._take("word")[0])

    def named(self, name: str) -> str:
        found, value = self._take("named")
        if found != name:
            raise EncodingError(f"{name}=... is missing before {found}")
        return str(number(value)) if value.type == "INT" else str(value)

    def axis(self) -> int:
        """`axis=N`."""
        found = self.named("axis")
        if not found.isdecimal():
            raise EncodingError(f"axis is a number, not {found}")
        return int(found)

    def pattern(self) -> Pattern:
        if self._left and self._left[-1].data == "ratio":
            n, m = self._take("ratio")
            return NM(number(n), number(m))
        if not self._left or self._left[-1].data != "encoding":
            raise EncodingError("a sparse encoding begins with its pattern, such as 2:4")
        name, *inner = self._left.pop().children
        parts = _Parts(self._reader, cast("list[Tree[Token]]", inner))
        match str(name):
            case "blocks":
                found: Pattern = Blocks(parts.number(), parts.number(), parts.number())
            case "csr":
                found = CSR(parts.number())
            case "columns":
                found = Columns(parts.number())
            case _:
                raise EncodingError(f"{name} is no pattern of sparsity")
        parts.finish(str(name))
        return found

    def rest(self, read: Callable[[Tree[Token]], T]) -> list[T]:
        found = [read(part) for part in reversed(self._left)]
        self._left.clear()
        return found

    def finish(self, name: str) -> None:
        if self._left:
            raise EncodingError(f"{name} says too much")


def _plain(word: str) -> Encoding:
    if word == "dense":
        return DENSE
    raise EncodingError(f"{word} is no encoding")


def _quantized(format_: NumberFormat, parts: _Parts) -> Quantized:
    axis = parts.named("axis")
    group = parts.named("group")
    symmetry = parts.word()
    packing = parts.word()
    if not axis.isdigit() or not (group == "all" or group.isdigit()):
        raise EncodingError("axis is a number, group a number or all")
    if symmetry not in ("symmetric", "asymmetric") or packing not in ("plain", "nibbles", "split"):
        raise EncodingError(
            "after the group come symmetric or asymmetric, then plain, nibbles or split"
        )
    size = None if group == "all" else int(group)
    return Quantized(format_, int(axis), size, symmetry == "symmetric", packing)


def _number_format(name: str) -> NumberFormat:
    for prefix, kind in (("int", IntFormat), ("block", BlockFloat), ("codebook", Codebook)):
        bits = name.removeprefix(prefix)
        if bits != name and bits.isdigit() and len(bits) <= 2:
            return kind(int(bits))
    exponent, _, mantissa = name.removeprefix("e").partition("m")
    if name[0] == "e" and len(name) <= 5 and exponent.isdigit() and mantissa.isdigit():
        return FloatFormat(int(exponent), int(mantissa))
    raise EncodingError(
        f"{name} is no encoding",
        fix="use dense, intN, eXmY, blockN, codebookN, sparse, lowrank, tiled or sum",
    )
