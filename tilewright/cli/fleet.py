"""Workers of a tuning run: the same command again, in other processes or on other machines.

They share nothing but the store: each claims a candidate, measures it and settles it there.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Final

from tilewright.autotune.launch import die_with_parent
from tilewright.dsl.errors import MissingPackage, WorkersFailed

WORKER: Final = "_TILEWRIGHT_WORKER"
"""Set for a worker: it starts no others and reports nothing."""

_MOST: Final = 256
_PATIENCE: Final = 5.0
"""Seconds that a cluster has to answer."""
_GRACE: Final = 10.0
"""Seconds that a worker has to give its claim back when it is told to end."""


def is_worker() -> bool:
    """Whether this process was started by another run of the command."""
    return WORKER in os.environ


def command(arguments: Sequence[str]) -> list[str]:
    """A run of the command line in another process."""
    return [sys.executable, "-m", "tilewright.cli.main", *arguments]


@contextmanager
def others(count: int, ray: str | None, seconds: float) -> Generator[None]:
    """What else measures for this run: `count` workers with this one, or those of a Ray cluster.

    A worker starts no others. Raises WorkersFailed, and what `run_on_ray` raises.
    """
    if is_worker():
        die_with_parent()
        yield
        return
    _check_count(count)
    if ray is not None:
        run_on_ray(ray, count, seconds)
        yield
        return
    with local_workers(count - 1):
        yield


def _check_count(count: int) -> None:
    if not 1 <= count <= _MOST:
        raise WorkersFailed(f"{count} workers are none", fix=f"give 1 to {_MOST}")


@contextmanager
def local_workers(count: int) -> Generator[None]:
    """`count` more processes run this command while the context lasts."""
    workers = [
        subprocess.Popen(
            command(sys.argv[1:]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, WORKER: "local"},
            start_new_session=True,
        )
        for _ in range(count)
    ]
    try:
        yield
    finally:
        _end(workers)


def _end(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    """As Ctrl-C would: a worker gives its claim back. One that does not end is killed."""
    for worker in workers:
        if worker.poll() is None:
            worker.send_signal(signal.SIGINT)
    for worker in workers:
        try:
            worker.wait(_GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()


def run_on_ray(address: str, count: int, seconds: float) -> None:
    """`count` tasks of a Ray cluster run this command; returns when they are done or time is over.

    The nodes need Tilewright and the model at the same place, and reach the store. This process
    measures nothing meanwhile: it need not be a machine that is tuned for.

    Raises MissingPackage without Ray, and WorkersFailed where the cluster cannot be reached.
    """
    _check_count(count)
    try:
        ray: Any = import_module("ray")
    except ModuleNotFoundError as error:
        raise MissingPackage("--ray needs Ray", fix="pip install 'tilewright[ray]'") from error
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except (OSError, ValueError, RuntimeError) as error:
        raise WorkersFailed(
            f"the Ray cluster at {address[:80]} cannot be reached: {error}",
            fix="start it with `ray start --head`, or correct the address",
        ) from error
    task = ray.remote(num_cpus=1, max_retries=0)(_run)
    running = [task.remote(sys.argv[1:], os.getcwd()) for _ in range(count)]
    try:
        _, running = ray.wait(running, num_returns=count, timeout=seconds + _GRACE)
    finally:
        # Only what has not ended: Ray hands a result out before it calls the task complete, and
        # to cancel one in between aborts this process (a check in its task_manager.cc).
        for reference in running:
            ray.cancel(reference)
        ray.shutdown()


def _knock(address: str) -> None:
    """Raises OSError where nobody listens: Ray would try for minutes."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdecimal():
        socket.create_connection((host, int(port)), _PATIENCE).close()


def _run(arguments: Sequence[str], folder: str) -> int:
    """A task: the command, in the folder where it was given."""
    child = subprocess.Popen(command(arguments), cwd=folder, env={**os.environ, WORKER: "ray"})
    try:
        return child.wait()
    finally:
        _end([child])
