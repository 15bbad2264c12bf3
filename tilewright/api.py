"""From a Python function to a running model in one call."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tilewright.dsl import ops as ops  # fills the registry
from tilewright.dsl.builder import TracedFunction
from tilewright.dsl.errors import InvalidModelFunction, MissingWeights, WeightFormatMismatch
from tilewright.dsl.program import Program, Traced, program
from tilewright.runtime.model import Model, load

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class ArrayWeights:
    """Weights that are at hand as arrays, by path."""

    arrays: Mapping[str, Array]

    def names(self) -> Sequence[str]:
        return tuple(self.arrays)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.arrays[name].shape

    def read(self, name: str) -> Array:
        return self.arrays[name]


def compile(
    model: TracedFunction | Traced | Program,
    weights: Mapping[str, Any] | None = None,
    target: str = "cpu",
    out: Path | str | None = None,
    *,
    backend: str = "tvm",
    threads: int | None = None,
) -> Model:
    """Compile a decorated function or a program, and load it.

    weights: an array for each parameter, by path; anything that NumPy takes.
    out: the folder of the artifact; by default a temporary one that goes with the model.

    Raises MissingWeights, UnexpectedWeights, WeightShapeMismatch and WeightFormatMismatch for
    weights that do not fit, UnknownTarget, and what `compile_program` and `load` raise.
    """
    from tilewright.autotune.winners import with_shipped
    from tilewright.codegen.compiler import Options, compile_program
    from tilewright.models.importers import check_weights
    from tilewright.target.spec import parse_target

    built = as_program(model)
    if built is None:
        raise InvalidModelFunction(
            f"{type(model).__name__} is no graph and no program",
            fix="pass a function decorated with @graph, or what program(...) returns",
        )
    source = _array_weights({} if weights is None else weights)
    check_weights(parameter_shapes(built), source)
    options = with_shipped(Options(parse_target(target), backend=backend))
    if out is not None:
        compile_program(built, source, Path(out), options)
        return load(out, threads)
    # The code and the weights are mapped from the folder for as long as the model is used.
    kept = tempfile.TemporaryDirectory(prefix="tilewright-", ignore_cleanup_errors=True)
    folder = Path(kept.name, "artifact")
    compile_program(built, source, folder, options)
    loaded = load(folder, threads)
    weakref.finalize(loaded, kept.cleanup)
    return loaded


def _array_weights(weights: object) -> ArrayWeights:
    """Raises MissingWeights and WeightFormatMismatch."""
    if not isinstance(weights, Mapping):
        raise MissingWeights(
            f"weights are given by path, not as a {type(weights).__name__}",
            fix='pass a dict, {"up.weight": array, ...}',
        )
    arrays: dict[str, Array] = {}
    for name, array in cast("Mapping[str, Any]", weights).items():
        try:
            arrays[name] = np.asarray(array)
        except (TypeError, ValueError) as error:
            raise WeightFormatMismatch(f"the weight {name} is no array: {error}") from error
    return ArrayWeights(arrays)


def as_program(found: object) -> Program | None:
    """The program that a decorated function, a traced program or a program stands for."""
    if isinstance(found, TracedFunction):
        return program(found.name, found).program
    if isinstance(found, Traced):
        return found.program
    return found if isinstance(found, Program) else None


def parameter_shapes(built: Program) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter, by path."""
    return {p.path: tuple(int(str(d)) for d in built.param(p.path).shape) for p in built.params}
