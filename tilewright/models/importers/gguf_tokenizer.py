"""The tokenizer in a GGUF file's metadata, as the JSON that the `tokenizers` library reads.

Gemma's SentencePiece vocabulary becomes byte-pair encoding with byte fallback: spaces are spelled
U+2581, and every way to cut a token into two tokens is a merge, ranked by the token that it makes.
This is what transformers builds from `tokenizer.ggml.*` for such a file
(`integrations/gguf/gguf_tokenizer_mapping.py`), and a test holds the two equal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from tilewright.dsl.errors import MalformedModelFile, ModelConfigError, UnsupportedModel
from tilewright.models.importers.gguf_container import Value

SPACE: Final = "\u2581"
LONGEST_TOKEN: Final = 4096  # characters; the merges of a token are found in quadratic time
CONTROL, USER_DEFINED = 3, 4  # of llama.cpp's token types

_SPECIAL_IDS: Final = (
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.unknown_token_id",
    "tokenizer.ggml.padding_token_id",
)


def tokenizer_json(path: Path, metadata: Mapping[str, Value]) -> str:
    """The tokenizer of a Gemma file; `path` is for messages.

    Raises:
        UnsupportedModel: The vocabulary is not SentencePiece's.
        ModelConfigError: The metadata lacks a key.
        MalformedModelFile: The vocabulary contradicts itself.
    """
    if metadata.get("tokenizer.ggml.model") != "llama":
        raise UnsupportedModel(
            "the tokenizer is not a SentencePiece vocabulary",
            where=str(path),
            fix="`tokenizer.ggml.model` must be `llama`",
        )
    tokens = _tokens(path, metadata)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise _malformed(path, "a token appears twice in the vocabulary")
    specials = {key: _special(path, metadata, tokens, key) for key in _SPECIAL_IDS}
    parts: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(path, metadata, tokens, specials),
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "post_processor": _post_processor(metadata, tokens, specials),
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": _token_of(tokens, specials["tokenizer.ggml.unknown_token_id"]),
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": _merges(tokens, vocabulary),
        },
    }
    return json.dumps(parts, ensure_ascii=False, separators=(",", ":"))


def _tokens(path: Path, metadata: Mapping[str, Value]) -> list[str]:
    """The vocabulary, with runs of spaces spelled as the normalizer will spell them."""
    stored = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(stored, tuple) or not stored:
        raise ModelConfigError("the metadata lacks `tokenizer.ggml.tokens`", where=str(path))
    if max(map(len, stored)) > LONGEST_TOKEN:
        raise _malformed(path, f"a token has more than {LONGEST_TOKEN} characters")
    return [SPACE * len(token) if " " in token and not token.strip() else token for token in stored]


def _special(
    path: Path, metadata: Mapping[str, Value], tokens: Sequence[str], key: str
) -> int | None:
    index = metadata.get(key)
    if index is None:
        return None
    if not isinstance(index, int) or not 0 <= index < len(tokens):
        raise _malformed(path, f"`{key}` is no token of the vocabulary")
    return index


def _token_of(tokens: Sequence[str], index: int | None) -> str | None:
    return None if index is None else tokens[index]


def _added_tokens(
    path: Path,
    metadata: Mapping[str, Value],
    tokens: Sequence[str],
    specials: Mapping[str, int | None],
) -> list[dict[str, Any]]:
    """Tokens that are matched whole in the text: the file's control and user-defined ones.

    Control tokens and those with a role are special, so that decoding can leave them out. So is
    `<mask>`, which the file has no key for.
    """
    kinds = metadata.get("tokenizer.ggml.token_type")
    if not isinstance(kinds, np.ndarray) or len(kinds) != len(tokens):
        raise _malformed(path, "`tokenizer.ggml.token_type` does not fit the vocabulary")
    stored = metadata["tokenizer.ggml.tokens"]
    assert isinstance(stored, tuple)
    special = {index for index in specials.values() if index is not None}
    special |= {int(index) for index in np.flatnonzero(kinds == CONTROL)}
    special |= {index for index, token in enumerate(tokens) if token == "<mask>"}
    # A user-defined run of spaces is no added token: the normalizer respells the text before it
    # could match, and the merges build it.
    defined = {int(index) for index in np.flatnonzero(kinds == USER_DEFINED)}
    whole = {index for index in defined if stored[index] == tokens[index]}
    return [
        {
            "id": index,
            "content": tokens[index],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": index in special,
        }
        for index in sorted(special | whole)
    ]


def _post_processor(
    metadata: Mapping[str, Value], tokens: Sequence[str], specials: Mapping[str, int | None]
) -> dict[str, Any] | None:
    """Puts the begin and end tokens around a text, where the file wants them.

    Without a word on it, llama.cpp adds the begin token to such a vocabulary, and so do we.
    """
    begin = specials["tokenizer.ggml.bos_token_id"]
    end = specials["tokenizer.ggml.eos_token_id"]
    if not metadata.get("tokenizer.ggml.add_bos_token", True):
        begin = None
    if not metadata.get("tokenizer.ggml.add_eos_token", False):
        end = None
    around = [index for index in (begin, end) if index is not None]
    if not around:
        return None

    def wrapped(name: str, segment: int) -> list[dict[str, Any]]:
        middle: dict[str, Any] = {"Sequence": {"id": name, "type_id": segment}}
        parts = [
            None if index is None else {"SpecialToken": {"id": tokens[index], "type_id": segment}}
            for index in (begin, end)
        ]
        return [part for part in (parts[0], middle, parts[1]) if part is not None]

    return {
        "type": "TemplateProcessing",
        "single": wrapped("A", 0),
        "pair": wrapped("A", 0) + wrapped("B", 1),
        "special_tokens": {
            tokens[index]: {"id": tokens[index], "ids": [index], "tokens": [tokens[index]]}
            for index in around
        },
    }


def _merges(tokens: Sequence[str], vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    """Every cut of a token into two tokens; earlier tokens first, the longest left part first.

    Gemma's scores do not follow the order in which its merges were learned; its indices do.
    """
    return [
        (token[:cut], token[cut:])
        for token in tokens
        for cut in range(len(token) - 1, 0, -1)
        if token[:cut] in vocabulary and token[cut:] in vocabulary
    ]


def _malformed(path: Path, reason: str) -> MalformedModelFile:
    return MalformedModelFile(reason, where=str(path), fix="fetch the file again")
