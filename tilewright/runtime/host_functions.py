"""What a `host` step can run: functions over arrays, by name. A manifest can name no other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from tilewright.dsl import factor
from tilewright.runtime.buffers import Array

_Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class HostFunction:
    """A function of one array, and the shapes of its results, each of the operand's dtype."""

    run: Callable[[Array], tuple[Array, ...]]
    shapes: Callable[[_Shape], tuple[_Shape, ...]]
    results: int
    rank: int = 2
    """The least rank of the operand."""


def _eigh_shapes(shape: _Shape) -> tuple[_Shape, ...]:
    return shape[:-1], shape


def _qr_shapes(shape: _Shape) -> tuple[_Shape, ...]:
    return shape, (*shape[:-2], shape[-1], shape[-1])


HOST_FUNCTIONS: Final[Mapping[str, HostFunction]] = {
    "eigh": HostFunction(factor.eigh, _eigh_shapes, 2),
    "qr": HostFunction(factor.qr, _qr_shapes, 2),
}

HOST_DTYPES: Final = frozenset({"f32", "f64"})
