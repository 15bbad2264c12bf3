"""`tilewright list`: what there is."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from tilewright.cli.shell import Json, Traceback
from tilewright.cli.talk import Talk


class Kind(StrEnum):
    """What can be listed."""

    ops = "ops"
    passes = "passes"
    targets = "targets"
    models = "models"


def listing(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """List operations, passes, targets or models."""
    talk = Talk(json)
    heads, rows = _ROWS[kind]()
    talk.table("", heads, rows)
    talk.result([dict(zip(heads, row, strict=True)) for row in rows])


Rows = tuple[tuple[str, ...], list[tuple[Any, ...]]]


def _ops() -> Rows:
    from tilewright.dsl import ops as ops  # fills the registry
    from tilewright.dsl.op import registry

    rows: list[tuple[Any, ...]] = [
        (name, ", ".join(op.operands), ", ".join(op.attrs), _first_line(op))
        for name, op in registry().items()
    ]
    return ("name", "operands", "attributes", "meaning"), rows


def _passes() -> Rows:
    from tilewright.passes.registry import CLASSES

    rows: list[tuple[Any, ...]] = [
        (cls.name, cls.stage, str(cls.preserves), _first_line(cls)) for cls in CLASSES
    ]
    return ("name", "stage", "preserves", "rewrite"), rows


def _targets() -> Rows:
    from tilewright.target.capability import capabilities
    from tilewright.target.spec import known_targets, machine_of, parse_target

    rows: list[tuple[Any, ...]] = []
    for text in known_targets():
        target = parse_target(text)
        machine = machine_of(target) if target.kind == "cpu" else target.kind
        rows.append((text, machine, ", ".join(sorted(capabilities(target)))))
    return ("name", "machine", "capabilities"), rows


def _models() -> Rows:
    return ("name", "graphs", "files"), [
        ("bert", "encode", "a Hugging Face folder (BERT, sentence-transformers)"),
        ("gemma3", "prefill, decode", "a Hugging Face folder or a GGUF file (Gemma 3, text)"),
    ]


def _first_line(documented: object) -> str:
    return (documented.__doc__ or "").strip().partition("\n")[0]


_ROWS = {Kind.ops: _ops, Kind.passes: _passes, Kind.targets: _targets, Kind.models: _models}
