"""Hints: where inputs, parameters, states and outputs lie on an axis of the mesh.

    input/x:dp=shard(0)  param/layers.*:tp=free  megatron@tp

A hint is `[role/]pattern:axis=place`; a strategy is a name for several, `@` its axis. Some words
leave the placement to the solver: `free`; `cut`, which wants it sharded (where the ranks divide no
dimension, it stays whole); `gathered`, which is cut too, but used whole; and `kept`, which is used
as it is stored, never sent, and is replicated only where that is worth an all-reduce of it. Where
several hints match, a path without wildcards wins, then the longer pattern, then the later hint.
Without a hint everything is replicated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Final, Literal

from tilewright.dsl.errors import InvalidHint
from tilewright.dsl.ident import Ident
from tilewright.dsl.placement import REPLICATE, AxisPlacement, Mesh, Partial, ReduceOp, Shard

Role = Literal["input", "param", "state", "output"]
ROLES: Final[tuple[Role, ...]] = ("input", "param", "state", "output")
Open = Literal["free", "cut", "gathered", "kept"]
OPEN: Final[tuple[Open, ...]] = ("free", "cut", "gathered", "kept")

STRATEGIES: Final[Mapping[str, str]] = MappingProxyType(
    {
        # Every rank has its rows of the batch; parameters are on all.
        "data": "input/*:@=shard(0) output/*:@=shard(0)",
        # As data, but each rank stores its part of every parameter and gathers what it uses
        # (ZeRO-3: Rajbhandari et al., 2020).
        "fsdp": "input/*:@=shard(0) output/*:@=shard(0) param/*:@=gathered",
        # Columns, then rows of the weights; what enters and leaves is whole (Shoeybi et al., 2019).
        "megatron": "param/*:@=kept",
        # As megatron, but between the blocks each rank has its part of the sequence, dimension 1,
        # where norms and dropout run (Korthikanti et al., 2022).
        "sequence": "param/*:@=kept input/*:@=shard(1) output/*:@=shard(1)",
        # Optimizer states are in parts, gradients are sums over the ranks (ZeRO-1).
        "zero1": "state/*:@=shard(0) input/*:@=partial(sum)",
    }
)
"""Hints by name; `@` stands for the axis."""

USUAL: Final[Mapping[str, str]] = MappingProxyType(
    {"data": "dp", "fsdp": "dp", "zero1": "dp", "megatron": "tp", "sequence": "tp"}
)
"""The axis that a strategy is meant for where none is written."""

_HINT = re.compile(
    r"(?:(?P<role>[a-z]+)/)?(?P<pattern>[A-Za-z0-9_.*?]+):(?P<axis>[a-z]\w*)=(?P<place>[a-z0-9()]+)"
)
_STRATEGY = re.compile(r"(?P<name>[a-z0-9]+)@(?P<axis>[a-z]\w*)")
_PLACE = re.compile(r"shard\((?P<dim>[0-9]{1,2})\)|partial\((?P<op>sum|max|min)\)")


@dataclass(frozen=True, slots=True)
class Hint:
    """Where what matches lies on one axis."""

    pattern: str
    axis: Ident
    place: AxisPlacement | Open
    role: Role | None = None

    @property
    def is_exact(self) -> bool:
        """Whether it names one path."""
        return not any(c in self.pattern for c in "*?")

    def matches(self, role: Role, path: str) -> bool:
        """Whether it speaks of this input, parameter, state or output."""
        return self.role in (None, role) and fnmatchcase(path, self.pattern)


@dataclass(frozen=True, slots=True)
class Hints:
    """All hints of one program."""

    hints: tuple[Hint, ...] = ()

    def find(self, role: Role, path: str, axis: str) -> Hint | None:
        """The hint that decides."""
        found = [
            (h.is_exact, len(h.pattern), place, h)
            for place, h in enumerate(self.hints)
            if h.axis == axis and h.matches(role, path)
        ]
        return max(found, key=lambda f: f[:3])[3] if found else None

    def on(self, axis: str) -> bool:
        """Whether any of them speaks of an axis."""
        return any(h.axis == axis for h in self.hints)


def spelled(text: str, mesh: Mesh) -> str:
    """Hints in full: `megatron` is `megatron@tp`, an axis `dp` that nobody speaks of is `data@dp`.

    Raises InvalidHint for a strategy whose usual axis the mesh lacks.
    """
    names = [name for name, _ in mesh.axes]
    words = [_on_axis(word, names) for word in text.split()]
    if "dp" in names and not any("@dp" in word or ":dp=" in word for word in words):
        words.insert(0, "data@dp")
    return " ".join(words)


def _on_axis(word: str, names: Sequence[str]) -> str:
    axis = USUAL.get(word)
    if axis is None:
        return word
    if axis not in names:
        raise InvalidHint(
            f"{word} is meant for a mesh axis {axis}, and the mesh has {', '.join(names)}",
            fix=f"name the axis: {word}@{names[-1]}",
        )
    return f"{word}@{axis}"


def read_hints(text: str, mesh: Mesh) -> Hints:
    """Reads hints and strategies, apart by blanks. Raises InvalidHint and PlacementError."""
    found: list[Hint] = []
    for word in text.split():
        strategy = _STRATEGY.fullmatch(word)
        words = [word] if strategy is None else _written_out(strategy["name"], strategy["axis"])
        found.extend(map(_read, words))
    for hint in found:
        mesh.size(hint.axis)
    return Hints(tuple(found))


def _written_out(name: str, axis: str) -> Sequence[str]:
    if name not in STRATEGIES:
        raise InvalidHint(
            f"there is no strategy {name!r}", fix=f"known strategies: {', '.join(STRATEGIES)}"
        )
    return STRATEGIES[name].replace("@", axis).split()


def _read(word: str) -> Hint:
    match = _HINT.fullmatch(word)
    if match is None:
        raise InvalidHint(
            f"cannot read the hint {word!r}",
            fix="write [role/]pattern:axis=place, such as input/x:dp=shard(0), or megatron@tp",
        )
    role: Role | None = next((r for r in ROLES if r == match["role"]), None)
    if role is None and match["role"] is not None:
        raise InvalidHint(
            f"{word}: there is no role {match['role']!r}", fix=f"use one of {', '.join(ROLES)}"
        )
    return Hint(match["pattern"], Ident(match["axis"]), _place(word, match["place"]), role)


def _place(word: str, text: str) -> AxisPlacement | Open:
    for known in OPEN:
        if text == known:
            return known
    if text == "replicate":
        return REPLICATE
    match = _PLACE.fullmatch(text)
    if match is None:
        raise InvalidHint(
            f"{word}: {text!r} is no placement",
            fix=f"use replicate, shard(0), partial(sum), {', '.join(OPEN)}",
        )
    if match["dim"] is not None:
        return Shard(int(match["dim"]))
    operations: tuple[ReduceOp, ...] = ("sum", "max", "min")
    return Partial(next(op for op in operations if op == match["op"]))
