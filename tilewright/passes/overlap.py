"""Computation and the collective that sends its result, in parts, one behind the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tilewright.dsl.errors import TilewrightError
from tilewright.dsl.graph import Node, Value
from tilewright.dsl.op import get
from tilewright.dsl.ops.elementwise import Elementwise
from tilewright.passes.base import PassContext, Refusal, Rewrite, Stage
from tilewright.passes.chunking import Parts, find_cut, sends
from tilewright.passes.claim import EXACT, Claim
from tilewright.passes.editor import Editor
from tilewright.passes.sweep import LocalPass

_COUNTS = (2, 4, 8, 16)
_POINTWISE = ("dropout", "gelu", "gelu_tanh", "silu")
"""Composites that read an element to make an element."""


@dataclass(frozen=True, slots=True)
class Overlap(LocalPass):
    """y = g(collective(f(x))) -> y = concat(g(collective(f(x_1))), g(collective(f(x_2))), ...)

    if y can be cut along one dimension in equal parts, each computed from slices of what is read
    and through everything between, and nothing outside reads what lies between before y is there.
    Exact: every element is the same function of the same numbers. While the links carry one part,
    the next is computed: at best the time of the longer of both, and of one part of the shorter
    (CoCoNet, Jangda et al., ASPLOS 2022). The plan decides by `overlap:<graph>.<collective>`, with
    options `keep` and the number of parts; f is then what makes the operand, g what reads the
    result alone, element by element.
    """

    name: ClassVar[str] = "overlap"
    stage: ClassVar[Stage] = "semantic"
    preserves: ClassVar[Claim] = EXACT

    def rewrite(self, node: Node, editor: Editor, ctx: PassContext) -> Rewrite | Refusal | None:
        if not sends(node) or node.attrs.int("size"):
            return None
        group = [*around(node, editor)]
        if sends(group[0]) and group[0] is not node:
            return None  # the first of a group speaks for it
        found = {n: self.at(group, editor, n) for n in _COUNTS}
        legal = [str(n) for n, made in found.items() if isinstance(made, Rewrite)]
        if not legal:
            return found[_COUNTS[0]]
        choice = f"{self.name}:{editor.graph.name}.{node.result.name}"
        taken = ctx.choose(choice, ("keep", *legal), "keep")
        return Refusal("the plan keeps it in one") if taken == "keep" else found[int(taken)]

    def at(
        self, group: Sequence[Node], editor: Editor, count: int, dim: int | None = None
    ) -> Rewrite | Refusal:
        """The rewrite of a group, its nodes in order, in `count` parts of the last result along
        `dim`, whatever the plan says.
        """
        last = group[-1].results[0]
        group = _with_slices(group, editor)
        if not any(map(sends, group)):
            return Refusal("the group has no collective to overlap with")
        early = _read_early(group, editor)
        if early is not None:
            return Refusal(f"%{early.name} is read outside before %{last.name} is there")
        cut = find_cut(group, editor, count, last, dim)
        if isinstance(cut, Refusal):
            return cut
        parts = Parts(cut, editor)
        try:
            made = [parts.part(index) for index in range(count)]
            after = [*parts.whole, *_staggered(made)]
            inside = {id(node) for node in group}
            whole = {result.name for node in parts.whole for result in node.results}
            for result in (r for node in group for r in node.results):
                if result.name not in whole and editor.used_outside(result, inside):
                    pieces = [_value(part, result) for part in made]
                    after.append(parts.joined(result, pieces))
        except TilewrightError as mistake:
            return Refusal(f"in parts it is illegal: {mistake.message}")
        return Rewrite(tuple(group), tuple(after), reason=f"in {count} parts")


def around(node: Node, editor: Editor) -> Iterator[Node]:
    """A collective with what makes its operand for it alone, and what alone reads its result."""
    source = editor.producer(node.operands[0])
    if source is not None and editor.single_use(node.operands[0]) and len(source.results) == 1:
        yield source
    yield node
    while editor.single_use(node.results[0]):
        (reader,) = editor.users(node.results[0])
        if not (get(reader.op).is_collective or _is_pointwise(reader)) or _waits(
            reader, node, editor
        ):
            return
        node = reader
        yield node


def _is_pointwise(node: Node) -> bool:
    return isinstance(get(node.op), Elementwise) or node.op in _POINTWISE


def _waits(reader: Node, node: Node, editor: Editor) -> bool:
    """Whether another operand of a reader is made later than a node."""
    makers = (editor.producer(operand) for operand in reader.operands)
    others = [made for made in makers if made is not None and made is not node]
    return any(
        editor.position(made) > editor.position(node) for made in others if made.op != "shard_slice"
    )


def _with_slices(group: Sequence[Node], editor: Editor) -> list[Node]:
    """The group and what cuts its operands for the ranks: a part is cut from the whole first."""
    inside = {id(node): node for node in group}
    for operand in (v for node in group for v in node.operands):
        source = editor.producer(operand)
        readers = map(id, editor.users(operand))
        if source is not None and source.op == "shard_slice" and all(r in inside for r in readers):
            inside.setdefault(id(source), source)
    return sorted(inside.values(), key=editor.position)


def _read_early(group: Sequence[Node], editor: Editor) -> Value | None:
    """A result that someone outside reads before the end of the group."""
    inside = {id(node) for node in group}
    end = max(editor.position(node) for node in group)
    for result in (r for node in group for r in node.results):
        for reader in editor.users(result):
            if id(reader) not in inside and editor.position(reader) < end:
                return result
    return None


_Part = list[tuple[Node, list[Node]]]


def _value(part: _Part, result: Value) -> Value:
    """What a part has of a result."""
    for node, made in part:
        for own, new in zip(node.results, made[-1].results, strict=True):
            if own.name == result.name:
                return new
    raise KeyError(result.name)


def _staggered(parts: Sequence[_Part]) -> Iterator[Node]:
    """All nodes of all parts: while one part's collective runs, the next part is computed.

    Stages end with a collective. In turn t stage s of part t - s is computed, so that a part waits
    for its collective only when the next one's has been posted.
    """
    stages = [_stages(part) for part in parts]
    depth = max(map(len, stages))
    for turn in range(len(parts) + depth - 1):
        for stage in range(depth):
            if 0 <= turn - stage < len(parts):
                yield from stages[turn - stage][stage]


def _stages(part: _Part) -> list[list[Node]]:
    found: list[list[Node]] = [[]]
    for _, made in part:
        found[-1].extend(made)
        if sends(made[-1]):
            found.append([])
    return found
