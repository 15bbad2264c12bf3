"""Moving encoded values: what happens to their encoding and to their component tensors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, cast

from tilewright.dsl.encoding import NM, Dense, Encoding, Quantized, Sparse
from tilewright.dsl.errors import EncodingError

_SHARED = frozenset({"table"})
"""Components without the tensor's dimensions: they are carried along as they are."""


def encoded_axes(op: str, encoding: Encoding) -> frozenset[int]:
    """The axes along which groups lie. Raises EncodingError for encodings that cannot be moved."""
    match encoding:
        case Dense():
            return frozenset()
        case Quantized(axis=axis):
            return frozenset({axis})
        case Sparse(pattern=NM(), axis=axis, values=values):
            return frozenset({axis}) | encoded_axes(op, values)
        case _:
            raise EncodingError(
                f"{op} does not move values stored as {encoding}", fix=f"{op}(decode(x))"
            )


def require_whole(op: str, encoding: Encoding, touched: Collection[int]) -> None:
    """Raises EncodingError where the operation would cut groups apart."""
    for axis in sorted(encoded_axes(op, encoding)):
        if axis in touched:
            raise EncodingError(
                f"{op} acts along dimension {axis}, which {encoding} encodes in groups",
                fix=f"{op}(decode(x)), or act along another dimension",
            )


def with_moved_axes(encoding: Encoding, moved: Callable[[int], int]) -> Encoding:
    """The encoding of a value whose dimension i became dimension `moved(i)`."""
    match encoding:
        case Quantized(axis=axis):
            return replace(encoding, axis=moved(axis))
        case Sparse(axis=axis, values=values):
            return replace(encoding, axis=moved(axis), values=with_moved_axes(values, moved))
        case _:
            return encoding


def parts_of(x: Any) -> Mapping[str, Any] | None:
    """The components of an encoded value by name; None for an array."""
    return cast("Mapping[str, Any]", x) if isinstance(x, Mapping) else None


def moved_parts(x: Any, move: Callable[[Any], Any]) -> Any:
    """`move` of an array, or of every component that has the tensor's dimensions."""
    parts = parts_of(x)
    if parts is None:
        return move(x)
    return {name: part if name in _SHARED else move(part) for name, part in parts.items()}
