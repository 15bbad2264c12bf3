"""The processes of a mesh, and the collectives that a plan's steps post and wait for."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from tilewright.dsl.errors import MissingPackage, ProcessGroupError
from tilewright.runtime.buffers import Array

if TYPE_CHECKING:
    import torch

Axes = Sequence[tuple[str, int]]
"""A mesh: names and sizes of its axes, the last one running fastest over the ranks."""


@dataclass(frozen=True, slots=True)
class Collective:
    """One collective over a mesh axis, each rank giving `source` and getting `target`.

    Both are flat. `op` is `all_reduce` (equal sizes), `all_gather` (the target holds the ranks'
    sources in order), `reduce_scatter` (the target is this rank's part of the reduced source) or
    `all_to_all` (part i of the source goes to rank i). `reduce` is `sum`, `max`, `min`, `prod` or
    empty.
    """

    op: str
    axis: str
    reduce: str
    source: Array
    target: Array


class ProcessGroup(Protocol):
    """What the executor asks of the processes that run one artifact together."""

    def check(self, op: str, axis: str, reduce: str) -> None:
        """Raises ProcessGroupError for a collective that this group cannot do."""
        ...

    def post(self, handle: int, collective: Collective) -> None:
        """Begin a collective; its arrays stay untouched until `wait`."""
        ...

    def wait(self, handle: int) -> None:
        """Return when the collective posted under `handle` is done."""
        ...


TARGET_SIZE: Final[Mapping[str, tuple[int, int]]] = {
    "all_reduce": (0, 0),
    "all_gather": (1, 0),
    "reduce_scatter": (0, 1),
    "all_to_all": (0, 0),
}
"""Powers of the axis size by which a target is longer, and shorter, than its source."""


def target_count(op: str, count: int, ranks: int) -> int:
    """How many elements a collective writes on each rank where it reads `count`."""
    longer, shorter = TARGET_SIZE[op]
    return count * ranks**longer // ranks**shorter


class TorchProcessGroup:
    """Collectives of torch.distributed, by default over gloo; started by `torchrun`.

    Joins the default group if the process has none yet. Raises MissingPackage without torch and
    ProcessGroupError if there are not as many processes as the mesh has ranks, or if this process
    is not the `rank` that the artifact was compiled for.
    """

    def __init__(self, axes: Axes, backend: str = "gloo", rank: int | None = None) -> None:
        try:
            import torch.distributed as distributed
        except ImportError as error:
            raise MissingPackage(
                "running on a mesh needs torch", fix="pip install 'tilewright[torch]'"
            ) from error
        ranks = math.prod(size for _, size in axes)
        if not distributed.is_initialized():
            if "RANK" not in os.environ:
                raise ProcessGroupError(
                    f"the artifact runs on {ranks} processes, this is one",
                    fix=f"start it with torchrun --nproc-per-node {ranks}",
                )
            distributed.init_process_group(backend)
        if distributed.get_world_size() != ranks:
            raise ProcessGroupError(
                f"the artifact runs on {ranks} processes, these are {distributed.get_world_size()}",
                fix=f"start it with torchrun --nproc-per-node {ranks}",
            )
        if rank not in (None, distributed.get_rank()):
            raise ProcessGroupError(
                f"the artifact is rank {rank}'s, this process is rank {distributed.get_rank()}",
                fix="give every process the artifact of its own rank: DIR/rank0, DIR/rank1 ...",
            )
        self._distributed: Any = distributed
        self._reductions = {
            "sum": distributed.ReduceOp.SUM,
            "max": distributed.ReduceOp.MAX,
            "min": distributed.ReduceOp.MIN,
            "prod": distributed.ReduceOp.PRODUCT,
        }
        self._groups = self._lines(axes)
        self._pending: dict[int, Any] = {}

    def check(self, op: str, axis: str, reduce: str) -> None:
        reduces = op in ("all_reduce", "reduce_scatter")
        if op not in TARGET_SIZE or axis not in self._groups:
            raise ProcessGroupError(f"there is no collective {op!r} over axis {axis!r} here")
        if reduces != bool(reduce) or (reduces and reduce not in self._reductions):
            raise ProcessGroupError(f"{op} cannot reduce by {reduce!r}")

    def post(self, handle: int, collective: Collective) -> None:
        if handle in self._pending:
            raise ProcessGroupError(f"collective {handle} is posted twice without a wait")
        source, target = _tensor(collective.source), _tensor(collective.target)
        try:
            work = self._begin(collective, source, target)
        except RuntimeError as error:
            raise _failed(collective.op, error) from error
        # The tensors go along: the transfer reads and writes them until it is waited for.
        self._pending[handle] = (collective.op, work, source, target)

    def wait(self, handle: int) -> None:
        if handle not in self._pending:
            raise ProcessGroupError(f"collective {handle} is waited for, but was not posted")
        op, work, _, _ = self._pending.pop(handle)
        try:
            work.wait()
        except RuntimeError as error:
            raise _failed(op, error) from error

    def _begin(self, what: Collective, source: torch.Tensor, target: torch.Tensor) -> Any:
        group, reduction = self._groups[what.axis], self._reductions.get(what.reduce)
        begin = self._distributed
        match what.op:
            case "all_reduce":
                if source.data_ptr() != target.data_ptr():
                    target.copy_(source)
                return begin.all_reduce(target, reduction, group, async_op=True)
            case "all_gather":
                return begin.all_gather_single(target, source, group, async_op=True)
            case "reduce_scatter":
                return begin.reduce_scatter_single(target, source, reduction, group, async_op=True)
            case _:
                return begin.all_to_all_single(target, source, group=group, async_op=True)

    def _lines(self, axes: Axes) -> dict[str, Any]:
        """For each axis the group of ranks that differ from this one in that coordinate alone."""
        rank = self._distributed.get_rank()
        sizes = [size for _, size in axes]
        numbers = np.arange(math.prod(sizes)).reshape(sizes)
        found: dict[str, Any] = {}
        for at, (name, _) in enumerate(axes):
            others = [range(size) for i, size in enumerate(sizes) if i != at]
            for place in itertools.product(*others):
                index = (*place[:at], slice(None), *place[at:])
                members: list[int] = numbers[index].tolist()
                group = self._distributed.new_group(members)  # every process makes every group
                if rank in members:
                    found[name] = group
        return found


def _tensor(array: Array) -> torch.Tensor:
    """A tensor over the same memory, of the format that torch has for the array's."""
    import torch

    return torch.from_numpy(array.view(np.uint8)).view(getattr(torch, array.dtype.name))


def _failed(op: str, error: RuntimeError) -> ProcessGroupError:
    return ProcessGroupError(
        f"{op} failed: {error}", fix="look at the other processes: one of them has stopped"
    )
