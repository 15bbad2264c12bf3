"""The order of passes, and what is checked between them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from tilewright.dsl.errors import CompilerBug, UnknownPass
from tilewright.dsl.program import Program
from tilewright.dsl.verify import Verified, verify_program
from tilewright.passes.base import STAGES, Pass, PassContext

Observer = Callable[[Pass, Program, Program], None]
"""Called after each pass with the program before and after."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Passes in the order of their stages."""

    passes: tuple[Pass, ...]

    def __post_init__(self) -> None:
        reached = 0
        for step in self.passes:
            own = STAGES.index(step.stage)
            if own < reached and not step.cleans_up:
                raise UnknownPass(
                    f"pass {step} comes too late in {self}",
                    fix=f"the stages run in the order {', '.join(STAGES)}",
                )
            reached = max(reached, own)

    def run(
        self, program: Program, ctx: PassContext, observers: Sequence[Observer] = ()
    ) -> Program:
        """The rewritten program; the verifier runs after every pass that changed something."""
        ctx.mesh = program.mesh
        verified = Verified()
        verify_program(program, verified)
        for step in self.passes:
            before, program = program, step.run(program, ctx)
            if program is not before:
                _verify(step, program, verified)
            for observe in observers:
                observe(step, before, program)
        return program

    def __str__(self) -> str:
        return ",".join(map(str, self.passes))


def _verify(step: Pass, program: Program, verified: Verified) -> None:
    try:
        verify_program(program, verified)
    except Exception as mistake:
        raise CompilerBug(f"pass {step} leaves an invalid program: {mistake}") from mistake


_PASS = re.compile(r"([a-z][a-z0-9_]*)(?:\{([^{}]*)\})?(?:,|$)")


@dataclass(frozen=True, slots=True)
class PassRegistry:
    """Pass classes by name."""

    classes: Mapping[str, type[Pass]] = field(default_factory=dict[str, "type[Pass]"])

    def parse(self, text: str) -> Pipeline:
        """Reads `fold,cse{rounds=2}`, the text that `str(pipeline)` prints.

        Raises UnknownPass for a pass or option that does not exist.
        """
        found: list[Pass] = []
        position = 0
        while position < len(text):
            match = _PASS.match(text, position)
            if match is None:
                raise UnknownPass(f"cannot read the pass list at {text[position:]!r}")
            found.append(self._make(match[1], match[2] or ""))
            position = match.end()
        return Pipeline(tuple(found))

    def _make(self, name: str, options: str) -> Pass:
        cls = self.classes.get(name)
        if cls is None:
            raise UnknownPass(
                f"there is no pass {name!r}", fix=f"known passes: {', '.join(self.classes)}"
            )
        kinds = {f.name: f.default for f in fields(cls)}  # pyright: ignore[reportArgumentType]  # dataclass
        values: dict[str, Any] = {}
        for part in filter(None, options.split(",")):
            key, equals, value = part.partition("=")
            if not equals or key not in kinds:
                known = ", ".join(kinds) or "none"
                raise UnknownPass(f"pass {name} has no option {part!r}", fix=f"options: {known}")
            values[key] = _read(value, kinds[key])
        return cls(**values)


def _read(text: str, default: object) -> object:
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise UnknownPass(f"an option wants true or false, got {text!r}")
        return text == "true"
    if isinstance(default, int | float):
        try:
            return type(default)(text)
        except ValueError:
            raise UnknownPass(f"an option wants a number, got {text!r}") from None
    return text
