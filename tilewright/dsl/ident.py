"""Names as validated types: what reaches generated code or a file has passed here."""

from __future__ import annotations

import re
from typing import NewType

from tilewright.dsl.errors import InvalidName

Ident = NewType("Ident", str)
Path = NewType("Path", str)

_IDENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)
_SEGMENT = r"(?:[A-Za-z_][A-Za-z0-9_]{0,127}|[0-9]+)"
_PATH = re.compile(rf"{_SEGMENT}(?:\.{_SEGMENT})*", re.ASCII)
_MAX_PATH = 512
_SHOWN = 60


def ident(s: str) -> Ident:
    """Return `s` as an identifier: ASCII letters, digits and `_`, no digit first, 1..128 long.

    Raises InvalidName.
    """
    if type(s) is str and _IDENT.fullmatch(s) is not None:
        return Ident(s)
    raise InvalidName(
        f"{_shown(s)} is not a name",
        fix="use 1 to 128 ASCII letters, digits and underscores, the first not a digit",
    )


def path(s: str) -> Path:
    """Return `s` as a parameter path such as `layers.3.mlp.up`: names or decimals joined by dots.

    At most 512 characters. Raises InvalidName.
    """
    if type(s) is str and len(s) <= _MAX_PATH and _PATH.fullmatch(s) is not None:
        return Path(s)
    raise InvalidName(
        f"{_shown(s)} is not a parameter path",
        fix=f"join names or decimal numbers by dots, at most {_MAX_PATH} characters in all",
    )


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


def value_name(text: str) -> Ident:
    """The name of a value: an identifier, or a path that begins with one (`layers.3.mlp.v7`).

    Raises InvalidName.
    """
    head = text.partition(".")[0]
    ident(head)
    if head != text:
        path(text)
    return Ident(text)
