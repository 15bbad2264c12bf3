"""Placement rules: how an operation's results lie on the mesh, given where its operands lie.

A rule names every dimension by a letter, as einsum does: `b m k, b k n -> b m n`. A letter shared
by operands is one loop; a letter missing from a result is reduced there. `1` marks a dimension of
size one that is broadcast. Soundness (checked against simulated ranks): a sharded letter is
sharded the same way in every operand that has it; a reduced letter leaves Partial; Partial passes
only through operands the operation is linear in, at most one factor of a product, all terms of a
sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tilewright.dsl.dims import Dim
from tilewright.dsl.errors import PlacementError
from tilewright.dsl.ident import Ident
from tilewright.dsl.placement import (
    REPLICATE,
    At,
    AxisPlacement,
    Local,
    Partial,
    Placement,
    ReduceOp,
    Replicate,
    Shard,
)

Letters = tuple[str, ...]
Linearity = Literal["none", "product", "sum", "move"]


@dataclass(frozen=True, slots=True)
class Rule:
    """Letters of operands and results, and what Partial may do.

    linearity: `none`: Partial is refused; `product`: one of the operands in `linear` may be
    Partial(sum), the rest Replicate; `sum`: all operands in `linear` together are Partial(sum);
    `move`: as `sum`, for any reduction (the operation only moves elements).
    """

    operands: tuple[Letters, ...]
    results: tuple[Letters, ...]
    whole: frozenset[str] = frozenset()
    reduce: ReduceOp | None = None
    linearity: Linearity = "none"
    linear: frozenset[int] = frozenset()

    @staticmethod
    def parse(text: str) -> Rule:
        """Reads `b m k, b k n -> b m n; whole k`. Raises PlacementError if malformed."""
        body, _, whole = text.partition(";")
        left, arrow, right = body.partition("->")
        words = whole.split()
        if not arrow or (words and words[0] != "whole"):
            raise PlacementError(f"malformed placement rule {text!r}")
        operands = tuple(tuple(part.split()) for part in left.split(","))
        results = tuple(tuple(part.split()) for part in right.split(","))
        return Rule(operands, results, frozenset(words[1:]))

    def product(self, *linear: int) -> Rule:
        """Linear in each of these operands on its own (default: in every one)."""
        return self._linear("product", linear)

    def terms(self, *linear: int) -> Rule:
        """Linear in these operands together, as a sum is (default: in every one)."""
        return self._linear("sum", linear)

    def moves(self, *linear: int) -> Rule:
        """Only moves elements of these operands (default: of every one)."""
        return self._linear("move", linear)

    def reduces(self, op: ReduceOp) -> Rule:
        """Letters missing from a result are reduced by `op`."""
        return replace(self, reduce=op)

    def keep_whole(self, *letters: str) -> Rule:
        """These letters must not be sharded."""
        return replace(self, whole=self.whole | frozenset(letters))

    def _linear(self, kind: Linearity, linear: tuple[int, ...]) -> Rule:
        chosen = frozenset(linear or range(len(self.operands)))
        return replace(self, linearity=kind, linear=chosen)


def axis_letters(rank: int, prefix: str = "d") -> Letters:
    """`("d0", "d1", ...)`."""
    return tuple(f"{prefix}{axis}" for axis in range(rank))


def broadcast_rule(shapes: Sequence[tuple[Dim, ...]], out: tuple[Dim, ...]) -> Rule:
    """Elementwise with NumPy broadcasting: dims align at the right, size one carries no letter."""
    letters = axis_letters(len(out))

    def operand(shape: tuple[Dim, ...]) -> Letters:
        names = letters[len(letters) - len(shape) :]
        full = out[len(out) - len(shape) :]
        return tuple(
            name if size == whole else "1"
            for name, size, whole in zip(names, shape, full, strict=True)
        )

    return Rule(tuple(operand(s) for s in shapes), (letters,))


def infer(rule: Rule, operands: Sequence[Placement], op: str) -> list[Placement]:
    """Placements of the results. Raises PlacementError where no collective-free result exists."""
    axes = dict.fromkeys(axis for placement in operands for axis in placement.axes)
    results = [Placement() for _ in rule.results]
    _check_orders(rule, operands, op)
    for axis in axes:
        places = [placement.on(axis) for placement in operands]
        for index, place in enumerate(_infer_axis(rule, places, axis, op)):
            results[index] = results[index].replace(axis, place)
    return results


def _check_orders(rule: Rule, operands: Sequence[Placement], op: str) -> None:
    """Several axes on one letter must be in one order in all operands."""
    orders: dict[str, tuple[Ident, ...]] = {}
    for letters, placement in zip(rule.operands, operands, strict=True):
        for dim, letter in enumerate(letters):
            order = placement.sharding(dim)
            if order and orders.setdefault(letter, order) != order:
                raise PlacementError(
                    f"{op}: operands shard one dimension over {orders[letter]} and {order}",
                    fix="reshard one of them",
                )


def _infer_axis(
    rule: Rule, places: Sequence[AxisPlacement], axis: Ident, op: str
) -> list[AxisPlacement]:
    count = len(rule.results)
    if any(isinstance(p, Local) for p in places):
        return [_private(places, Local(), axis, op)] * count
    held = next((p for p in places if isinstance(p, At)), None)
    if held is not None:
        return [_private(places, held, axis, op)] * count
    if any(isinstance(p, Partial) for p in places):
        return [_partial(rule, places, axis, op)] * count
    if any(isinstance(p, Shard) for p in places):
        return _sharded(rule, places, axis, op)
    return [REPLICATE] * count


def _private(
    places: Sequence[AxisPlacement], kind: AxisPlacement, axis: Ident, op: str
) -> AxisPlacement:
    if all(p == kind or isinstance(p, Replicate) for p in places):
        return kind
    listed = ", ".join(map(str, places))
    raise PlacementError(
        f"{op}: on mesh axis {axis} an operand is {kind}, the others are {listed}",
        fix="bring all operands to one placement first",
    )


def _partial(rule: Rule, places: Sequence[AxisPlacement], axis: Ident, op: str) -> AxisPlacement:
    partial = {i: p for i, p in enumerate(places) if isinstance(p, Partial)}
    kinds: set[ReduceOp] = {p.op for p in partial.values()}
    reason = _partial_refusal(rule, places, set(partial), kinds)
    if reason is not None:
        raise PlacementError(
            f"{op}: {reason} (mesh axis {axis})", fix="all_reduce or reduce_scatter it first"
        )
    return next(iter(partial.values()))


def _partial_refusal(
    rule: Rule, places: Sequence[AxisPlacement], partial: set[int], kinds: set[ReduceOp]
) -> str | None:
    if rule.linearity == "none" or not partial <= rule.linear:
        return "an operand is an unreduced Partial and the operation is not linear in it"
    if len(kinds) > 1:
        return "operands are Partial with different reductions"
    if rule.linearity != "move" and kinds != {"sum"}:
        return "only Partial(sum) passes through a linear operation"
    rest = [p for i, p in enumerate(places) if i not in partial]
    if not all(isinstance(p, Replicate) for p in rest):
        return "a Partial operand meets one that is not Replicate on that axis"
    if rule.linearity == "product":
        return None if len(partial) == 1 else "two factors of a product are Partial"
    if frozenset(partial) != rule.linear:
        return "Partial + Replicate would add the replicated term once per rank"
    return None


def _sharded(
    rule: Rule, places: Sequence[AxisPlacement], axis: Ident, op: str
) -> list[AxisPlacement]:
    letters = {rule.operands[i][p.dim] for i, p in enumerate(places) if isinstance(p, Shard)}
    if len(letters) > 1:
        raise PlacementError(
            f"{op}: mesh axis {axis} shards different dimensions of the operands",
            fix="reshard one of them (all_to_all), or all_gather one",
        )
    letter = letters.pop()
    if letter == "1" or letter in rule.whole:
        raise PlacementError(
            f"{op}: mesh axis {axis} shards a dimension that the operation needs whole",
            fix="all_gather it first",
        )
    for i, place in enumerate(places):
        if letter in rule.operands[i] and not isinstance(place, Shard):
            raise PlacementError(
                f"{op}: mesh axis {axis} shards a dimension of one operand, but operand {i} is "
                f"{place} there",
                fix="shard_slice the replicated operand, or all_gather the sharded one",
            )
    return [_result_place(rule, result, letter, axis, op) for result in rule.results]


def _result_place(rule: Rule, result: Letters, letter: str, axis: Ident, op: str) -> AxisPlacement:
    if letter in result:
        return Shard(result.index(letter))
    if rule.reduce is None:
        raise PlacementError(
            f"{op}: mesh axis {axis} shards a dimension that the result does not have",
            fix="all_gather it first",
        )
    return Partial(rule.reduce)
