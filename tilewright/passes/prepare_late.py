"""Moves what depends on parameters alone to compile time, once composites are open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tilewright.passes.base import Stage
from tilewright.passes.prepare_params import PrepareParams


@dataclass(frozen=True, slots=True)
class PrepareLate(PrepareParams):
    """y = f(parameters); ... y ... -> ... p ..., where p is a new parameter prepared as f

    under the conditions of PrepareParams, for what the bodies of composites bring to light (the
    `1 + w` of a norm, tables of literals).
    """

    name: ClassVar[str] = "prepare_late"
    stage: ClassVar[Stage] = "fuse"
