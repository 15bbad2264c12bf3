"""softmax(mask(softcap(q @ k.T * scale))) @ v -> attention(q, k, v, mask, scale, softcap)."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.passes.rewriting import assert_caught, context, decisions, names, only, rewritten
from tilewright.dsl.builder import TracedFunction, graph
from tilewright.dsl.dims import Dim, dim
from tilewright.dsl.dtypes import DType, bf16, bool_, f32, i8
from tilewright.dsl.mask import EVERYTHING, Mask, causal, window
from tilewright.dsl.ops.create import full, iota
from tilewright.dsl.ops.elementwise import tanh, where
from tilewright.dsl.ops.movement import broadcast_to
from tilewright.dsl.ops.norm import softmax
from tilewright.dsl.tensor import Tensor
from tilewright.passes import recognize_attention
from tilewright.passes.base import Pass
from tilewright.passes.dce import Dce
from tilewright.passes.match import Match
from tilewright.passes.recognize_attention import RecognizeAttention
from tilewright.passes.registry import canonical_passes
from tilewright.passes.simplify_movement import SimplifyMovement

BATCH, HEADS, GROUPS, SIZE = 2, 4, 2, 8
SEQ, KEYS = dim("seq", 1, 16), dim("keys", 16, 32)
LOWEST = -3.3895313892515355e38
PASSES: tuple[Pass, ...] = canonical_passes()

Change = Callable[[Tensor], Tensor]


def same(x: Tensor) -> Tensor:
    """No change."""
    return x


@dataclass(frozen=True)
class Form:
    """One way to write attention over [batch, seq, heads, size]."""

    seq: Dim = SEQ
    keys: Dim = SEQ
    groups: int = HEADS
    dtype: DType = f32
    scored: Change = same
    """From the scores [batch, heads, seq, keys] to what the softmax reads."""
    weighted: Change = same
    """From the softmax to the weights."""
    flip: bool = False
    """Keys are moved to [batch, heads, size, keys] in one step."""

    def graph(self) -> TracedFunction:
        """Its graph."""
        q = self.dtype[BATCH, self.seq, HEADS, SIZE]
        k = self.dtype[BATCH, self.keys, self.groups, SIZE]

        @graph(q=q, k=k, v=k, seen=bool_[BATCH, self.keys], bias=f32[BATCH, 1, 1, self.keys])
        def attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, bias: Tensor) -> Tensor:
            HELD.update(seen=seen, bias=bias)
            q = q.permute_dims(0, 2, 1, 3)
            if self.flip:
                scores = q @ repeat(k, self.groups).permute_dims(0, 2, 3, 1)
            else:
                scores = q @ heads_first(k, self.groups).T
            weights = self.weighted(softmax(self.scored(scores)))
            out = weights @ heads_first(v, self.groups)
            return out.permute_dims(0, 2, 1, 3).reshape(BATCH, self.seq, HEADS * SIZE)

        return attend


HELD: dict[str, Tensor] = {}
"""Inputs of the graph that is being traced, for masks of data."""


def repeat(x: Tensor, groups: int) -> Tensor:
    """[batch, keys, groups, size] with every group repeated for its heads."""
    if groups == HEADS:
        return x
    keys, each = x.shape[1], HEADS // groups
    x = x.reshape(BATCH, keys, groups, 1, SIZE)
    return broadcast_to(x, (BATCH, keys, groups, each, SIZE)).reshape(BATCH, keys, HEADS, SIZE)


def heads_first(x: Tensor, groups: int) -> Tensor:
    """[batch, heads, keys, size], groups repeated as `repeat_kv` in transformers does."""
    x = x.permute_dims(0, 2, 1, 3)
    if groups == HEADS:
        return x
    keys, each = x.shape[2], HEADS // groups
    x = x.reshape(BATCH, groups, 1, keys, SIZE)
    return broadcast_to(x, (BATCH, groups, each, keys, SIZE)).reshape(BATCH, HEADS, keys, SIZE)


def places(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of queries [seq, 1], the last at the last key, and of keys [1, keys]."""
    *_, seq, keys = scores.shape
    return iota((seq, 1), start=keys - seq), iota((1, keys), axis=1)


def hide(scores: Tensor, visible: Tensor, number: float = float("-inf")) -> Tensor:
    """Scores where visible, a number elsewhere."""
    return where(visible, scores, number)


def causally(scores: Tensor) -> Tensor:
    """-inf above the diagonal."""
    q, k = places(scores)
    return hide(scores, k <= q)


def added(number: float) -> Change:
    """A causal mask that is added, repeated for the batch, as transformers' eager code has it."""

    def apply(scores: Tensor) -> Tensor:
        q, k = places(scores)
        zero, low = (full((), value, scores.dtype) for value in (0.0, number))
        bias = where((k > q).reshape(1, 1, *scores.shape[2:]), low, zero)
        return scores + broadcast_to(bias, (BATCH, 1, *scores.shape[2:]))

    return apply


def windowed(scores: Tensor) -> Tensor:
    """Causal, and at most three keys back."""
    q, k = places(scores)
    return hide(scores, (k <= q) & (q - k < 3))


def not_causal(scores: Tensor) -> Tensor:
    """The same by what is hidden."""
    q, k = places(scores)
    return where((k > q) | ~(k > q - 3), float("-inf"), scores)


def rows_of_one(scores: Tensor) -> Tensor:
    """Positions counted along one dimension and reshaped."""
    *_, seq, keys = scores.shape
    q, k = iota((seq,), start=keys - seq).reshape(seq, 1), iota((keys,)).reshape(1, 1, keys)
    return hide(scores, k <= q)


def padded(scores: Tensor) -> Tensor:
    """Keys of padding hidden by data."""
    return hide(scores, HELD["seen"].reshape(BATCH, 1, 1, scores.shape[3]))


def padded_causal(scores: Tensor) -> Tensor:
    """Both."""
    q, k = places(scores)
    seen = HELD["seen"].reshape(BATCH, 1, 1, scores.shape[3])
    return hide(scores, (k <= q) & broadcast_to(seen, (BATCH, 1, *scores.shape[2:])))


def capped(scores: Tensor) -> Tensor:
    """Soft cap of 5, then a causal mask."""
    return causally(tanh(scores * 0.25 / 5.0) * 5.0)


def scaled_wide(scores: Tensor) -> Tensor:
    """In f32, as models of short floats have it."""
    return causally(scores.cast(f32) * 0.3)


RECOGNISED: dict[str, tuple[Form, Mask, float]] = {
    "plain": (Form(), EVERYTHING, 1.0),
    "scaled": (Form(scored=lambda s: s * 0.3), EVERYTHING, 0.3),
    "divided": (Form(scored=lambda s: s / 8.0), EVERYTHING, 0.125),
    "flipped": (Form(flip=True), EVERYTHING, 1.0),
    "causal": (Form(scored=lambda s: causally(s * 0.3)), causal(), 0.3),
    "mask, then scale": (Form(scored=lambda s: causally(s) * 0.3), causal(), 0.3),
    "longer keys": (Form(keys=KEYS, scored=causally), causal(), 1.0),
    "fewer queries": (Form(seq=3, keys=7, scored=causally), causal(), 1.0),
    "added -inf": (Form(scored=added(float("-inf"))), causal(), 1.0),
    "added lowest": (Form(scored=added(LOWEST)), causal(), 1.0),
    "window": (Form(scored=windowed), causal() & window(3), 1.0),
    "hidden": (Form(scored=not_causal), causal() & window(3), 1.0),
    "reshaped positions": (Form(scored=rows_of_one), causal(), 1.0),
    "groups": (Form(groups=GROUPS, scored=causally), causal(), 1.0),
    "one group": (Form(groups=1, scored=causally), causal(), 1.0),
    "groups, flipped": (Form(groups=GROUPS, flip=True), EVERYTHING, 1.0),
    "bf16": (
        Form(dtype=bf16, scored=scaled_wide, weighted=lambda w: w.cast(bf16)),
        causal(),
        0.3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", RECOGNISED)
def test_written_forms_are_attention(case: str) -> None:
    form, mask, scale = RECOGNISED[case]
    found = rewritten(form.graph(), *PASSES)
    assert names(found) == ["attention", "reshape"]
    node = only(found, "attention")
    assert node.attrs.mask("mask") == mask
    assert node.attrs.float("scale") == pytest.approx(scale)
    assert [v.tensor.shape[2] for v in node.operands] == [HEADS, form.groups, form.groups]


def test_soft_cap() -> None:
    node = only(rewritten(Form(scored=capped).graph(), *PASSES), "attention")
    assert node.attrs.float("softcap") == 5.0
    assert node.attrs.float("scale") == 0.25


@pytest.mark.parametrize(("form", "mask"), [(padded, EVERYTHING), (padded_causal, causal())])
def test_mask_of_keys(form: Change, mask: Mask) -> None:
    found = rewritten(Form(scored=form).graph(), *PASSES)
    assert names(found) == ["attention", "reshape"]
    node = only(found, "attention")
    assert node.operands[3].name == "seen"
    assert node.attrs.mask("mask") == mask


def test_scale_of_the_queries() -> None:
    @graph(q=f32[2, 3, 4], k=f32[2, 5, 4], v=f32[2, 5, 4])
    def three(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return softmax((q * 0.5) @ k.T) @ v

    found = rewritten(three, *PASSES)
    assert only(found, "attention").attrs.float("scale") == 0.5
    assert only(found, "attention").operands[0].tensor.shape == (1, 3, 2, 4)


def test_one_head() -> None:
    @graph(q=f32[3, 4], k=f32[5, 4], v=f32[5, 6])
    def two(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return softmax(q @ k.T) @ v

    assert only(rewritten(two, *PASSES), "attention").results[0].tensor.shape == (1, 3, 1, 6)


def mask_of_rows(scores: Tensor) -> Tensor:
    """A mask of data that differs between queries."""
    seen = broadcast_to(HELD["seen"].reshape(BATCH, 1, scores.shape[3], 1), scores.shape)
    return hide(scores, seen)


def early_cap(scores: Tensor) -> Tensor:
    """A soft cap over masked scores."""
    return tanh(causally(scores) / 5.0) * 5.0


REFUSED: dict[str, tuple[Form, str]] = {
    "mask by query": (Form(scored=mask_of_rows), "differs between queries or heads"),
    "bias": (Form(scored=lambda s: s + HELD["bias"]), "is added to the scores is not 0 or -inf"),
    "finite number over padding": (
        Form(scored=lambda s: hide(s, HELD["seen"].reshape(BATCH, 1, 1, s.shape[3]), LOWEST)),
        "maybe all keys of a query",
    ),
    "finite number, fewer keys": (
        Form(seq=7, keys=3, scored=added(LOWEST)),
        "maybe all keys of a query",
    ),
    "number that is no -inf": (Form(scored=lambda s: where(s > 0.0, s, -5.0)), "none of them"),
    "cap over mask": (Form(scored=early_cap), "under the soft cap"),
    "uneven cap": (Form(scored=lambda s: tanh(s / 5.0) * 4.0), "divided by 5 and multiplied by 4"),
    "scale over cap": (
        Form(scored=lambda s: tanh(s / 5.0) * 5.0 * 0.5),
        "the soft cap is not the last step",
    ),
    "negative scale": (Form(scored=lambda s: s * -0.5), "something else than a positive number"),
    "scores that are no product": (Form(scored=lambda s: -s), "do not come from a product"),
    "weights read twice": (Form(weighted=lambda w: w + w), ""),
}


@pytest.mark.parametrize("case", REFUSED)
def test_near_misses_are_refused(case: str) -> None:
    form, reason = REFUSED[case]
    ctx = context()
    assert "attention" not in names(rewritten(form.graph(), *PASSES, ctx=ctx))
    found = [d.reason for d in decisions(ctx, RecognizeAttention())]
    assert not reason or (len(found) == 1 and reason in found[0])


def test_softmax_along_queries_is_refused() -> None:
    @graph(q=f32[3, 4], k=f32[3, 4], v=f32[3, 4])
    def turned(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return softmax(q @ k.T, 0) @ v

    ctx = context()
    rewritten(turned, *PASSES, ctx=ctx)
    (found,) = decisions(ctx, RecognizeAttention())
    assert found.reason == "attention: the softmax is not along the keys"


def test_weights_that_are_returned_are_refused() -> None:
    @graph(q=f32[3, 4], k=f32[3, 4], v=f32[3, 4])
    def returned(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        weights = softmax(q @ k.T)
        return weights @ v, weights

    ctx = context()
    rewritten(returned, *PASSES, ctx=ctx)
    (found,) = decisions(ctx, RecognizeAttention())
    assert found.reason == "attention: something else reads the weights"


def test_mask_that_all_layers_share_stays_until_the_last() -> None:
    @graph(q=f32[1, SEQ, 1, 4])
    def layers(q: Tensor) -> Tensor:
        i, j = iota((SEQ, 1)), iota((1, SEQ), axis=1)
        mask = j <= i
        x = q.permute_dims(0, 2, 1, 3)
        for _ in range(3):
            x = softmax(where(mask, x @ x.T, float("-inf"))) @ x
        return x

    found = rewritten(layers, *PASSES, SimplifyMovement(), Dce())
    assert names(found).count("attention") == 3
    assert "iota" not in names(found)


def test_planted_wrong_scale_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(match: Match, value: object) -> tuple[object, float]:
        return value, 1.5

    monkeypatch.setattr(recognize_attention, "take_scale", wrong)
    assert_caught(Form().graph(), RecognizeAttention())


def test_planted_wrong_mask_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(found: Mask, seq: Dim, keys: Dim) -> Mask:
        return window(1)

    monkeypatch.setattr(recognize_attention, "attention_mask", wrong)
    assert_caught(Form(seq=5, keys=5, scored=causally).graph(), RecognizeAttention())


def test_planted_swap_of_heads_and_keys_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = vars(recognize_attention)["_Attention"]._heads_last

    def wrong(self: object, x: Tensor, order: str) -> object:
        return right(self, x, "kn" if order == "nk" else "nk")

    monkeypatch.setattr(vars(recognize_attention)["_Attention"], "_heads_last", wrong)
    assert_caught(Form(seq=8, keys=8).graph(), RecognizeAttention())


def test_positions_in_short_integers_are_data() -> None:
    def short(scores: Tensor) -> Tensor:
        q, k = places(scores)
        return hide(scores, k.cast(i8) <= q.cast(i8))

    assert "attention" not in names(rewritten(Form(scored=short).graph(), *PASSES))
