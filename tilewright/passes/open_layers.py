"""Layers opened where passes rewrite their parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tilewright.dsl.graph import Node
from tilewright.passes.base import PassContext, Rewrite, Stage
from tilewright.passes.claim import EXACT, Claim
from tilewright.passes.editor import Editor
from tilewright.passes.expand_composites import expanded
from tilewright.passes.sweep import LocalPass

_LAYERS = ("gated_mlp",)


@dataclass(frozen=True, slots=True)
class OpenLayers(LocalPass):
    """Composites that contain products by parameters become their bodies.

        y = gated_mlp(x, gate, up, down) -> its products, activation and multiplication

    so that transposes and joined products reach them; activations stay composite.
    """

    name: ClassVar[str] = "open_layers"
    stage: ClassVar[Stage] = "canonical"
    preserves: ClassVar[Claim] = EXACT

    def rewrite(self, node: Node, editor: Editor, ctx: PassContext) -> Rewrite | None:
        return expanded(node, editor, lambda op: op in _LAYERS)
