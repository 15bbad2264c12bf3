"""From text to a syntax tree, within limits, and from a place in the tree back to the text."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from tilewright.dsl.dims import DIM_RULES
from tilewright.dsl.errors import TextSyntaxError, TilewrightError

if TYPE_CHECKING:
    from lark import Lark, Token, Tree
    from lark.exceptions import UnexpectedInput

Place: TypeAlias = "Token | Tree[Token]"
Start = Literal["program", "alone"]

MAX_TEXT = 1 << 26
MAX_BODIES = 32
MAX_BRACKETS = 64
MAX_SYMBOLS = 256
MAX_DIM_TEXT = 1 << 14
_SHOWN = 96
_EXPECTED = 6

_BRACKETS = re.compile(r'"(?:[^"\\\n]|\\.)*"|#[^\n]*|<-|->|>=|[{}()\[\]<>]')
_FOREIGN = re.compile(r"[^\t\n\r -~]")


@dataclass(frozen=True, slots=True)
class Source:
    """A text and the name of where it comes from, for messages."""

    text: str
    name: str

    def parse(self, start: Start) -> Tree[Token]:
        """The syntax tree. Raises TextSyntaxError for what is malformed, too long or too deep."""
        from lark.exceptions import UnexpectedInput

        self._check()
        try:
            return _grammar().parse(self.text, start=start)
        except UnexpectedInput as mistake:
            raise self._unexpected(mistake) from None

    def shaped(self, token: Token) -> Tree[Token]:
        """The tree of a token that holds a number format and a shape."""
        from lark.exceptions import UnexpectedInput

        self.check_span(token, token)
        try:
            return _grammar().parse(token, start="shaped")
        except UnexpectedInput as mistake:
            raise self._unexpected(mistake, token.start_pos or 0) from None

    @contextmanager
    def at(self, place: Place) -> Generator[None]:
        """Mistakes found inside are shown at this place, unless a closer one was named before."""
        try:
            yield
        except TilewrightError as mistake:
            if mistake.excerpt is None:
                token = first_token(place)
                self.point(mistake, token.start_pos or 0, len(token))
            raise

    def check_span(self, first: Token, last: Token) -> None:
        """Raises TextSyntaxError for dimensions so long that their arithmetic would take long."""
        if (last.end_pos or 0) - (first.start_pos or 0) > MAX_DIM_TEXT:
            raise self._mistake(
                f"a dimension of more than {MAX_DIM_TEXT} characters", first.start_pos or 0
            )

    def point(self, mistake: TilewrightError, position: int, length: int = 1) -> None:
        """Adds line, column and carets to a mistake."""
        begin = self.text.rfind("\n", 0, position) + 1
        end = self.text.find("\n", position)
        line = self.text[begin : end if end >= 0 else len(self.text)]
        column = position - begin
        number = self.text.count("\n", 0, position) + 1
        first = max(0, column - _SHOWN // 2)
        shown = _FOREIGN.sub("?", line[first : first + _SHOWN]).replace("\t", " ")
        shown = shown.replace("\r", " ")
        carets = "^" * max(1, min(length, len(shown) - (column - first)))
        mistake.where = f"{self.name}:{number}:{column + 1}"
        margin = f"{number:>5} | "
        mistake.excerpt = f"{margin}{shown}\n{' ' * (len(margin) + column - first)}{carets}"

    def _check(self) -> None:
        if len(self.text) > MAX_TEXT:
            raise TextSyntaxError(
                f"the text has {len(self.text)} characters, more than {MAX_TEXT}", where=self.name
            )
        foreign = _FOREIGN.search(self.text)
        if foreign is not None:
            raise self._mistake(
                f"the character {foreign.group()!a} has no place in a text",
                foreign.start(),
                fix="names are ASCII; in strings write \\uXXXX",
            )
        self._check_depth()

    def _check_depth(self) -> None:
        """No deeper nesting than the reader can follow: it recurses over bodies and encodings."""
        depths = [0]
        for found in _BRACKETS.finditer(self.text):
            match found.group():
                case "{":
                    depths.append(0)
                case "}" if len(depths) > 1:
                    depths.pop()
                case "(" | "[" | "<":
                    depths[-1] += 1
                case ")" | "]" | ">":
                    depths[-1] -= 1
                case _:
                    continue
            # A program and its graphs are two levels of braces more than bodies are.
            if len(depths) > MAX_BODIES + 3 or depths[-1] > MAX_BRACKETS:
                raise self._mistake(
                    "brackets are nested too deeply",
                    found.start(),
                    fix=f"at most {MAX_BODIES} body graphs and {MAX_BRACKETS} brackets in each",
                )

    def _unexpected(self, mistake: UnexpectedInput, begin: int = 0) -> TextSyntaxError:
        from lark.exceptions import UnexpectedCharacters, UnexpectedToken

        position, length, seen = len(self.text), 1, "the end of the text"
        expected: Iterable[str] = ()
        if isinstance(mistake, UnexpectedToken):
            token, expected = cast("Token", mistake.token), mistake.expected
            if token.type != "$END":
                position, length = begin + (token.start_pos or 0), len(token)
                seen = _quoted(token)
        elif isinstance(mistake, UnexpectedCharacters):
            position = begin + cast("int", mistake.pos_in_stream or 0)
            expected = mistake.allowed or ()
            seen = _quoted(self.text[position : position + 1])
        return self._mistake(f"unexpected {seen}, expected {_listed(expected)}", position, length)

    def _mistake(
        self, message: str, position: int, length: int = 1, fix: str | None = None
    ) -> TextSyntaxError:
        found = TextSyntaxError(message, fix=fix)
        self.point(found, position, length)
        return found


def first_token(place: Place) -> Token:
    """The token where a piece of the tree begins."""
    return _end_token(place, 0)


def last_token(place: Place) -> Token:
    """The token where a piece of the tree ends; brackets do not count."""
    return _end_token(place, -1)


def _end_token(place: Place, end: Literal[0, -1]) -> Token:
    from lark import Token

    while not isinstance(place, Token):
        if not place.children:  # an empty list has no token to point at
            return Token("NOTHING", "", start_pos=0, end_pos=0)
        place = place.children[end]
    return place


@cache
def _grammar() -> Lark:
    from lark import Lark

    rules = files("tilewright.dsl.text").joinpath("grammar.lark").read_text(encoding="ascii")
    return Lark(
        rules + DIM_RULES,
        start=["program", "alone", "shaped"],
        parser="lalr",
        lexer="contextual",
        maybe_placeholders=False,
    )


_TERMINALS = {
    "NAME": "a name",
    "PATH": "a path",
    "INT": "a number",
    "FLOAT": "a number",
    "STRING": "a string",
    "DATA": "0x data",
    "PARAM": "@path",
    "STATE": "$path",
    "KV": "kv<...>",
    "SHAPED": "a type",
    "MASK": "mask(...)",
    "GRAPH": "a graph",
    "$END": "the end",
}


def _listed(terminals: Iterable[str]) -> str:
    patterns = {t.name: f'"{t.pattern.value}"' for t in _grammar().terminals}
    words = sorted({_TERMINALS.get(name) or patterns.get(name, name) for name in terminals})
    more = len(words) - _EXPECTED
    return " or ".join(words[:_EXPECTED] or ["nothing"]) + (" or others" if more > 0 else "")


def _quoted(text: str) -> str:
    """A piece of the text as a message shows it; of a long one the beginning."""
    shown = ascii(str(text[: _SHOWN // 2]))
    return shown if len(text) <= _SHOWN // 2 else f"{shown}..."
