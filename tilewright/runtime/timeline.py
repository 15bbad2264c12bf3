"""When each step of a call, and each kernel on each thread, began and ended.

A thread's time in a span is split without rest: until its first kernel begins (hand-out), each
kernel, and after each kernel the time until the next begins. That is mostly the barrier: the wait
belongs to the kernel whose threads were not done at once.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tilewright.runtime.buffers import address_of
from tilewright.runtime.schema import SpanStep, Step


@dataclass(frozen=True, slots=True)
class KernelTimes:
    """A kernel of a span: nanoseconds in it and of waiting after it, of each thread."""

    kernel: str
    busy: NDArray[np.int64]
    wait: NDArray[np.int64]


@dataclass
class StepTimes:
    """A step as the calling thread saw it, with the stamps [threads, kernels, 2] of a span."""

    step: Step
    begin: int
    end: int = 0
    stamps: NDArray[np.int64] | None = None

    @property
    def hand_out(self) -> NDArray[np.int64]:
        """Nanoseconds until the first kernel of a span began, of each thread."""
        assert self.stamps is not None
        return self.stamps[:, 0, 0] - self.begin

    def kernels(self) -> list[KernelTimes]:
        """The kernels of a span in order; with `hand_out` they make up `end - begin`."""
        assert isinstance(self.step, SpanStep)
        assert self.stamps is not None
        began, ended = self.stamps[..., 0], self.stamps[..., 1]
        last = np.full((len(began), 1), self.end)
        waits = np.concatenate([began[:, 1:], last], axis=1) - ended
        return [
            KernelTimes(name, (ended - began)[:, i], waits[:, i])
            for i, name in enumerate(self.step.kernels)
        ]


@dataclass
class Timeline:
    """One call. Give an empty one to `Model.run`; nanoseconds of `time.perf_counter_ns`."""

    begin: int = 0
    end: int = 0
    steps: list[StepTimes] = field(default_factory=list[StepTimes])

    @contextmanager
    def call(self) -> Generator[None]:
        """Takes the time of the whole call."""
        self.steps.clear()
        self.begin = time.perf_counter_ns()
        yield
        self.end = time.perf_counter_ns()

    @contextmanager
    def step(self, step: Step) -> Generator[None]:
        """Takes the time of a step."""
        self.steps.append(StepTimes(step, time.perf_counter_ns()))
        yield
        self.steps[-1].end = time.perf_counter_ns()

    def trace(self, threads: int) -> int:
        """The address of a trace for the span that is running (`runtime.native` has its form)."""
        current = self.steps[-1]
        assert isinstance(current.step, SpanStep)
        length = 2 * len(current.step.kernels)
        table = np.zeros(1 + threads * length, np.int64)
        table[0] = length
        current.stamps = table[1:].reshape(threads, -1, 2)
        return address_of(table)
