"""Triton text, built as a Python syntax tree and printed once: no text of a user ever enters.

Values are blocks of two axes, rows and columns. A block has length one along an axis that it does
not depend on, and meets others by broadcasting.
"""

from __future__ import annotations

import ast
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf, isfinite

from tilewright.dsl.ident import Ident, ident

_BINARY: Mapping[str, type[ast.operator]] = {
    "+": ast.Add,
    "-": ast.Sub,
    "*": ast.Mult,
    "/": ast.Div,
    "//": ast.FloorDiv,
    "%": ast.Mod,
    "&": ast.BitAnd,
    "|": ast.BitOr,
}
_COMPARE: Mapping[str, type[ast.cmpop]] = {
    "<": ast.Lt,
    "<=": ast.LtE,
    "==": ast.Eq,
    "!=": ast.NotEq,
}


@dataclass(frozen=True, slots=True)
class Block:
    """An expression, the tile axes along which it varies, and what it was before it was widened."""

    node: ast.expr
    rows: bool = False
    columns: bool = False
    stored: ast.expr | None = None

    @property
    def text(self) -> str:
        """The expression as Triton writes it."""
        return ast.unparse(self.node)


Operand = Block | int | float | bool


def name(word: str) -> Block:
    """A variable, or a dotted name of the language such as `tl.float32`."""
    first, *rest = map(ident, word.split("."))
    node: ast.expr = ast.Name(first)
    for part in rest:
        node = ast.Attribute(node, part)
    return Block(node)


def literal(value: float) -> Block:
    """A number; infinities and NaN as Triton spells them."""
    if isinstance(value, float) and not isfinite(value):
        word = "inf" if value == inf else "-inf" if value == -inf else "nan"
        return Block(ast.Call(ast.Name("float"), [ast.Constant(word)], []))
    return Block(ast.Constant(value))


def option(word: str) -> Block:
    """A word as an argument's value, such as `"ieee"`."""
    return Block(ast.Constant(ident(word)))


def block(value: Operand) -> Block:
    """A block, numbers included."""
    return value if isinstance(value, Block) else literal(value)


def joined(node: ast.expr, parts: Sequence[Block]) -> Block:
    """An expression over blocks: it varies along every axis that one of them varies along."""
    return Block(node, any(p.rows for p in parts), any(p.columns for p in parts))


def binary(op: str, left: Operand, right: Operand) -> Block:
    """`left op right`, folded for integers, and where a known 0 or 1 changes nothing."""
    if op in ("+", "*"):
        folded = _folded(op, block(left), block(right))
        if folded is not None:
            return folded
    parts = block(left), block(right)
    if op in _COMPARE:
        return joined(ast.Compare(parts[0].node, [_COMPARE[op]()], [parts[1].node]), parts)
    return joined(ast.BinOp(parts[0].node, _BINARY[op](), parts[1].node), parts)


def _folded(op: str, left: Block, right: Block) -> Block | None:
    for one, other in ((left, right), (right, left)):
        known = one.node.value if isinstance(one.node, ast.Constant) else None
        if type(known) is not int:
            continue
        if known == (0 if op == "+" else 1):
            return other
        if op == "*" and known == 0:
            return literal(0)
        if isinstance(other.node, ast.Constant) and type(other.node.value) is int:
            return literal(known + other.node.value if op == "+" else known * other.node.value)
    return None


def negative(x: Block) -> Block:
    """`-x`."""
    return joined(ast.UnaryOp(ast.USub(), x.node), [x])


def call(function: str, *args: Operand | str, **options: Operand | str) -> Block:
    """A call of a Triton function; a text among the arguments is a dotted name."""
    positional = [name(a) if isinstance(a, str) else block(a) for a in args]
    named = {k: name(v) if isinstance(v, str) else block(v) for k, v in options.items()}
    keywords = [ast.keyword(k, v.node) for k, v in named.items()]
    node = ast.Call(name(function).node, [p.node for p in positional], keywords)
    return joined(node, [*positional, *named.values()])


def to(x: Block, kind: str) -> Block:
    """x in another number format."""
    return joined(ast.Call(ast.Attribute(x.node, "to"), [name(kind).node], []), [x])


def shape(*sizes: Operand | str) -> Block:
    """`[BLOCK_ROWS, BLOCK_COLUMNS]`."""
    parts = [name(s) if isinstance(s, str) else block(s) for s in sizes]
    return Block(ast.List([p.node for p in parts]))


def lanes(size: str, *, rows: bool) -> Block:
    """0, 1, 2 ... along one axis."""
    whole, new = ast.Slice(), ast.Constant(None)
    at = ast.Tuple([whole, new] if rows else [new, whole])
    node = ast.Subscript(call("tl.arange", 0, size).node, at)
    return Block(node, rows=rows, columns=not rows)


@dataclass
class Writer:
    """A kernel under construction: its parameters with their types, and its statements."""

    parameters: dict[Ident, str] = field(default_factory=dict[Ident, str])
    _names: dict[str, int] = field(default_factory=dict[str, int])
    _bodies: list[list[ast.stmt]] = field(default_factory=lambda: [[]])

    def parameter(self, word: str, kind: str) -> Block:
        """A parameter, entered at its first use; `kind` is a Triton type or `constexpr`."""
        self.parameters[ident(word)] = kind
        return name(word)

    def let(self, hint: str, value: Block) -> Block:
        """The value under a name of its own; names, numbers and widened loads stay as they are."""
        if isinstance(value.node, ast.Name | ast.Constant) or value.stored is not None:
            return value
        return self.variable(hint, value)

    def variable(self, hint: str, value: Block) -> Block:
        """A new variable that starts with a value."""
        count = self._names.get(hint, 0)
        self._names[hint] = count + 1
        target = name(hint if count == 0 else f"{hint}_{count}")
        self.assign(target, value)
        return Block(target.node, value.rows, value.columns)

    def assign(self, target: Block, value: Block) -> None:
        """A variable's new value."""
        self._bodies[-1].append(ast.Assign([target.node], value.node, lineno=0))

    def do(self, value: Block) -> None:
        """A statement that is run for its effect."""
        self._bodies[-1].append(ast.Expr(value.node))

    @contextmanager
    def loop(self, hint: str, stop: Block, step: str) -> Generator[Block]:
        """`for hint in range(0, stop, step)`."""
        count = self._names.get(hint, 0)
        self._names[hint] = count + 1
        at = name(hint if count == 0 else f"{hint}_{count}")
        self._bodies.append([])
        yield at
        body = self._bodies.pop()
        steps = call("range", 0, stop, step).node
        self._bodies[-1].append(ast.For(at.node, steps, body, [], lineno=0))

    def source(self, entry: str, summary: str) -> str:
        """The module: imports and one kernel, without variables that nobody reads."""
        arguments = [
            ast.arg(word, name("tl.constexpr").node if kind == "constexpr" else None)
            for word, kind in self.parameters.items()
        ]
        doc: ast.stmt = ast.Expr(ast.Constant(summary))
        kernel = ast.FunctionDef(
            ident(entry),
            ast.arguments([], arguments, None, [], [], None, []),
            [doc, *_alive(self._bodies[0])],
            [name("triton.jit").node],
            lineno=0,
        )
        imports: list[ast.stmt] = [
            ast.Import([ast.alias("triton")]),
            ast.Import([ast.alias("triton.language", "tl")]),
        ]
        return ast.unparse(ast.Module([*imports, kernel], [])) + "\n"


def _alive(body: list[ast.stmt]) -> list[ast.stmt]:
    """The statements without assignments of names that no later statement reads."""
    read: set[str] = set()
    kept: list[ast.stmt] = []
    for statement in reversed(body):
        if isinstance(statement, ast.For):
            # What one turn writes the next may read: a variable of the loop lives if it is read.
            read |= _reads(statement)
            statement.body = _alive_inside(statement.body, read)
        elif isinstance(statement, ast.Assign) and statement.targets[0].id not in read:  # pyright: ignore[reportAttributeAccessIssue]  # all targets are names
            continue
        read |= _reads(statement)
        kept.append(statement)
    return kept[::-1]


def _alive_inside(body: list[ast.stmt], read: set[str]) -> list[ast.stmt]:
    return [s for s in body if not isinstance(s, ast.Assign) or ast.unparse(s.targets[0]) in read]


def _reads(statement: ast.stmt) -> set[str]:
    value = statement.value if isinstance(statement, ast.Assign) else statement
    return {node.id for node in ast.walk(value) if isinstance(node, ast.Name)}
