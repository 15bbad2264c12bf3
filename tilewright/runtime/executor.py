"""Runs the plan of a graph: binds the inputs, places the arrays, takes the steps in order."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from tilewright.dsl.dims import Symbol
from tilewright.dsl.errors import KernelOverrun
from tilewright.runtime.binding import Binder, Key
from tilewright.runtime.buffers import Arena, Array, view_at
from tilewright.runtime.dim_table import DimTable
from tilewright.runtime.frame import Frame, Layout
from tilewright.runtime.guarded import GuardedOutputs
from tilewright.runtime.output_pool import OutputPool
from tilewright.runtime.schema import GraphPlan
from tilewright.runtime.steps import Resources, actions
from tilewright.runtime.timeline import Timeline

FRAMES: Final = 16
"""Signatures that a graph remembers; the one that was called longest ago gives way."""
_BYTE = np.dtype(np.uint8)


@dataclass
class Workspace:
    """Scratch memory, memory of outputs, and the lock of who uses them: one call at a time."""

    arena: Arena = field(default_factory=Arena)
    outputs: OutputPool = field(default_factory=OutputPool)
    lock: threading.Lock = field(default_factory=threading.Lock)


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
        self._name = plan.name
        self._workspace = workspace
        dims = DimTable(symbols, plan.symbols)
        self._layout = Layout(plan, symbols, dims, resources.weights)
        self._binder = Binder(plan, symbols, dims, self._layout.shaped_by() | fixed)
        self._binder.check_bindable(fixed)
        self._frames: OrderedDict[Key, Frame] = OrderedDict()
        self._last: Frame | None = None
        self._steps = actions(plan.steps, plan.symbols, resources)

    def run(
        self,
        inputs: Mapping[str, Any],
        state: Mapping[str, int],
        fixed: Mapping[str, int],
        *,
        poison: bool = False,
        timeline: Timeline | None = None,
    ) -> dict[str, Array]:
        """The outputs, in arrays that nobody else holds.

        state: the addresses of components; the same mapping always holds the same ones.
        fixed: the values of the symbols that a session decides.
        poison: outputs and scratch hold NaN before, and outputs lie between guards: what is not
            computed, or written beyond them, then shows.
        timeline: gets the time of each step.

        Raises what `Binder.bind` raises, SymbolRangeError where `requires` does not hold,
        OutOfMemory, and KernelOverrun with `poison`.
        """
        given = self._binder.plain(inputs, fixed)
        frame = None if given is None else self._frames.get(given[2])
        if given is None or frame is None:
            bound = self._binder.bind(inputs, fixed)
            given = bound.given
            frame = self._frames.get(given[2]) or Frame(self._layout, bound)
        arrays, scalars, _ = given
        workspace = self._workspace
        with workspace.lock:
            if frame is not self._last:
                self._remember(frame)
            if scalars != frame.scalars:
                frame.set_scalars(scalars)
            guarded = GuardedOutputs() if poison else None
            outputs = frame.place_outputs(guarded or workspace.outputs)
            arena = workspace.arena.reserve(frame.scratch)
            frame.place(arrays, arena, state)
            if guarded is not None:
                _poison([view_at(arena, (frame.scratch,), _BYTE), *outputs.values()])
            for step, action in self._steps:
                if timeline is None:
                    action(frame, None)
                else:
                    with timeline.step(step):
                        action(frame, timeline)
        if guarded is not None and not guarded.are_whole:
            raise KernelOverrun(
                f"a kernel of graph {self._name} writes beyond an output",
                fix="report it; without its schedules (--storage), defaults are taken",
            )
        return outputs

    def _remember(self, frame: Frame) -> None:
        self._last = frame
        self._frames[frame.key] = frame
        self._frames.move_to_end(frame.key)
        if len(self._frames) > FRAMES:
            self._frames.popitem(last=False)


def _poison(arrays: list[Array]) -> None:
    for array in arrays:
        array.reshape(-1).view(_BYTE).fill(0xFF)
