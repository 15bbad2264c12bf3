"""Runs measuring processes, one at a time, and ends those that take too long."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from tilewright.autotune.job import Job, Measured

_CHILD = (sys.executable, "-m", "tilewright.autotune.child")


@dataclass(frozen=True, slots=True)
class Failure:
    """A measuring process that gave no answer, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Worker:
    """Measures in a child process; `seconds` is how long one job may take."""

    seconds: float = 120.0
    command: Sequence[str] = _CHILD

    def __call__(self, job: Job) -> Measured | Failure:
        """The child's answer, or how it ended without one."""
        environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "TVM_BIND_THREADS": "0"}
        child = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        try:
            out, err = child.communicate(msgspec.json.encode(job), self.seconds)
        except subprocess.TimeoutExpired:
            return Failure(f"it took longer than {self.seconds:g} s")
        finally:
            _end(child)
        if child.returncode != 0:
            last = err.decode(errors="replace").strip().splitlines()
            return Failure(f"it ended with {child.returncode}: {last[-1] if last else ''}"[:500])
        try:
            return msgspec.json.decode(out.splitlines()[-1], type=Measured)
        except (IndexError, msgspec.DecodeError) as error:
            return Failure(f"its answer cannot be read: {error}")


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kills the child and whatever it started (a linker), and waits for it."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
