"""What an operation allows on one axis of the mesh: placements of operands and of results.

Whatever is tried is put to the operation's own type rule, so no option is legal here that is not
legal there. Letters of a placement rule say what is worth trying; a composite, whose rule is that
of its body, is tried with every combination.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from tilewright.dsl.attrs import Attrs
from tilewright.dsl.composite import Composite
from tilewright.dsl.errors import TilewrightError
from tilewright.dsl.graph import Node
from tilewright.dsl.ident import Ident
from tilewright.dsl.op import OpDef, get
from tilewright.dsl.placement import (
    REDUCE_OPS,
    REPLICATE,
    AxisPlacement,
    Local,
    Mesh,
    Partial,
    Placement,
    ReduceOp,
    Replicate,
    Shard,
)
from tilewright.dsl.sharding import Rule
from tilewright.dsl.shards import even_share
from tilewright.dsl.types import TensorType, Type

Places = tuple[AxisPlacement, ...]
_KEPT = 4096


@dataclass(frozen=True, slots=True)
class Option:
    """Placements of operands and results on one axis; a cache counts as replicated."""

    operands: Places
    results: Places

    @property
    def divides(self) -> bool:
        """Whether a rank does its share of the work alone: all do all of it otherwise."""
        return any(isinstance(place, Shard) for place in (*self.operands, *self.results))


@dataclass(frozen=True, slots=True)
class Along:
    """An axis of a mesh, which cuts a dimension before the others do (`major`) or after them, in
    equal shapes for all ranks or, if not `even`, in any.
    """

    mesh: Mesh
    axis: Ident
    major: bool = False
    even: bool = True

    def placed(self, type_: Type, place: AxisPlacement) -> Type:
        """A type with its place on the axis."""
        if not isinstance(type_, TensorType):
            return type_
        if not self.major:
            return type_.with_placement(type_.placement.replace(self.axis, place))
        return type_.with_placement(Placement(((self.axis, place), *type_.placement.entries)))

    def cuts(self, type_: TensorType) -> list[AxisPlacement]:
        """The shardings of a value that leave all ranks equal shapes."""
        places = [Shard(dim) for dim in range(type_.rank)]
        return [place for place in places if self.fits(self.placed(type_, place))]

    def fits(self, type_: Type) -> bool:
        """Whether ranks may hold such shapes."""
        return not self.even or is_even(type_, self.mesh)


def options(node: Node, along: Along) -> tuple[Option, ...]:
    """All options of a node whose operands are so far replicated on the axis."""
    return _options(node.op, node.attrs, tuple(o.type for o in node.operands), along)


@lru_cache(maxsize=_KEPT)
def _options(name: str, attrs: Attrs, types: tuple[Type, ...], along: Along) -> tuple[Option, ...]:
    op = get(name)
    found: dict[Option, None] = {}
    for places in dict.fromkeys(_tries(op, types, attrs, along)):
        option = _tried(op, places, types, attrs, along)
        if option is not None:
            found[option] = None
    return tuple(found)


def _tries(op: OpDef, types: Sequence[Type], attrs: Attrs, along: Along) -> Iterator[Places]:
    yield (REPLICATE,) * len(types)
    if len(types) == 1:
        yield from product(_places(types[0], along, REDUCE_OPS))
    elif isinstance(op, Composite):
        yield from product(*(_places(type_, along, ("sum",)) for type_ in types))
    elif types:
        yield from _by_letters(op.rule(types, attrs))


def _places(type_: Type, along: Along, reductions: Sequence[ReduceOp]) -> list[AxisPlacement]:
    """Whatever one operand may be."""
    if not isinstance(type_, TensorType):
        return [REPLICATE]
    return [REPLICATE, *along.cuts(type_), *map(Partial, reductions)]


def _by_letters(rule: Rule) -> Iterator[Places]:
    letters = dict.fromkeys(letter for operand in rule.operands for letter in operand)
    for letter in letters:
        if letter != "1" and letter not in rule.whole:
            yield tuple(
                Shard(operand.index(letter)) if letter in operand else REPLICATE
                for operand in rule.operands
            )
    together = [rule.linear] if rule.linearity in ("sum", "move") else []
    alone = [frozenset({i}) for i in rule.linear] if rule.linearity == "product" else []
    for linear in (*together, *alone):
        for reduction in REDUCE_OPS:
            yield tuple(
                Partial(reduction) if i in linear else REPLICATE for i in range(len(rule.operands))
            )


def _tried(
    op: OpDef, places: Places, types: Sequence[Type], attrs: Attrs, along: Along
) -> Option | None:
    try:
        placed = [along.placed(t, place) for t, place in zip(types, places, strict=True)]
        results = op.infer(placed, attrs, along.mesh)
    except TilewrightError:
        return None
    after = tuple(place_on(result, along.axis) for result in results)
    fits = all(map(along.fits, (*placed, *results)))
    return Option(places, after) if fits and not any(isinstance(p, Local) for p in after) else None


def place_on(type_: Type, axis: str) -> AxisPlacement:
    """Where a value lies on one axis; a cache lies on all ranks."""
    return type_.placement.on(axis) if isinstance(type_, TensorType) else REPLICATE


def is_even(type_: Type, mesh: Mesh) -> bool:
    """Whether all ranks hold equal shapes of it."""
    if not isinstance(type_, TensorType):
        return True
    for dim, size in enumerate(type_.shape):
        is_cut = any(mesh.size(axis) > 1 for axis in type_.placement.sharding(dim))
        if even_share(type_, dim, mesh) is None or (is_cut and size == 0):
            return False
    return True


def movable(before: AxisPlacement, after: AxisPlacement) -> str | None:
    """The collective from one placement to another: "" for none, None where there is no way."""
    match before, after:
        case _ if before == after:
            return ""
        case Replicate(), Shard():
            return "shard_slice"
        case Shard(), Replicate():
            return "all_gather"
        case Shard(), Shard():
            return "all_to_all"
        case Partial(), Replicate():
            return "all_reduce"
        case Partial(), Shard():
            return "reduce_scatter"
        case _:
            return None
