"""Values of attributes, read from the syntax tree as the operation's declaration says."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from tilewright.dsl.attrs import Attr, AttrSpec, Data
from tilewright.dsl.dims import Dim, build_dim
from tilewright.dsl.errors import AttributeError_
from tilewright.dsl.graph import Graph
from tilewright.dsl.mask import POSITIONS, Mask
from tilewright.dsl.text.syntax import first_token, last_token
from tilewright.dsl.text.type_reader import TypeReader, dtype, tokens, trees

if TYPE_CHECKING:
    from lark import Token, Tree

_CONSTANTS: dict[str, dict[str, Attr]] = {
    "bool": {"true": True, "false": False},
    "float": {"inf": float("inf"), "nan": float("nan")},
    "none": {"none": None},
}
_CONSTANTS["scalar"] = {**_CONSTANTS["bool"], **_CONSTANTS["float"]}

RESERVED = frozenset(name for kind in _CONSTANTS.values() for name in kind)
"""Names that no symbol may have, since an attribute could not tell it from the constant."""

_POSITIONS = {symbol.name: symbol for symbol in POSITIONS}


class ValueReader:
    """Reads the value of an attribute; `body` reads a graph inside."""

    def __init__(self, types: TypeReader, body: Callable[[Tree[Token]], Graph]) -> None:
        self._types = types
        self._body = body

    def read(self, tree: Tree[Token], spec: AttrSpec) -> Attr:
        """The value. A lone word is a constant, a number format or a symbol, as the kind says."""
        match tree.data:
            case "graph":
                return self._body(tree)
            case "string":
                return _string(tree)
            case "data":
                return _data(tokens(tree)[0])
            case "float":
                return float("".join(tokens(tree)))
            case "encoding":
                return self._types.encoding(tree)
            case "mask":
                return self._mask(tree)
            case "list":
                return tuple(
                    _string(item) if item.data == "string" else self._types.dim(item)
                    for item in trees(tree)
                )
            case "dim_symbol":
                return self._word(str(tree.children[0]), tree, spec)
            case "dim_neg" if spec.kind in ("float", "scalar") and _is_infinity(tree):
                return float("-inf")
            case _:
                return self._types.dim(tree)

    def _word(self, word: str, tree: Tree[Token], spec: AttrSpec) -> Attr:
        kinds = (spec.kind, "none") if spec.optional else (spec.kind,)
        for kind in kinds:
            constants = _CONSTANTS.get(kind, {})
            if word in constants:
                return constants[word]
        if spec.kind == "dtype":
            return dtype(word)
        if spec.kind == "encoding":
            return self._types.encoding(tree)
        if word in RESERVED:
            raise AttributeError_(f"expected {spec.kind}, got {word}")
        return self._types.dim(tree)

    def _mask(self, tree: Tree[Token]) -> Mask:
        clauses = [part for part in tree.children if not isinstance(part, str)]
        return Mask(tuple(tuple(map(self._comparison, trees(clause))) for clause in clauses))

    def _comparison(self, tree: Tree[Token]) -> Dim:
        left, right = trees(tree)
        table = {**self._types.symbols, **_POSITIONS}
        with self._types.source.at(tree):
            self._types.source.check_span(first_token(tree), last_token(tree))
            return build_dim(left, table) - build_dim(right, table)


def _string(tree: Tree[Token]) -> str:
    return cast("str", json.loads(tokens(tree)[0]))


def _data(token: Token) -> Data:
    digits = token[2:]
    if len(digits) % 2:
        raise AttributeError_("data has two digits for every byte", fix="write 0x00ff, not 0x0ff")
    return Data(bytes.fromhex(digits))


def _is_infinity(tree: Tree[Token]) -> bool:
    (operand,) = trees(tree)
    return operand.data == "dim_symbol" and str(operand.children[0]) == "inf"
