"""Faults planted one at a time, and the programs in which the compiler must notice them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tilewright.codegen import check
from tilewright.codegen.compiler import Compilation, Options, compile_program
from tilewright.dsl.builder import TracedFunction
from tilewright.dsl.errors import CompilerBug
from tilewright.dsl.placement import Mesh
from tilewright.dsl.program import Program, program
from tilewright.dsl.symbols import type_dims
from tilewright.passes import validate
from tilewright.passes.base import Check
from tilewright.passes.registry import read_passes
from tilewright.runtime.buffers import Array
from tilewright.target.spec import parse_target

Patch = pytest.MonkeyPatch
Plant = Callable[[Patch], None]


@dataclass(frozen=True)
class Fault:
    """A mistake in the compiler.

    plant: makes it, until the patch is undone.
    graph: the smallest program that meets it.
    message: what the report says, with the culprit's name; a regular expression.
    """

    name: str
    plant: Plant
    graph: TracedFunction
    error: type[CompilerBug]
    message: str
    check: Check = "local"
    backend: str = "reference"
    passes: str = "+"
    mesh: Mapping[str, int] | None = None

    def __str__(self) -> str:
        return self.name

    def compile(self, out: Path) -> Compilation:
        """The program compiled by the public entry, for any machine of this kind."""
        traced = self.program()
        options = Options(
            parse_target("cpu:generic"),
            backend=self.backend,
            check=self.check,
            pipeline=read_passes(self.passes),
        )
        return compile_program(traced, Drawn(traced), out, options)

    def program(self) -> Program:
        """The program, over a mesh if there is one."""
        return program("p", self.graph, mesh=Mesh.of(**(self.mesh or {}))).program


class Drawn:
    """Parameters from a seed."""

    def __init__(self, of: Program) -> None:
        self._shapes: dict[str, tuple[int, ...]] = {
            declared.path: tuple(int(str(size)) for size in type_dims(declared.type))
            for declared in of.params
        }

    def read(self, name: str) -> Array:
        """A parameter of small numbers."""
        shape = self._shapes[name]
        return np.random.default_rng(len(name)).standard_normal(shape).astype(np.float32)


def assert_stopped(fault: Fault, folder: Path, patch: Patch) -> None:
    """Fails unless the fault, and nothing else, keeps the program from being compiled.

    The clean program is compiled before and after, and all three share what checks remember and
    what is cached of kernels: success must not hide the fault, nor the fault outlast itself.
    """
    patch.setenv("TILEWRIGHT_CACHE_DIR", str(folder / "cache"))
    patch.setattr(validate, "_CHECKED", set())
    _assert_clean(fault, folder / "before")
    with patch.context() as planted:
        fault.plant(planted)
        with pytest.raises(fault.error, match=fault.message) as caught:
            fault.compile(folder / "planted")
    assert type(caught.value) is fault.error
    assert not (folder / "planted").exists(), "nothing is written"
    _assert_clean(fault, folder / "after")


def _assert_clean(fault: Fault, out: Path) -> None:
    found = fault.compile(out)
    left_out = [d.reason for d in found.context.log.of_rule(check.RULE)]
    assert not left_out, "everything was checked"
