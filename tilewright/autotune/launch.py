"""Runs measuring processes, one at a time, and ends those that take too long."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from tilewright.autotune.job import Answer, Failure, Task

_CHILD = (sys.executable, "-m", "tilewright.autotune.child")
_ANSWER: Any = Answer
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Launcher:
    """Answers a task in a child process."""

    command: Sequence[str] = _CHILD

    def __call__(self, task: Task, seconds: float) -> Answer:
        """The child's answer, or how it ended without one; it is killed after so many seconds."""
        environment = {
            **os.environ,
            "OMP_WAIT_POLICY": "passive",
            "TVM_BIND_THREADS": "0",
            "TMPDIR": task.folder,  # what a killed child leaves behind goes with the study
        }
        child = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        try:
            out, err = child.communicate(msgspec.json.encode(task), seconds)
        except subprocess.TimeoutExpired:
            return Failure(f"it took longer than {seconds:.3g} s")
        finally:
            _end(child)
        if child.returncode != 0:
            return Failure(f"it {_ending(child.returncode)}: {_last_line(err)}"[:500])
        try:
            return msgspec.json.decode(out.splitlines()[-1], type=_ANSWER)
        except (IndexError, msgspec.DecodeError) as error:
            return Failure(f"its answer cannot be read: {error}")


def die_with_parent() -> None:
    """Lets Linux kill this process when the one that started it is gone, however that ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _ending(code: int) -> str:
    return f"was ended by signal {-code}" if code < 0 else f"ended with {code}"


def _last_line(err: bytes) -> str:
    lines = err.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kills the child and whatever it started (a linker), and waits for it."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
