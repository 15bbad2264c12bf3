"""Loads and runs artifacts; needs no compiler.

model = load("minilm")
outputs = model.run("encode", {"input_ids": ids, "attention_mask": mask})
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tilewright.runtime.generate import Generated, LanguageModel
    from tilewright.runtime.model import Model, Signature, load
    from tilewright.runtime.sampling import Sampling
    from tilewright.runtime.session import Session

__all__ = [
    "Generated",
    "LanguageModel",
    "Model",
    "Sampling",
    "Session",
    "Signature",
    "load",
]

_HOMES = {
    "Generated": "generate",
    "LanguageModel": "generate",
    "Model": "model",
    "Sampling": "sampling",
    "Session": "session",
    "Signature": "model",
    "load": "model",
}


def __getattr__(name: str) -> Any:
    """The public names, imported when they are first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
