"""What calls of one signature share: the tables of sizes and of addresses that steps read.

A call that is like an earlier one writes into these tables where its arrays lie, and no more. All
else that follows from the shapes of the inputs was worked out when the first such call came.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tilewright.dsl.dims import Symbol
from tilewright.dsl.dtypes import BY_NAME
from tilewright.dsl.errors import SymbolRangeError
from tilewright.dsl.symbols import check_range
from tilewright.runtime.binding import Bound
from tilewright.runtime.buffers import ALIGNMENT, Array, address_of, aligned_empty
from tilewright.runtime.dim_table import DimTable
from tilewright.runtime.guarded import GuardedOutputs
from tilewright.runtime.output_pool import OutputPool
from tilewright.runtime.schema import (
    CollectiveStep,
    CopyStep,
    GraphPlan,
    HostStep,
    Place,
    ReferenceStep,
    SpanStep,
    Step,
)

_ROW = ALIGNMENT // 8
"""Words from one scalar to the next, as kernels read them."""


class Layout:
    """The form of a graph's tables: each step has a run of the sizes and one of the addresses.

    plan: `check_manifest` has passed it.
    symbols: all symbols of the program.
    dims: gets what the plan mentions.
    weights: stored components by name.
    """

    def __init__(
        self,
        plan: GraphPlan,
        symbols: Mapping[str, Symbol],
        dims: DimTable,
        weights: Mapping[str, Array],
    ) -> None:
        used = [plan.slots[index] for step in plan.steps for index in slots_of(step)]

        def entries(place: Place, names: Iterable[str]) -> list[list[int]]:
            at: dict[str, list[int]] = {name: [] for name in names}
            for entry, slot in enumerate(used):
                if slot.place == place:
                    at[slot.name].append(entry)
            return list(at.values())

        self.dims = dims
        self.arena = dims.number(plan.arena)
        self.sizes = dims.numbers(text for step in plan.steps for text in sizes_of(step))
        self.offsets = dims.numbers(slot.offset for slot in used)
        self.bases = np.array(
            [address_of(weights[s.name]) if s.place == "weight" else 0 for s in used], np.int64
        )
        outputs = entries("output", [port.name for port in plan.outputs])
        self.outputs = [
            (port.name, dims.numbers(port.shape), BY_NAME[port.dtype].numpy, places)
            for port, places in zip(plan.outputs, outputs, strict=True)
        ]
        self.scalars = [(dims.order.index(name), symbols[name]) for name in plan.bound]
        names = [port.name for port in plan.inputs]
        found = entries("input", [*names, *plan.bound])
        self.of_inputs, self.of_scalars = found[: len(names)], found[len(names) :]
        (self.of_arena,) = entries("arena", [""])
        states = list(dict.fromkeys(slot.name for slot in used if slot.place == "state"))
        self.of_states = list(zip(states, entries("state", states), strict=True))
        bound = frozenset(plan.bound)
        self.required = [(text, dims.number(text)) for text in plan.requires]
        self.changing = [
            (entry, number)
            for entry, number in enumerate(self.sizes.tolist())
            if bound & dims.mentions([number])
        ]

    def shaped_by(self) -> frozenset[str]:
        """Symbols that decide where things lie and how large they are."""
        shapes = [number for _, numbers, _, _ in self.outputs for number in numbers.tolist()]
        return self.dims.mentions([self.arena, *self.offsets.tolist(), *shapes])

    def check_required(self, symbols: Sequence[int]) -> None:
        """Raises SymbolRangeError where kernels would write beyond a buffer."""
        for text, number in self.required:
            value = self.dims.value(number, symbols)
            if value < 0:
                raise SymbolRangeError(
                    f"{text} is {value}: what is appended does not fit its cache",
                    fix="use fewer tokens, or compile with a larger context",
                )


class Frame:
    """The tables of one signature, for one call at a time.

    key: tells the signature.
    sizes: values of the dims that steps want, one run a step.
    addresses: where the slots that steps want begin, one run a step.
    sizes_at, addresses_at: the addresses of these two tables.
    symbols: values of all symbols, in the order of the plan.
    scalars: values of the bound symbols, in the order of the plan.
    scratch: bytes of the arena.

    Raises SymbolRangeError where a requirement does not hold.
    """

    def __init__(self, layout: Layout, bound: Bound) -> None:
        layout.check_required(bound.symbols)
        values = bound.values
        sizes, offsets = values[layout.sizes], values[layout.offsets]
        addresses = offsets + layout.bases
        self._layout = layout
        _, self.scalars, self.key = bound.given
        self.symbols = bound.symbols
        self.scratch = int(values[layout.arena])
        self._outputs = [
            _output(name, values[numbers].tolist(), dtype, entries)
            for name, numbers, dtype, entries in layout.outputs
        ]
        self.sizes, self.sizes_at = sizes.data, address_of(sizes)
        self.addresses, self.addresses_at = addresses.data, address_of(addresses)
        self._offsets = offsets.data
        self._arena = 0
        self._state: Mapping[str, int] = {}
        rows = aligned_empty((len(layout.scalars), _ROW), np.dtype(np.int64))
        rows[:, 0] = self.scalars
        self._rows = rows.reshape(-1).data
        for row, entries in enumerate(layout.of_scalars):
            self._place(entries, address_of(rows[row]))

    def set_scalars(self, scalars: list[int]) -> None:
        """Take other values of bound symbols. Raises SymbolRangeError, and is then as before."""
        layout, symbols = self._layout, self.symbols.copy()
        for (at, symbol), value in zip(layout.scalars, scalars, strict=True):
            check_range(symbol, value)
            symbols[at] = value
        layout.check_required(symbols)
        changed = [(entry, layout.dims.value(n, symbols)) for entry, n in layout.changing]
        for entry, value in changed:
            self.sizes[entry] = value
        for row, value in enumerate(scalars):
            self._rows[row * _ROW] = value
        self.symbols = symbols
        self.scalars = scalars

    def place_outputs(self, pool: OutputPool | GuardedOutputs) -> dict[str, Array]:
        """This call's outputs by name, their content undefined. Raises OutOfMemory."""
        found: dict[str, Array] = {}
        for name, shape, dtype, size, entries in self._outputs:
            found[name], address = pool.array(shape, dtype, size)
            self._place(entries, address)
        return found

    def place(self, inputs: list[Array], arena: int, state: Mapping[str, int]) -> None:
        """Write where the rest lies; a mapping `state` never changes once it was given.

        inputs: in the order of the ports.
        """
        for array, entries in zip(inputs, self._layout.of_inputs, strict=True):
            self._place(entries, address_of(array))
        if arena != self._arena:
            self._arena = arena
            self._place(self._layout.of_arena, arena)
        if state is not self._state:
            self._state = state
            for name, entries in self._layout.of_states:
                self._place(entries, state[name])

    def _place(self, entries: list[int], address: int) -> None:
        for entry in entries:
            self.addresses[entry] = address + self._offsets[entry]


def _output(
    name: str, shape: list[int], dtype: np.dtype[Any], entries: list[int]
) -> tuple[str, tuple[int, ...], np.dtype[Any], int, list[int]]:
    return name, tuple(shape), dtype, math.prod(shape) * dtype.itemsize, entries


def slots_of(step: Step) -> list[int]:
    """The slots that a step wants the addresses of, in the order in which it reads them."""
    match step:
        case SpanStep():
            return step.slots
        case ReferenceStep():
            return [*step.inputs, *step.outputs]
        case HostStep():
            return [step.source, *step.targets]
        case CopyStep() | CollectiveStep():
            return [step.source, step.target]


def sizes_of(step: Step) -> list[str]:
    """The dimension texts that a step wants the values of, in the order in which it reads them."""
    match step:
        case SpanStep():
            return step.symbols
        case CopyStep():
            return [step.size]
        case CollectiveStep():
            return [step.count]
        case HostStep():
            return step.shape
        case ReferenceStep():
            return []
