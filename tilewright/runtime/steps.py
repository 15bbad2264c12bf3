"""The steps of a plan as functions of a call's frame."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np

from tilewright.dsl.dtypes import BY_NAME
from tilewright.runtime.buffers import Array, view_at
from tilewright.runtime.frame import Frame, sizes_of, slots_of
from tilewright.runtime.host_functions import HOST_FUNCTIONS
from tilewright.runtime.process_group import Collective, ProcessGroup, target_count
from tilewright.runtime.schema import (
    CollectiveStep,
    CopyStep,
    HostStep,
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


Action: TypeAlias = Callable[[Frame, Timeline | None], None]
_BYTE = np.dtype(np.uint8)
_WORD = 8
"""Bytes of an entry of a frame's tables."""


def actions(
    steps: Iterable[Step], order: Sequence[str], resources: Resources
) -> list[tuple[Step, Action]]:
    """Each step with what it does; `order` names the symbols in the order of a frame's.

    The steps are those that the frames' layout was made of. Raises what `ReferenceRegion`,
    `NativeLibrary`, `ThreadTeam` and `ProcessGroup.check` raise.
    """
    found: list[tuple[Step, Action]] = []
    size = slot = 0
    for step in steps:
        match step:
            case SpanStep():
                action = _span(step, size, slot, resources)
            case CopyStep():
                action = _copy(size, slot)
            case ReferenceStep():
                action = _reference(step, slot, order, resources)
            case HostStep():
                action = _host(step, size, slot)
            case CollectiveStep():
                action = _collective(step, size, slot, resources)
        found.append((step, action))
        size, slot = size + len(sizes_of(step)), slot + len(slots_of(step))
    return found


def _span(step: SpanStep, size: int, slot: int, resources: Resources) -> Action:
    team = resources.team(step.library)
    span = team.library.span(step.symbol)
    sizes, slots = size * _WORD, slot * _WORD

    def run(frame: Frame, timeline: Timeline | None) -> None:
        trace = None if timeline is None else timeline.trace(team.size)
        team.run_at(span, frame.sizes_at + sizes, frame.addresses_at + slots, trace)

    return run


def _copy(size: int, slot: int) -> Action:
    def run(frame: Frame, _: Timeline | None) -> None:
        shape = (frame.sizes[size],)
        source = view_at(frame.addresses[slot], shape, _BYTE)
        np.copyto(view_at(frame.addresses[slot + 1], shape, _BYTE), source)

    return run


def _reference(
    step: ReferenceStep, slot: int, order: Sequence[str], resources: Resources
) -> Action:
    from tilewright.runtime.reference import ReferenceRegion

    middle, end = slot + len(step.inputs), slot + len(slots_of(step))
    region = ReferenceRegion(
        resources.text(step.region), step.region, len(step.inputs), len(step.outputs)
    )

    def run(frame: Frame, _: Timeline | None) -> None:
        sources, targets = frame.addresses[slot:middle], frame.addresses[middle:end]
        symbols = dict(zip(order, frame.symbols, strict=True))
        region.run(sources.tolist(), targets.tolist(), symbols)

    return run


def _host(step: HostStep, size: int, slot: int) -> Action:
    function, dtype = HOST_FUNCTIONS[step.function], BY_NAME[step.dtype].numpy
    last_size, last_slot = size + len(step.shape), slot + 1 + len(step.targets)

    def run(frame: Frame, _: Timeline | None) -> None:
        shape = tuple(frame.sizes[size:last_size])
        results = function.run(view_at(frame.addresses[slot], shape, dtype))
        targets = zip(frame.addresses[slot + 1 : last_slot], function.shapes(shape), strict=True)
        for (address, target), result in zip(targets, results, strict=True):
            np.copyto(view_at(address, target, dtype), result, casting="same_kind")

    return run


def _collective(step: CollectiveStep, size: int, slot: int, resources: Resources) -> Action:
    group = resources.group
    assert group is not None
    group.check(step.op, step.axis, step.reduce)
    if step.phase == "wait":
        return lambda _, __: group.wait(step.handle)
    dtype, ranks = BY_NAME[step.dtype].numpy, resources.mesh[step.axis]

    def post(frame: Frame, _: Timeline | None) -> None:
        count = frame.sizes[size]
        source = view_at(frame.addresses[slot], (count,), dtype)
        filled = (target_count(step.op, count, ranks),)
        target = view_at(frame.addresses[slot + 1], filled, dtype)
        group.post(step.handle, Collective(step.op, step.axis, step.reduce, source, target))

    return post
