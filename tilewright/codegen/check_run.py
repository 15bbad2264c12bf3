"""A graph run by its steps, before there is an artifact."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from tilewright.codegen.steps import GraphLowering
from tilewright.dsl.dims import Symbol
from tilewright.dsl.graph import Input
from tilewright.dsl.tolerance import leaves
from tilewright.dsl.types import TensorType, Type
from tilewright.passes.memory import parts
from tilewright.runtime.buffers import Array, address_of, aligned_empty
from tilewright.runtime.executor import GraphExecutor, Workspace
from tilewright.runtime.native import NativeLibrary
from tilewright.runtime.schema import GraphPlan
from tilewright.runtime.team import ThreadTeam

_THREADS: Final = 2


class _InMemory:
    """What an executor asks of an artifact."""

    def __init__(
        self,
        weights: Mapping[str, Array],
        texts: Mapping[str, str],
        libraries: Mapping[str, NativeLibrary],
    ) -> None:
        self.weights = weights
        self.group = None
        self.mesh: Mapping[str, int] = {}
        self.teams = {name: ThreadTeam(found, _THREADS) for name, found in libraries.items()}
        self._texts = texts

    def team(self, library: str) -> ThreadTeam:
        return self.teams[library]

    def text(self, name: str) -> str:
        return self._texts[name]

    def close(self) -> None:
        for team in self.teams.values():
            team.close()


def run_plan(
    lowering: GraphLowering,
    plan: GraphPlan,
    symbols: Mapping[str, Symbol],
    libraries: Mapping[str, NativeLibrary],
    env: Mapping[str, int],
    inputs: Mapping[str, Any],
) -> dict[str, Any]:
    """The outputs by name, states too; scratch and outputs are poisoned before.

    inputs: a value for every input of the graph after the passes, by path.
    """
    graph = lowering.graph
    weights = dict(_components(graph.by_role("param"), inputs))
    states = dict(_components(graph.by_role("state"), inputs))
    resources = _InMemory(weights, lowering.regions, libraries)
    try:
        executor = GraphExecutor(plan, symbols, set(env), resources, Workspace())
        given = {name: inputs[name] for name in [*(p.name for p in plan.inputs), *plan.bound]}
        addresses = {name: address_of(array) for name, array in states.items()}
        found: dict[str, Any] = executor.run(given, addresses, env, poison=True)
    finally:
        resources.close()
    for output in graph.outputs:
        if output.replaces is not None:
            type_, path = output.value.type, output.replaces
            arrays = {part: states[_name(path, part)] for part in parts(type_)}
            found[output.name] = value_of_parts(type_, arrays)
    return found


def value_of_parts(type_: Type, arrays: Mapping[str, Array]) -> Any:
    """A value as the reference gives it, of its component arrays."""
    if isinstance(type_, TensorType):
        return arrays["data"] if type_.is_dense else dict(arrays)
    if type_.part.is_dense:
        return arrays["k"], arrays["v"]
    return tuple(
        {name[2:]: array for name, array in arrays.items() if name.startswith(f"{side}_")}
        for side in ("k", "v")
    )


def aligned(array: Array) -> Array:
    """A copy that kernels can read."""
    found = aligned_empty(array.shape, array.dtype)
    found[...] = array
    return found


def _components(
    entries: tuple[Input, ...], inputs: Mapping[str, Any]
) -> Iterator[tuple[str, Array]]:
    """Copies of the component arrays of inputs, by the names that plans give them."""
    for entry in entries:
        arrays = leaves(inputs[entry.path])
        for part, array in zip(parts(entry.value.type), arrays, strict=True):
            yield _name(entry.path, part), aligned(array)


def _name(path: str, part: str) -> str:
    return path if part == "data" else f"{path}:{part}"
