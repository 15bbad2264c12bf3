"""Where the candidates of one study are measured, until its time is over.

What they share (the baseline compiled, the reference evaluated) is made when the first one comes,
in a private folder that goes with the study.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from tilewright.autotune.job import Answer, Failure, Job, Measured, Preparation, Prepared, Task
from tilewright.autotune.subjects import Subject
from tilewright.codegen.space import Point
from tilewright.dsl.errors import BaselineFailed

Measure = Callable[[Task, float], Answer]
"""Answers a task within so many seconds, or says that it took longer."""

_HOPELESS = 1.25
"""A candidate that is slower by so much in each of the first rounds is not timed further."""
_PATIENCE, _TIMES = 60.0, 5.0
"""A candidate is ended after that many seconds, and that many times what the baseline took."""


class Bench:
    """A context; times are compared with those of the subject's untuned point."""

    def __init__(self, subject: Subject, measure: Measure, seconds: float) -> None:
        self._subject = subject
        self._measure = measure
        self._end = time.perf_counter() + seconds
        self._folder = TemporaryDirectory(prefix="tilewright-study-")
        self._prepared: Prepared | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    @property
    def left(self) -> float:
        """Seconds until the time is over."""
        return self._end - time.perf_counter()

    @property
    def default_bytes(self) -> int | None:
        """What the untuned point takes in memory; None before the first comparison."""
        return None if self._prepared is None else self._prepared.bytes

    def compare(
        self, point: Point, rounds: int, incumbent: Point | None = None
    ) -> Measured | Failure | None:
        """A point against the baseline; None where the time was over before it was measured.

        With an incumbent, that one is timed beside them, and none of them gives up early.

        Raises BaselineFailed.
        """
        prepared = self._prepare()
        if prepared is None:
            return None
        usual = 2 * prepared.compiling + 3 * (rounds + 1) * prepared.sample
        patience = _PATIENCE + _TIMES * usual
        candidate = self._subject.candidate(point)
        job = Job(
            self._subject.case,
            self._folder.name,
            candidate,
            rounds,
            prepared.repeat,
            None if incumbent is None else self._subject.candidate(incumbent),
            None if incumbent is not None else _HOPELESS,
        )
        found = self._ask(job, patience)
        if found is None or isinstance(found, Measured | Failure):
            return found
        return Failure("its answer belongs to another task")

    def _prepare(self) -> Prepared | None:
        if self._prepared is None:
            task = Preparation(self._subject.case, str(Path(self._folder.name)))
            found = self._ask(task, self.left)
            if found is None:
                return None
            if not isinstance(found, Prepared):
                reason = found.reason if isinstance(found, Failure) else "it gave no answer"
                raise BaselineFailed(
                    f"the untuned {self._subject.name} cannot be measured: {reason}",
                    fix="compile it with --check=full to see whether it is right here",
                )
            self._prepared = found
        return self._prepared

    def _ask(self, task: Task, seconds: float) -> Answer | None:
        """None where nothing came before the end: that says nothing about who was asked."""
        if self.left <= 0:
            return None
        found = self._measure(task, min(seconds, self.left))
        return None if isinstance(found, Failure) and self.left <= 0 else found
