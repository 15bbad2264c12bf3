"""Who measures: an identity for this process, and whether the process behind another one lives.

A process of this machine is looked up, so that one that was killed is known to be gone at once.
One elsewhere is believed to live as long as it gives signs of life.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SIGN_OF_LIFE: Final = 15.0
"""Seconds between two of a worker's."""
_SILENCE: Final = 120.0
"""After so many seconds without one a worker on another machine counts as gone."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A process: where its number means something, its number, and when it began."""

    place: str
    number: int
    began: str

    @staticmethod
    def this() -> Worker:
        """The process that asks."""
        return Worker(_place(), os.getpid(), _began(os.getpid()) or "")

    @staticmethod
    def parse(text: str) -> Worker:
        """What `str` wrote."""
        place, number, began = text.rsplit("/", 2)
        return Worker(place, int(number), began)

    def __str__(self) -> str:
        return f"{self.place}/{self.number}/{self.began}"

    def lives(self, seen: float | None) -> bool:
        """Whether the process goes on; `seen` is its last sign of life, in seconds of the epoch."""
        if self.place == _place():
            return _began(self.number) == self.began
        return seen is not None and time.time() - seen < _SILENCE


def _place() -> str:
    """This machine since its last start, and the namespace of its process numbers."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts).replace("/", "-")


def _began(number: int) -> str | None:
    """When a process began, in ticks since the machine did; None if there is none."""
    try:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        return "" if _answers(number) else None
    return None if fields[0] == "Z" else fields[19]


def _answers(number: int) -> bool:
    """Where there is no /proc: whether a signal could be sent."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class SignsOfLife:
    """Calls a function every `SIGN_OF_LIFE` seconds while the context lasts, on its own thread."""

    def __init__(self, give: Callable[[], None]) -> None:
        self._give = give
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="signs-of-life", daemon=True)

    def __enter__(self) -> None:
        self._give()
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(SIGN_OF_LIFE):
            # A store that fails here fails again where its answer is needed, and is told there.
            with suppress(Exception):
                self._give()
