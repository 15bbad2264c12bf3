"""Forks a measuring process for each task, from one that has imported what all of them need.

A candidate may crash, hang or eat up the memory, so each is measured in a process of its own. To
start Python and TVM takes seconds, to fork them milliseconds. This process runs nothing of a
candidate itself.

Standard input brings requests, a line each, and standard output takes the answers. The end of the
input ends whatever runs.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Final, NoReturn

import msgspec

from tilewright.autotune.job import Answer, Failure, Request, Task, read_answer
from tilewright.autotune.launch import die_with_parent, ending, last_line

_SHARE: Final = 0.75
"""The part of the free memory that a candidate may take."""
_GLANCE: Final = 0.002
"""Seconds between two looks whether a process that has answered is gone."""


def serve(answer: Callable[[Task], Answer]) -> None:
    """Answers requests until there are no more; `answer` is called in a process of its own."""
    die_with_parent()
    out = os.dup(1)
    os.dup2(2, 1)  # what anybody prints is no answer
    for line in iter(sys.stdin.buffer.readline, b""):
        request = msgspec.json.decode(line, type=Request)
        found = _answered(request, answer)
        if found is None:
            return
        _write(out, msgspec.json.encode(found) + b"\n")


def _answered(request: Request, answer: Callable[[Task], Answer]) -> Answer | None:
    """None where the input ended meanwhile."""
    with TemporaryFile(dir=request.task.folder or None) as said:
        read, write = os.pipe()
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            os.close(read)
            _be_child(request.task, answer, write, said)
        os.close(write)
        try:
            end = time.monotonic() + request.seconds
            heard = _heard(read, end)
            in_time = heard is not None and _is_gone(child, end)
        except _InputEnded:
            return None
        finally:
            os.close(read)
            code = _end(child)
        if heard is None or not in_time:
            return Failure(f"it took longer than {request.seconds:.3g} s")
        if code != 0:
            said.seek(0)
            return Failure(f"it {ending(code)}: {last_line(said.read())}"[:500])
    try:
        return read_answer(heard)
    except msgspec.DecodeError as error:
        return Failure(f"its answer cannot be read: {error}")


class _InputEnded(Exception):
    """Nobody waits for an answer any more."""


def _heard(pipe: int, end: float) -> bytes | None:
    """All that comes until the other side closes; None where it does not in time."""
    heard = b""
    while (left := end - time.monotonic()) > 0:
        ready, _, _ = select.select([pipe, sys.stdin], [], [], left)
        if sys.stdin in ready:
            raise _InputEnded
        if pipe in ready:
            piece = os.read(pipe, 1 << 16)
            if not piece:
                return heard
            heard += piece
    return None


def _is_gone(child: int, end: float) -> bool:
    """Whether a child that has closed its pipe ends in time; it is not yet waited for."""
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while os.waitid(os.P_PID, child, options) is None:
        if time.monotonic() > end:
            return False
        time.sleep(_GLANCE)
    return True


def _end(child: int) -> int:
    """Kills the child, unless it is gone, and whatever it started; its exit code, as Popen's."""
    for kill in (os.killpg, os.kill):  # it may not have come to lead a group
        with suppress(ProcessLookupError, PermissionError):
            kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _be_child(task: Task, answer: Callable[[Task], Answer], pipe: int, said: IO[bytes]) -> NoReturn:
    """The new process: answers and ends, without what Python does at an end."""
    code = 1
    try:
        os.setsid()
        die_with_parent()
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        for stream in (1, 2):
            os.dup2(said.fileno(), stream)
        # What a killed process leaves behind goes with the study.
        os.environ["TMPDIR"], tempfile.tempdir = task.folder, None
        _limit_memory()
        _write(pipe, msgspec.json.encode(answer(task)))
        code = 0
    except BaseException as mistake:
        print(f"{type(mistake).__name__}: {mistake}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def _limit_memory() -> None:
    """Ends a candidate that takes too much before the system ends somebody else."""
    try:
        import resource

        fields = Path("/proc/meminfo").read_text().split()
        free = 1024 * int(fields[fields.index("MemAvailable:") + 1])
        fields = Path("/proc/self/status").read_text().split()
        own = 1024 * int(fields[fields.index("VmData:") + 1])
    except (ImportError, OSError, ValueError):
        return  # not Linux
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = own + int(_SHARE * free)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _write(where: int, data: bytes) -> None:
    while data:
        data = data[os.write(where, data) :]


def main() -> None:
    """Standard input to standard output."""
    from tilewright.autotune import child
    from tilewright.codegen.tvm import torch_hidden

    with torch_hidden():
        import_module("tilewright.codegen.tvm.build")
    serve(child.answer)


if __name__ == "__main__":
    main()
