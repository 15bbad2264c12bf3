"""Bool tensors computed from positions, read back as predicates on indices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tilewright.dsl.dims import (
    DIM_ARITHMETIC,
    Dim,
    DimExpr,
    Operation,
    dim,
    fold,
    of_symbol,
    symbols,
)
from tilewright.dsl.graph import Node, Value
from tilewright.dsl.mask import EVERYTHING, POSITIONS, K, Mask, Q
from tilewright.dsl.types import Shape
from tilewright.passes.match import Match

_DEPTH = 24
_FAR = 2**31
_CLAUSES = 16
NOTHING = Mask(((),))


def index_of(axis: int) -> DimExpr:
    """The index along an axis counted from the right, 0 for the last."""
    return dim(f"index_{axis}_from_right", 0, _FAR)


@dataclass(frozen=True, slots=True)
class Predicates:
    """Reads values as expressions of their own indices; `match` learns what was gone through."""

    match: Match

    def holds(self, value: Value, *, negated: bool = False, depth: int = _DEPTH) -> Mask | None:
        """Where a bool value is true (or false), over `index_of`; None if data decides."""
        node = self.match.take(value, *_PREDICATES) if depth else None
        if node is None:
            return None
        if node.op == "full":
            return EVERYTHING if node.attrs.bool("value") != negated else NOTHING
        if node.op in _MOVES:
            inner = self.holds(node.operands[0], negated=negated, depth=depth - 1)
            moved = None if inner is None else moved_axes(node)
            return None if inner is None or moved is None else _renamed(inner, moved)
        if node.op == "logical_not":
            return self.holds(node.operands[0], negated=not negated, depth=depth - 1)
        if node.op in ("logical_and", "logical_or"):
            one, other = (self.holds(v, negated=negated, depth=depth - 1) for v in node.operands)
            if one is None or other is None:
                return None
            return one & other if (node.op == "logical_and") != negated else _either(one, other)
        one, other = (self.position(v, depth - 1) for v in node.operands)
        return None if one is None or other is None else _COMPARE[node.op, negated](one, other)

    def position(self, value: Value, depth: int = _DEPTH) -> Dim | None:
        """An integer value as an expression of its own indices; None if data decides."""
        node = self.match.take(value, *_POSITIONS) if depth else None
        if node is None or not value.tensor.dtype.is_integer or value.tensor.dtype.bits < 32:
            return None
        if node.op == "full":
            stated = node.attrs["value"]
            return stated if isinstance(stated, int | DimExpr) else None
        if node.op == "iota":
            return _iota(node)
        parts = [self.position(operand, depth - 1) for operand in node.operands]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        if node.op in _MOVES:
            moved = moved_axes(node)
            return None if moved is None else _substituted(known[0], moved)
        if node.op in ("floordiv", "mod") and not (isinstance(known[1], int) and known[1] > 0):
            return None
        if len(known) == 2:
            return _BINARY[node.op](known[0], known[1])
        return -known[0] if node.op == "neg" else known[0]


def moved_axes(node: Node) -> dict[str, Dim] | None:
    """Where the indices of a move's operand are in its result; None if a reshape mixes them."""
    old, new = node.operands[0].tensor.shape, node.result.tensor.shape
    if node.op == "broadcast_to":
        return {}
    if node.op == "permute_dims":
        axes = [axis % len(old) for axis in node.attrs.ints("axes")]
        places = {source: place for place, source in enumerate(axes)}
    else:
        left, right = _long_axes(old), _long_axes(new)
        if [old[axis] for axis in left] != [new[axis] for axis in right]:
            return None
        places = dict(zip(left, right, strict=True))
    return {
        str(index_of(len(old) - 1 - source)): index_of(len(new) - 1 - place)
        for source, place in places.items()
    }


def attention_mask(found: Mask, seq: Dim, keys: Dim) -> Mask | None:
    """A predicate over [..., seq, keys] as one over `q` and `k`; None if it needs more."""
    places: dict[str, Dim] = {str(index_of(0)): K, str(index_of(1)): Q - (keys - seq)}
    mask = _renamed(found, places)
    spoken = {
        s for clause in mask.clauses for e in clause if isinstance(e, DimExpr) for s in symbols(e)
    }
    return mask if spoken <= POSITIONS else None


def sees_itself(mask: Mask) -> bool:
    """True where every query sees the key at its own position."""
    diagonal = _renamed(mask, {"k": Q})
    return all(any(isinstance(e, int) and e >= 0 for e in clause) for clause in diagonal.clauses)


def _iota(node: Node) -> Dim:
    shape, start = node.attrs.dims("shape"), node.attrs.dim("start")
    axis = node.attrs.int("axis") % len(shape)
    return start if shape[axis] == 1 else index_of(len(shape) - 1 - axis) + start


def _long_axes(shape: Shape) -> list[int]:
    return [axis for axis, size in enumerate(shape) if size != 1]


def _substituted(expression: Dim, places: Mapping[str, Dim]) -> Dim:
    if isinstance(expression, int):
        return expression
    return fold(expression, _itself, lambda s: places.get(s.name, of_symbol(s)), DIM_ARITHMETIC)


def _itself(number: int) -> Dim:
    return number


def _renamed(mask: Mask, places: Mapping[str, Dim]) -> Mask:
    return Mask(tuple(tuple(_substituted(e, places) for e in clause) for clause in mask.clauses))


def _either(one: Mask, other: Mask) -> Mask | None:
    short = len(one.clauses) * len(other.clauses) <= _CLAUSES
    return one | other if short else None


def _all(*expressions: Dim) -> Mask:
    return Mask(tuple((e,) for e in expressions))


_MOVES = ("broadcast_to", "permute_dims", "reshape")
_COMPARE: dict[tuple[str, bool], Callable[[Dim, Dim], Mask]] = {
    ("less", False): lambda x, y: _all(y - x - 1),
    ("less", True): lambda x, y: _all(x - y),
    ("less_equal", False): lambda x, y: _all(y - x),
    ("less_equal", True): lambda x, y: _all(x - y - 1),
    ("equal", False): lambda x, y: _all(x - y, y - x),
    ("equal", True): lambda x, y: Mask(((x - y - 1, y - x - 1),)),
    ("not_equal", False): lambda x, y: Mask(((x - y - 1, y - x - 1),)),
    ("not_equal", True): lambda x, y: _all(x - y, y - x),
}
_PREDICATES: Sequence[str] = (
    *_MOVES,
    *sorted({op for op, _ in _COMPARE}),
    "full",
    "logical_and",
    "logical_not",
    "logical_or",
)
_BINARY: dict[str, Operation[Dim]] = {
    "add": DIM_ARITHMETIC["+"],
    "floordiv": DIM_ARITHMETIC["//"],
    "maximum": DIM_ARITHMETIC["max"],
    "minimum": DIM_ARITHMETIC["min"],
    "mod": DIM_ARITHMETIC["%"],
    "mul": DIM_ARITHMETIC["*"],
    "sub": DIM_ARITHMETIC["-"],
}
_POSITIONS: Sequence[str] = (*_MOVES, *_BINARY, "cast", "full", "iota", "neg")
