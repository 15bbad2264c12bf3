"""The reference itself: a sign that it is the model, and not just any numbers."""

import numpy as np
import pytest

from tests.models.reference import gemma, minilm


def encode(*texts: str) -> tuple[np.ndarray, np.ndarray]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(minilm.folder() / "tokenizer.json"))
    tokenizer.enable_padding()
    made = tokenizer.encode_batch(texts)
    return np.array([m.ids for m in made]), np.array([m.attention_mask for m in made])


def test_embeddings_tell_meanings_apart_and_do_not_see_the_padding() -> None:
    texts = ("A cat sits on the mat.", "A kitten rests on a rug.", "The stock market fell today.")
    made = minilm.embeddings(*encode(*texts))
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, atol=1e-6)
    assert made[0] @ made[1] > 0.5 > 0.2 > made[0] @ made[2]
    ids, mask = encode(texts[0])
    wider = minilm.embeddings(np.pad(ids, ((0, 0), (0, 9))), np.pad(mask, ((0, 0), (0, 9))))
    np.testing.assert_allclose(wider, minilm.embeddings(ids, mask), atol=1e-6)


@pytest.mark.slow
def test_gemma_knows_some_geography() -> None:
    # "<bos>The capital of France is"
    ids = np.array([2, 818, 5279, 529, 7001, 563])
    tokens, gaps = gemma.greedy(ids, 8)
    assert len(tokens) == len(gaps) == 8
    assert min(gaps) >= 0
    assert int(gemma.logits(ids)[-1].argmax()) == tokens[0]
