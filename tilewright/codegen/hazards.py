"""Which bytes steps touch, and when one must wait for another."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tilewright.dsl.dims import Dim, known_le, to_text
from tilewright.dsl.graph import Value
from tilewright.passes.memory import MemoryPlan, parts


@dataclass(frozen=True, slots=True)
class Bytes:
    """From `start` to `end` of what lies at a place, a name and an offset."""

    base: tuple[str, str, str]
    start: Dim
    end: Dim

    def meets(self, others: Iterable[Bytes]) -> bool:
        """False where no byte can belong to any of the others."""
        return any(
            self.base == other.base
            and not known_le(self.end, other.start)
            and not known_le(other.end, self.start)
            for other in others
        )


def bytes_of(value: Value, part: str, memory: MemoryPlan) -> Bytes:
    """The bytes of a value's component, in terms of those that it shares."""
    place = memory.places[value.name]
    at, start = memory.locations[place.root, part], place.shift(part)
    offset = str(at.offset) if isinstance(at.offset, int) else to_text(at.offset)
    return Bytes((at.place, at.name, offset), start, start + parts(value.type)[part].nbytes)


@dataclass
class Since:
    """What kernels have touched since their last barrier."""

    read: set[Bytes] = field(default_factory=set[Bytes])
    written: set[Bytes] = field(default_factory=set[Bytes])

    def next(self, reads: set[Bytes], writes: set[Bytes]) -> bool:
        """Takes the next kernel; whether a barrier stands before it."""
        barrier = any(piece.meets(self.written) for piece in reads | writes)
        barrier = barrier or any(piece.meets(self.read) for piece in writes)
        if barrier:
            self.read, self.written = set(), set()
        self.read |= reads
        self.written |= writes
        return barrier
