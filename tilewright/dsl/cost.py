"""What an operation costs: arithmetic and traffic, as expressions over the symbols."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from tilewright.dsl.dims import Dim, bounds
from tilewright.dsl.types import Type


@dataclass(frozen=True, slots=True)
class Cost:
    """FLOPs (a fused multiply-add counts two) and bytes that must move."""

    flops: Dim = 0
    bytes_read: Dim = 0
    bytes_written: Dim = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.flops + other.flops,
            self.bytes_read + other.bytes_read,
            self.bytes_written + other.bytes_written,
        )

    @property
    def bytes(self) -> Dim:
        """All traffic."""
        return self.bytes_read + self.bytes_written


@lru_cache(maxsize=1024)
def most_bytes(type_: Type) -> int:
    """Bytes of a value at the upper bounds of its symbols."""
    return bounds(type_.nbytes)[1]


def nbytes(types: Sequence[Type]) -> Dim:
    """Bytes of several values together."""
    total: Dim = 0
    for type_ in types:
        total = total + type_.nbytes
    return total
