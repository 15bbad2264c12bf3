"""The tokenizer made from GGUF metadata encodes as the one that transformers makes from it."""

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from tests.models.gguf_files import TOKENS, GgufSpec, token_types
from tests.models.reference import gemma
from tilewright.dsl.errors import MalformedModelFile, UnsupportedModel
from tilewright.models.importers.gguf import open_gguf

# Of transformers' serialisation of the real file's tokenizer, parsed and dumped canonically.
REAL_DIGEST = "f7f4ff9e5810afab82701d54a43751ee89e62c0fee6149043a9940e9f71fb2fb"

WRITTEN = [
    "", " ", "  ", "   ", "\n", "\n\n\n", "\t \t", " lead", "trail ", "a  b   c", "\r\n",
    "\0", "\ufeff",
    "The capital of France is", "that is the sat hat", "don't can't", "ALL CAPS", "12,345.67e-8",
    "<bos>", "<bos><bos>x", "x<eos>y", "<pad> <unk> <mask>", "<turn>that</b> is", "<turn",
    "<unused0>",
    "<start_of_turn>user\nHi<end_of_turn>\n", "<0x41>", "<0x0A>", "[multimodal]", "naïve café",
    "日本語のテキスト", "한국어 문장", "русский язык", "العربية", "हिन्दी",
    "e\u0301 é", "🙂👩‍👩‍👧‍👦🏳️‍🌈", "\u2581\u2581x",
    "def f(x):\n    return x  # ok\n", "{\"a\": [1, 2]}", "https://example.org/?q=1&r=%20",
    "a" * 300,
    "\u200b\u00a0\u3000", "ﬁ ﬀ Ⅳ ½", "\ud7ff\ue000\uffff", "\U0010ffff", "..!!..",
]  # fmt: skip
ALPHABET = [
    *"  \n\tabehinst.!12é日本ü🙂\u2581", "the", " the", "that",
    "<bos>", "<turn>", "</b>", "\U0001f9ff", "ж", "<0x41>"
]  # fmt: skip


def texts(count: int = 240) -> list[str]:
    """Texts that people write, then random ones up to `count`."""
    rng = random.Random(0)
    made = list(WRITTEN)
    while len(made) < count:
        made.append("".join(rng.choices(ALPHABET, k=rng.randrange(1, 30))))
    return made


def both(path: Path) -> tuple[Tokenizer, Any]:
    from transformers import AutoTokenizer

    read = open_gguf(path).tokenizer_json
    assert read is not None
    theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    return Tokenizer.from_str(read()), theirs


def check_same(ours: Tokenizer, theirs: Any) -> None:
    for text in texts():
        expected = theirs(text)["input_ids"]
        assert ours.encode(text).ids == expected, text
        plain = theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.encode(text, add_special_tokens=False).ids == plain, text
        for skip in (True, False):
            decoded = theirs.decode(expected, skip_special_tokens=skip)
            assert ours.decode(expected, skip_special_tokens=skip) == decoded, text


FLAGS = [{}, *({"add_bos_token": bos, "add_eos_token": eos} for bos in (0, 1) for eos in (0, 1))]


@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_small_vocabulary_encodes_as_transformers_does(
    tmp_path: Path, flags: dict[str, bool]
) -> None:
    spec = GgufSpec(flags={name: bool(flag) for name, flag in flags.items()})
    ours, theirs = both(spec.write(tmp_path / "a.gguf"))
    check_same(ours, theirs)
    # Where nothing is put around a text we write no post-processor, and transformers an empty one.
    made, wanted = (json.loads(t.to_str()) for t in (ours, theirs.backend_tokenizer))
    assert made.pop("post_processor") in (wanted.pop("post_processor"), None)
    assert made == wanted
    assert ours.encode("that", "is").ids == theirs("that", "is")["input_ids"]


def test_the_real_tokenizer_is_the_one_of_transformers() -> None:
    read = gemma.imported().tokenizer_json
    assert read is not None
    canonical = json.dumps(json.loads(read()), sort_keys=True).encode()
    assert hashlib.sha256(canonical).hexdigest() == REAL_DIGEST


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_real_tokenizer_encodes_as_transformers_does() -> None:
    ours, theirs = both(gemma.path())
    check_same(ours, theirs)
    canonical = json.dumps(json.loads(theirs.backend_tokenizer.to_str()), sort_keys=True)
    assert hashlib.sha256(canonical.encode()).hexdigest() == REAL_DIGEST


def spoiled(change: Callable[[GgufSpec], GgufSpec], path: Path) -> str:
    read = open_gguf(change(GgufSpec()).write(path / "a.gguf")).tokenizer_json
    assert read is not None
    return read()


def test_bad_vocabularies(tmp_path: Path) -> None:
    twice = [*TOKENS[:-1], TOKENS[-2]]
    with pytest.raises(MalformedModelFile, match="appears twice"):
        spoiled(lambda spec: GgufSpec(tokens=twice), tmp_path)
    with pytest.raises(MalformedModelFile, match="more than 4096"):
        spoiled(lambda spec: GgufSpec(tokens=[*TOKENS[:-1], "x" * 5000]), tmp_path)
    with pytest.raises(MalformedModelFile, match="token_type"):
        spoiled(lambda spec: GgufSpec(token_types=token_types()[:-1]), tmp_path)
    with pytest.raises(UnsupportedModel, match="SentencePiece"):
        spoiled(lambda spec: GgufSpec(texts={"tokenizer.ggml.model": "gpt2"}), tmp_path)
