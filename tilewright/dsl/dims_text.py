"""The text form of dimensions, read back.

    dim     = product (("+" | "-") product)*
    product = unary (("*" | "//" | "%") unary)*
    unary   = "-" unary | unit
    unit    = number | symbol | ("min" | "max") "(" dim ("," dim)* ")" | "(" dim ")"

`min` and `max` are no keywords: a symbol may have these names. A larger grammar embeds `DIM_RULES`,
supplies the terminals NAME and INT, and hands the tree of its rule `dim` to `build_dim`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Final, cast

from tilewright.dsl.dims_atoms import Symbol
from tilewright.dsl.dims_eval import DIM_ARITHMETIC, DimOp
from tilewright.dsl.dims_normal import COEFFICIENT_LIMIT, Dim, of_symbol
from tilewright.dsl.dims_order import dim_max, dim_min
from tilewright.dsl.errors import DimError

if TYPE_CHECKING:
    from lark import Lark, Token, Tree

DIM_RULES: Final = """
?dim: dim_product | dim "+" dim_product -> dim_add | dim "-" dim_product -> dim_sub
?dim_product: dim_unary
    | dim_product "*" dim_unary -> dim_mul
    | dim_product "//" dim_unary -> dim_floordiv
    | dim_product "%" dim_unary -> dim_mod
?dim_unary: dim_unit | "-" dim_unary -> dim_neg
?dim_unit: INT -> dim_int
    | NAME -> dim_symbol
    | NAME "(" dim ("," dim)* ")" -> dim_call
    | "(" dim ")"
"""
_TERMINALS: Final = r"""
NAME: /[A-Za-z_][A-Za-z0-9_]{0,127}(?![A-Za-z0-9_])/
INT: /[0-9]+(?![A-Za-z0-9_])/
%ignore " "
"""
_OPERATORS: Final[Mapping[str, DimOp]] = {
    "dim_add": "+",
    "dim_sub": "-",
    "dim_mul": "*",
    "dim_floordiv": "//",
    "dim_mod": "%",
}
_SPAN: Final = 40
_MAX_TEXT: Final = 65536
_MAX_DIGITS: Final = len(str(COEFFICIENT_LIMIT))


def parse_dim(text: str, table: Mapping[str, Symbol]) -> Dim:
    """Read a dimension; `table` gives the symbols by name.

    `parse_dim(to_text(d), table) == d`. Raises DimError for what is malformed, unknown or too big.
    """
    from lark.exceptions import UnexpectedInput, UnexpectedToken

    if len(text) > _MAX_TEXT:
        raise DimError(f"the text of a dimension has more than {_MAX_TEXT} characters")
    try:
        tree = _parser().parse(text)
    except UnexpectedInput as error:
        position = error.pos_in_stream or 0
        if isinstance(error, UnexpectedToken) and cast("Token", error.token).type == "$END":
            position = len(text)
        raise DimError(
            f"not a dimension:\n{_excerpt(text, position)}", where=f"column {position + 1}"
        ) from None
    return build_dim(tree, table)


def build_dim(tree: Tree[Token], table: Mapping[str, Symbol]) -> Dim:
    """The dimension that a tree of the rule `dim` stands for; without recursion.

    Raises DimError for unknown symbols and functions and for numbers out of range.
    """
    values: list[Dim] = []
    for node in _postorder(tree):
        first = node.children[0]
        if node.data in ("dim_int", "dim_symbol"):
            values.append(_leaf(str(first), table))
            continue
        arity = len(_subtrees(node))
        args = values[-arity:]
        del values[-arity:]
        value = _extremum(str(first), args) if node.data == "dim_call" else _joined(node.data, args)
        if type(value) is int and abs(value) >= COEFFICIENT_LIMIT:
            raise DimError("a number in a dimension leaves 128 bits")
        values.append(value)
    return values[0]


@cache
def _parser() -> Lark:
    from lark import Lark

    return Lark(DIM_RULES + _TERMINALS, start="dim", parser="lalr")


def _subtrees(node: Tree[Token]) -> list[Tree[Token]]:
    return [child for child in node.children if not isinstance(child, str)]


def _postorder(tree: Tree[Token]) -> list[Tree[Token]]:
    """All subtrees, operands before what they are operands of, from left to right."""
    order: list[Tree[Token]] = []
    pending = [tree]
    while pending:
        node = pending.pop()
        order.append(node)
        pending.extend(_subtrees(node))
    return order[::-1]


def _leaf(text: str, table: Mapping[str, Symbol]) -> Dim:
    if text[0].isdigit():
        if len(text) > _MAX_DIGITS:
            raise DimError(f"the number {text[:_MAX_DIGITS]}... has {len(text)} digits")
        return int(text)
    if text not in table:
        known = ", ".join(sorted(table)) or "none"
        raise DimError(f"{text} is not a symbol", fix=f"declare it, or use one of: {known}")
    return of_symbol(table[text])


def _joined(rule: str, args: list[Dim]) -> Dim:
    return -args[0] if rule == "dim_neg" else DIM_ARITHMETIC[_OPERATORS[rule]](*args)


def _extremum(name: str, args: list[Dim]) -> Dim:
    match name:
        case "min":
            return dim_min(*args)
        case "max":
            return dim_max(*args)
        case _:
            raise DimError(f"{name} is not a function of dimensions", fix="use min or max")


def _excerpt(text: str, position: int) -> str:
    """The text around the position, made printable, with a caret below."""
    start = max(position - _SPAN, 0)
    before, after = (
        "".join(c if c.isprintable() else "?" for c in part)
        for part in (text[start:position], text[position : position + _SPAN])
    )
    return f"  {before}{after}\n  {' ' * len(before)}^"
