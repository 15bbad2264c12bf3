"""Attention written out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from tilewright.dsl.attrs import Attr
from tilewright.dsl.dims import Dim, known_le
from tilewright.dsl.errors import TilewrightError
from tilewright.dsl.graph import Node, Value
from tilewright.dsl.mask import EVERYTHING, Mask
from tilewright.passes.base import PassContext, Refusal, Rewrite, Stage
from tilewright.passes.claim import REASSOCIATES, Claim
from tilewright.passes.editor import Editor
from tilewright.passes.match import Match
from tilewright.passes.predicates import Predicates, attention_mask, sees_itself
from tilewright.passes.scores import Condition, Scores, take_scale
from tilewright.passes.sweep import LocalPass


@dataclass(frozen=True, slots=True)
class RecognizeAttention(LocalPass):
    """Products around a softmax are attention.

        softmax(mask(softcap(q @ k.T * scale))) @ v -> attention(q, k, v, mask, scale, softcap)

    over [.., heads, seq, head_dim] (the heads may be repeated from fewer groups, for k and v
    alike), if the softmax goes along the keys and nothing else reads its weights; the mask hides
    keys by -inf (or a number that stands for it), by conditions that are predicates on positions,
    or bools that depend on batch and key alone. A number that stands for -inf is taken for it only
    where every query sees a key: a row of hidden keys would be the mean of v, and is 0 in
    attention; scores are taken to be much smaller than such a number.
    """

    name: ClassVar[str] = "recognize_attention"
    stage: ClassVar[Stage] = "canonical"
    preserves: ClassVar[Claim] = REASSOCIATES

    def rewrite(self, node: Node, editor: Editor, ctx: PassContext) -> Rewrite | Refusal | None:
        if node.op != "matmul":
            return None
        match = Match(editor)
        weights = match.take(match.through(node.operands[0], "cast"), "softmax")
        if weights is None:
            return None
        refusal = _weights_refusal(node, weights, match)
        if refusal is not None:
            return refusal
        scores = Scores(match)
        refusal = scores.read(weights.operands[0])
        if refusal is not None or scores.product is None:
            return refusal
        try:
            return _Attention(match, node, scores.product, scores).rewrite()
        except TilewrightError as mistake:
            return Refusal(f"attention: {mistake.message}")


def _weights_refusal(node: Node, weights: Node, match: Match) -> Refusal | None:
    scores = weights.operands[0].tensor
    if weights.attrs.int("axis") % scores.rank != scores.rank - 1:
        return Refusal("attention: the softmax is not along the keys")
    if node.attrs.bool("transpose_a"):
        return Refusal("attention: the weights are transposed")
    if not 2 <= scores.rank <= 4:
        return Refusal(f"attention: scores of rank {scores.rank}")
    value, editor = node.operands[0], match.editor
    while not match.same(value, weights.operands[0]):
        if not editor.single_use(value):
            return Refusal("attention: something else reads the weights")
        made = editor.producer(value)
        assert made is not None
        value = made.operands[0]
    return None


@dataclass
class _Attention:
    """The composite under construction."""

    match: Match
    root: Node
    product: Node
    scores: Scores
    made: list[Node] = field(default_factory=list[Node])

    def rewrite(self) -> Rewrite | Refusal:
        match = self.match
        if self.product.attrs.bool("transpose_a"):
            return Refusal("attention: the queries are transposed")
        q, k, scale = self._operands()
        v = self.root.operands[1]
        flat = "nk" if self.product.attrs.bool("transpose_b") else "kn"
        rows = "nk" if self.root.attrs.bool("transpose_b") else "kn"
        q, k, v = (self._like(x, v) for x in (q, k, v))
        q, k = self._heads_last(q, "nk"), self._heads_last(k, flat)
        v = self._heads_last(v, "nk" if rows == "kn" else "kn")
        masked = self._masked(q, k)
        if isinstance(masked, Refusal):
            return masked
        mask, key_mask = masked
        attrs: dict[str, Attr] = {"mask": mask, "scale": scale, "softcap": self.scores.softcap}
        operands = (q, k, v) if key_mask is None else (q, k, v, key_mask)
        node = match.editor.node("attention", *operands, like=self.root.result, attrs=attrs)
        self.made.append(node)
        return self._finish(node)

    def _operands(self) -> tuple[Value, Value, float]:
        """Queries, keys, and the scale with what was multiplied into either before."""
        q, by_q = take_scale(self.match, self.product.operands[0])
        k, by_k = take_scale(self.match, self.product.operands[1])
        return q, k, self.scores.scale * by_q * by_k

    def _like(self, x: Value, v: Value) -> Value:
        """x before a cast from v's dtype, if there is one."""
        if x.tensor.dtype == v.tensor.dtype:
            return x
        cast = self.match.take(x, "cast")
        same = cast is not None and cast.operands[0].tensor.dtype == v.tensor.dtype
        return cast.operands[0] if same and cast is not None else x

    def _new(self, op: str, x: Value, **attrs: Attr) -> Value:
        node = self.match.editor.node(op, x, like=x, attrs=attrs)
        self.made.append(node)
        return node.result

    def _heads_last(self, x: Value, order: str) -> Value:
        """[.., heads, n, k] (or [.., heads, k, n] for "kn") as [batch, n, groups, k]."""
        x = self._ungrouped(x, heads=1)
        shape = x.tensor.shape
        if x.tensor.rank < 4:
            x = self._new("reshape", x, shape=(*(1,) * (4 - len(shape)), *shape))
        axes = (0, 2, 1, 3) if order == "nk" else (0, 3, 1, 2)
        moved = self.match.take(x, "permute_dims")
        if moved is not None:
            inner = tuple(axis % 4 for axis in moved.attrs.ints("axes"))
            axes, x = tuple(inner[axis] for axis in axes), moved.operands[0]
        if axes != (0, 1, 2, 3):
            x = self._new("permute_dims", x, axes=axes)
        return self._ungrouped(x, heads=2)

    def _ungrouped(self, x: Value, heads: int) -> Value:
        """x with one head a group where it repeats each, dimension `heads` of four being merged."""
        mark = dict(self.match.nodes)
        merged = self.match.take(x, "reshape")
        repeat = None if merged is None else self.match.take(merged.operands[0], "broadcast_to")
        if merged is None or repeat is None or x.tensor.rank != 4:
            self.match.nodes = mark
            return x
        before, after = repeat.operands[0], repeat.result.tensor.shape
        each = heads + 1
        shape = before.tensor.shape
        whole = (*after[:each], *after[each + 1 :])
        if len(after) != 5 or shape != (*after[:each], 1, *after[each + 1 :]):
            self.match.nodes = mark
            return x
        inner = self.match.take(before, "reshape")
        if inner is not None and inner.operands[0].tensor.shape == whole:
            return inner.operands[0]
        return self._new("reshape", before, shape=whole)

    def _masked(self, q: Value, k: Value) -> tuple[Mask, Value | None] | Refusal:
        seq, keys, batch = q.tensor.shape[1], k.tensor.shape[1], q.tensor.shape[0]
        mask = EVERYTHING
        key_mask: Value | None = None
        terms = [term for c in self.scores.conditions for term in _conjuncts(self.match, c)]
        for term in terms:
            before = dict(self.match.nodes)
            found = Predicates(self.match).holds(term.value, negated=term.negated)
            positions = None if found is None else attention_mask(found, seq, keys)
            if positions is not None:
                mask = mask & positions
                continue
            self.match.nodes = before
            hidden = self._key_mask(term, batch, keys)
            if isinstance(hidden, Refusal):
                return hidden
            key_mask = hidden if key_mask is None else self._both(key_mask, hidden)
        sees_one = key_mask is None and sees_itself(mask) and known_le(seq, keys)
        if any(term.finite for term in terms) and not sees_one:
            return Refusal("attention: a finite number hides keys, maybe all keys of a query")
        return mask, key_mask

    def _key_mask(self, term: Condition, batch: Dim, keys: Dim) -> Value | Refusal:
        value = self.match.through(term.value, "broadcast_to")
        shape = value.tensor.shape
        full = (*(1,) * (4 - len(shape)), *shape)
        if len(full) != 4 or full[1:] != (1, 1, keys) or full[0] not in (1, batch):
            return Refusal("attention: a mask of data differs between queries or heads")
        if shape != (full[0], keys):
            value = self._new("reshape", value, shape=(full[0], keys))
        if full[0] != batch:
            value = self._new("broadcast_to", value, shape=(batch, keys))
        return self._new("logical_not", value) if term.negated else value

    def _both(self, one: Value, other: Value) -> Value:
        node = self.match.editor.node("logical_and", one, other, like=one)
        self.made.append(node)
        return node.result

    def _finish(self, node: Node) -> Rewrite | Refusal:
        """The result back in the order of the written form."""
        result, editor = self.root.result, self.match.editor
        out = node.results[0]
        if result.tensor.rank == 4:
            last = editor.try_defining(
                "permute_dims", out, result=result, attrs={"axes": (0, 2, 1, 3)}
            )
        else:
            heads_first = self._new("permute_dims", out, axes=(0, 2, 1, 3))
            shape = result.tensor.shape
            last = editor.try_defining(
                "reshape", heads_first, result=result, attrs={"shape": shape}
            )
        if last is None:
            return Refusal(f"attention: gives {out.type} where {result.type} is written")
        return self.match.rewrite(self.root, (*self.made, last), "products around a softmax")


def _conjuncts(match: Match, condition: Condition) -> list[Condition]:
    """The conditions that must hold together for a condition to hold."""
    joins = "logical_or" if condition.negated else "logical_and"
    found: list[Condition] = []
    stack = [condition]
    while stack:
        current = stack.pop()
        value = match.through(current.value, "broadcast_to")
        node = match.take(value, joins)
        if node is None or len(stack) + len(found) > 16:
            found.append(Condition(value, current.negated, current.finite))
            continue
        stack.extend(
            Condition(operand, current.negated, current.finite) for operand in node.operands
        )
    return found
