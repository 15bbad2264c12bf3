"""Whole programs compiled and loaded, for tests."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tilewright.codegen.compiler import Options, compile_program
from tilewright.dsl.program import Program
from tilewright.runtime.model import Model, load
from tilewright.target.spec import Target


@dataclass(frozen=True)
class Arrays:
    """Parameters held in memory."""

    values: Mapping[str, np.ndarray[Any, Any]]

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """One parameter."""
        return self.values[name]


NO_WEIGHTS = Arrays({})


@contextmanager
def compiled(
    program: Program, weights: Arrays, folder: Path, target: Target, threads: int = 2
) -> Generator[Model]:
    """The loaded artifact of a program."""
    compile_program(program, weights, folder / "artifact", Options(target, check="off"))
    with load(folder / "artifact", threads=threads) as model:
        yield model
