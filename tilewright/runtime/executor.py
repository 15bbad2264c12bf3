"""Runs the plan of a graph: binds, computes every address once, takes the steps in order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tilewright.dsl.dims import Symbol
from tilewright.dsl.dtypes import BY_NAME
from tilewright.dsl.errors import SymbolRangeError
from tilewright.runtime.binding import Binder
from tilewright.runtime.buffers import ALIGNMENT, Arena, Array, address_of, aligned_empty, view_at
from tilewright.runtime.dim_table import DimTable
from tilewright.runtime.process_group import Collective, ProcessGroup, target_count
from tilewright.runtime.schema import (
    CollectiveStep,
    CopyStep,
    GraphPlan,
    ReferenceStep,
    SpanStep,
    Step,
)
from tilewright.runtime.timeline import Timeline

if TYPE_CHECKING:
    from tilewright.runtime.team import ThreadTeam


class Resources(Protocol):
    """What graphs share: code, weights, text and processes."""

    @property
    def weights(self) -> Mapping[str, Array]:
        """Stored components by name, each at a multiple of 64 bytes."""
        ...

    @property
    def group(self) -> ProcessGroup | None:
        """The processes of the mesh; None on one device."""
        ...

    @property
    def mesh(self) -> Mapping[str, int]:
        """Sizes of the mesh's axes."""
        ...

    def team(self, library: str) -> ThreadTeam:
        """The team that runs the spans of a library."""
        ...

    def text(self, name: str) -> str:
        """A text file of the artifact."""
        ...


_BYTE = np.dtype(np.uint8)


@dataclass
class Workspace:
    """Scratch memory, and the lock of who uses it: one call at a time."""

    arena: Arena = field(default_factory=Arena)
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True, slots=True)
class _Frame:
    """One call: the values of all dims, the addresses of all slots, the values of all symbols."""

    values: NDArray[np.int64]
    addresses: NDArray[np.int64]
    symbols: list[int]
    timeline: Timeline | None


_Action = Callable[[_Frame], None]


class GraphExecutor:
    """One graph, ready to be run.

    plan: what to do; `check_manifest` has passed it.
    symbols: all symbols of the program.
    fixed: names of the symbols that a session decides.
    """

    def __init__(
        self,
        plan: GraphPlan,
        symbols: Mapping[str, Symbol],
        fixed: set[str],
        resources: Resources,
        workspace: Workspace,
    ) -> None:
        self._workspace = workspace
        self._order = plan.symbols
        self._dims = DimTable(symbols, plan.symbols)
        self._binder = Binder(plan, symbols, self._dims)
        self._binder.check_bindable(fixed)
        self._arena = self._dims.number(plan.arena)
        self._requires = plan.requires
        self._required = self._dims.numbers(plan.requires)
        self._inputs = [port.name for port in plan.inputs]
        self._bound = plan.bound
        self._outputs = [
            (port.name, self._dims.numbers(port.shape), BY_NAME[port.dtype].numpy)
            for port in plan.outputs
        ]
        self._place_slots(plan, resources.weights)
        self._actions = [(step, self._action(step, resources)) for step in plan.steps]

    def run(
        self,
        inputs: Mapping[str, Any],
        state: Mapping[str, int],
        fixed: Mapping[str, int],
        *,
        poison: bool = False,
        timeline: Timeline | None = None,
    ) -> dict[str, Array]:
        """The outputs, in new arrays; `state` gives the addresses of components.

        With `poison`, outputs and scratch hold NaN before: what is not computed then shows. A
        `timeline` gets the time of each step.

        Raises what `Binder.bind` raises, SymbolRangeError where `requires` does not hold, and
        OutOfMemory.
        """
        bound = self._binder.bind(inputs, fixed)
        self._check_requirements(bound.values)
        outputs = {
            name: aligned_empty(tuple(bound.values[numbers].tolist()), dtype)
            for name, numbers, dtype in self._outputs
        }
        scalars = self._scalars(inputs)
        with self._workspace.lock:
            scratch = int(bound.values[self._arena])
            if poison:
                arena = view_at(self._workspace.arena.reserve(scratch), (scratch,), _BYTE)
                for array in (arena, *outputs.values()):
                    array.reshape(-1).view(_BYTE).fill(0xFF)
            starts: dict[str, Mapping[str, int]] = {
                "state": state,
                "arena": {"": self._workspace.arena.reserve(scratch)},
                "input": {n: address_of(a) for n, a in zip(self._inputs, bound.arrays, strict=True)}
                | {name: address_of(scalars[i]) for i, name in enumerate(self._bound)},
                "output": {name: address_of(array) for name, array in outputs.items()},
            }
            bases = self._bases.copy()
            for index, place, name in self._moving:
                bases[index] = starts[place][name]
            addresses = bases[self._slot_base] + bound.values[self._slot_offset]
            frame = _Frame(bound.values, addresses, bound.symbols, timeline)
            for step, action in self._actions:
                with nullcontext() if timeline is None else timeline.step(step):
                    action(frame)
        return outputs

    def _place_slots(self, plan: GraphPlan, weights: Mapping[str, Array]) -> None:
        """Number the distinct things that slots begin at; only weights never move."""
        keys = list(dict.fromkeys((slot.place, slot.name) for slot in plan.slots))
        at = {key: index for index, key in enumerate(keys)}
        self._bases = np.zeros(len(keys), np.int64)
        self._moving: list[tuple[int, str, str]] = []
        for index, (place, name) in enumerate(keys):
            if place == "weight":
                self._bases[index] = address_of(weights[name])
            else:
                self._moving.append((index, place, name))
        self._slot_base = np.array([at[slot.place, slot.name] for slot in plan.slots], np.intp)
        self._slot_offset = self._dims.numbers(slot.offset for slot in plan.slots)

    def _check_requirements(self, values: NDArray[np.int64]) -> None:
        """Kernels write beyond a buffer where these do not hold."""
        for text, value in zip(self._requires, values[self._required].tolist(), strict=True):
            if value < 0:
                raise SymbolRangeError(
                    f"{text} is {value}: what is appended does not fit its cache",
                    fix="use fewer tokens, or compile with a larger context",
                )

    def _scalars(self, inputs: Mapping[str, Any]) -> Array:
        """The bound symbols' values as kernels read them, one aligned row each."""
        rows = aligned_empty((len(self._bound), ALIGNMENT // 8), np.dtype(np.int64))
        for row, name in enumerate(self._bound):
            rows[row, 0] = inputs[name]
        return rows

    def _action(self, step: Step, resources: Resources) -> _Action:
        match step:
            case SpanStep():
                return self._span(step, resources)
            case CopyStep():
                return self._copy(step)
            case ReferenceStep():
                return self._reference(step, resources)
            case CollectiveStep():
                return self._collective(step, resources)

    def _span(self, step: SpanStep, resources: Resources) -> _Action:
        team = resources.team(step.library)
        span = team.library.span(step.symbol)
        numbers = self._dims.numbers(step.symbols)
        slots = np.array(step.slots, np.intp)

        def run(frame: _Frame) -> None:
            symbols, pointers = frame.values[numbers], frame.addresses[slots]
            trace = None if frame.timeline is None else frame.timeline.trace(team.size)
            team.run_at(span, address_of(symbols), address_of(pointers), trace)

        return run

    def _copy(self, step: CopyStep) -> _Action:
        number = self._dims.number(step.size)
        byte = np.dtype(np.uint8)

        def run(frame: _Frame) -> None:
            size = (int(frame.values[number]),)
            source = view_at(int(frame.addresses[step.source]), size, byte)
            np.copyto(view_at(int(frame.addresses[step.target]), size, byte), source)

        return run

    def _reference(self, step: ReferenceStep, resources: Resources) -> _Action:
        from tilewright.runtime.reference import ReferenceRegion

        text = resources.text(step.region)
        region = ReferenceRegion(text, step.region, len(step.inputs), len(step.outputs))

        def run(frame: _Frame) -> None:
            sources, targets = (
                frame.addresses[list(s)].tolist() for s in (step.inputs, step.outputs)
            )
            region.run(sources, targets, dict(zip(self._order, frame.symbols, strict=True)))

        return run

    def _collective(self, step: CollectiveStep, resources: Resources) -> _Action:
        group = resources.group
        assert group is not None
        group.check(step.op, step.axis, step.reduce)
        if step.phase == "wait":
            return lambda _: group.wait(step.handle)
        number, dtype = self._dims.number(step.count), BY_NAME[step.dtype].numpy
        ranks = resources.mesh[step.axis]

        def post(frame: _Frame) -> None:
            count = int(frame.values[number])
            source = view_at(int(frame.addresses[step.source]), (count,), dtype)
            filled = (target_count(step.op, count, ranks),)
            target = view_at(int(frame.addresses[step.target]), filled, dtype)
            group.post(step.handle, Collective(step.op, step.axis, step.reduce, source, target))

        return post
