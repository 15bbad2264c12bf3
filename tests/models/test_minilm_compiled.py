"""MiniLM through the whole compiler against transformers, which computes in float32."""

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import commit_seed
from tests.depth import DEEP
from tests.models import compiled
from tests.models.reference import minilm

Ids = list[int]
CLS, SEP, LONGEST = 101, 102, 256


def sentences() -> list[Ids]:
    """50 of 1 to 256 tokens in a random order; 8 of them on every change, with both extremes."""
    rng = np.random.default_rng(0 if DEEP else commit_seed())
    lengths = np.round(np.geomspace(1, LONGEST, 50)).astype(int)
    if not DEEP:
        inner = rng.choice(lengths[1:-1], 6, replace=False)
        lengths = np.array([lengths[0], *inner, lengths[-1]])
    return [sentence(int(length), rng) for length in rng.permutation(lengths)]


@cache
def licence() -> Ids:
    """Word pieces of a real text, the licence of this repository."""
    encode = compiled.encoder("f32").tokenizer().encode
    lines = (compiled.ROOT / "LICENSE").read_text().splitlines()
    return [piece for line in lines for piece in encode(line, special=False)]


def sentence(length: int, rng: np.random.Generator) -> Ids:
    """Some of a real text between the marks of a sentence, as far as there is room."""
    count = max(length - 2, 0)
    start = int(rng.integers(len(licence()) - count))
    return [CLS, *licence()[start : start + count], SEP][:length]


def batches(texts: Sequence[Ids], size: int) -> Iterator[tuple[NDArray[np.int64], ...]]:
    """Ids and masks of `size` sentences at a time, padded to the longest of each batch."""
    for start in range(0, len(texts), size):
        part = texts[start : start + size]
        ids = np.zeros((len(part), max(map(len, part))), np.int64)
        mask = np.zeros_like(ids)
        for row, text in enumerate(part):
            ids[row, : len(text)] = text
            mask[row, : len(text)] = 1
        yield ids, mask


def embeddings(dtype: str, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
    inputs = {"input_ids": ids.astype(np.int32), "attention_mask": mask.astype(np.int32)}
    return compiled.encoder(dtype).run("encode", inputs)["embedding"]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("size", [1, 8, 32])
def test_float32_embeddings_are_those_of_transformers(size: int) -> None:
    worst = 0.0
    for ids, mask in batches(sentences(), size):
        ours, theirs = embeddings("f32", ids, mask), minilm.embeddings(ids, mask)
        assert ours.shape == theirs.shape
        assert np.isfinite(ours).all()
        worst = max(worst, float(np.abs(ours - theirs).max()))
    print(f"MiniLM f32, batches of {size}: max |a - b| = {worst:.3g}")
    assert worst <= 2e-6


@pytest.mark.timeout(900)
def test_bfloat16_embeddings_point_the_same_way() -> None:
    lowest = 1.0
    for ids, mask in batches(sentences(), 8):
        ours, theirs = embeddings("bf16", ids, mask), minilm.embeddings(ids, mask)
        lengths = np.linalg.norm(ours, axis=-1) * np.linalg.norm(theirs, axis=-1)
        lowest = min(lowest, float(((ours * theirs).sum(-1) / lengths).min()))
    print(f"MiniLM bf16: least cosine = {lowest:.6f}")
    assert lowest >= 0.9995


def test_padding_changes_nothing_but_the_order_of_sums() -> None:
    (ids, mask), *_ = batches([sentence(17, np.random.default_rng(1))], 1)
    alone = embeddings("f32", ids, mask)
    wider = ((0, 0), (0, 40))
    padded = embeddings("f32", np.pad(ids, wider, constant_values=7), np.pad(mask, wider))
    np.testing.assert_allclose(padded, alone, atol=5e-7, rtol=0)
