"""The tokenizer that an artifact keeps: text to token ids and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tilewright.dsl.errors import InvalidPrompt, MissingPackage, TokenizerMissing

if TYPE_CHECKING:
    import tokenizers


class Tokenizer:
    """A tokenizer from the text of a `tokenizer.json`.

    Raises MissingPackage without the package `tokenizers`, TokenizerMissing for text that it cannot
    read.
    """

    def __init__(self, text: str) -> None:
        try:
            import tokenizers
        except ImportError as error:
            raise MissingPackage(
                "reading text needs the package tokenizers",
                fix="pip install 'tilewright[run]', or pass token ids",
            ) from error
        try:
            self._tokenizer: tokenizers.Tokenizer = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the package raises plain Exceptions
            raise TokenizerMissing(
                f"the artifact's tokenizer cannot be read: {error}",
                fix="pass token ids instead of text",
            ) from error

    @property
    def size(self) -> int:
        """How many tokens there are."""
        return self._tokenizer.get_vocab_size()

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """The ids of a text, with the tokens that begin and end one if `special`.

        Raises InvalidPrompt for what is no text: bytes, or bytes that are no UTF-8 on a command
        line, which Python hands on as surrogates.
        """
        try:
            text.encode("utf-8")
        except (AttributeError, UnicodeEncodeError) as error:
            raise InvalidPrompt(
                "the prompt is no text in UTF-8", fix="write it in UTF-8"
            ) from error
        found: Any = self._tokenizer.encode(text, add_special_tokens=special)
        return list(found.ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def stream(self) -> TextStream:
        """Turns ids into text as they come."""
        return TextStream(self._tokenizer)


class TextStream:
    """The text of a sequence of ids, piece by piece; a piece ends with a whole character."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)

    def step(self, token: int) -> str:
        """The text that this id adds; empty while a character is incomplete."""
        return self._stream.step(self._tokenizer, token) or ""
