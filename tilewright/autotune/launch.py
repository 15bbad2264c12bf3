"""Has tasks answered in processes of their own, one at a time; ends those that take too long."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from tempfile import TemporaryFile
from typing import Final, Self

import msgspec

from tilewright.autotune.job import Answer, Failure, Request, Task, read_answer

_NURSERY: Final = (sys.executable, "-m", "tilewright.autotune.nursery")
_PR_SET_PDEATHSIG: Final = 1
_GRACE: Final = 20.0
"""Seconds beyond those of a task that the nursery has to start and to answer."""


class Launcher:
    """A context, and a function that answers a task: the nursery that forks for it is kept."""

    def __init__(self, command: Sequence[str] = _NURSERY, grace: float = _GRACE) -> None:
        self._command, self._grace = command, grace
        self._nursery: _Nursery | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the nursery and what it runs; the next task starts another."""
        if self._nursery is not None:
            self._nursery.end()
            self._nursery = None

    def __call__(self, task: Task, seconds: float) -> Answer:
        """The answer, or how its process ended without one; it is killed after so many seconds."""
        if self._nursery is None or self._nursery.is_gone:
            self.close()
            self._nursery = _Nursery(self._command)
        try:
            line = self._nursery.ask(Request(task, seconds), seconds + self._grace)
        except BaseException:
            self.close()
            raise
        if isinstance(line, Failure):
            self.close()
            return line
        try:
            return read_answer(line)
        except msgspec.DecodeError as error:
            self.close()
            return Failure(f"its answer cannot be read: {error}")


class _Nursery:
    """The process that forks, see `nursery`."""

    def __init__(self, command: Sequence[str]) -> None:
        with TemporaryFile() as said:
            self._said = os.dup(said.fileno())
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env={**os.environ, "OMP_WAIT_POLICY": "passive", "TVM_BIND_THREADS": "0"},
            start_new_session=True,
            bufsize=0,
        )

    @property
    def is_gone(self) -> bool:
        return self._process.poll() is not None

    def ask(self, request: Request, seconds: float) -> bytes | Failure:
        """The line that it answers, or why it does not."""
        given, out = self._process.stdin, self._process.stdout
        assert given is not None
        assert out is not None
        try:
            given.write(msgspec.json.encode(request) + b"\n")
        except BrokenPipeError:
            return self._failure()
        line, end = b"", time.monotonic() + seconds
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([out], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                return Failure(f"it took longer than {request.seconds:.3g} s")
            piece = os.read(out.fileno(), 1 << 16)
            if not piece:
                return self._failure()
            line += piece
        return line

    def _failure(self) -> Failure:
        code = self._process.wait()
        said = os.pread(self._said, 1 << 16, 0)
        return Failure(f"it {ending(code)}: {last_line(said)}"[:500])

    def end(self) -> None:
        """Kills it, and waits; what it runs dies with it."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._said)


def die_with_parent() -> None:
    """Lets Linux kill this process when the one that started it is gone, however that ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def ending(code: int) -> str:
    """How a process ended, by its exit code; a negative one is a signal's number."""
    return f"was ended by signal {-code}" if code < 0 else f"ended with {code}"


def last_line(err: bytes) -> str:
    """The last of what a process said."""
    lines = err.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
