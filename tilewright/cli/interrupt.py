"""Ctrl-C that is not lost.

An exception that a signal raises while Python runs a finalizer or a weak reference's callback (the
import system has one for each module) is reported and forgotten. So it is remembered here, and
raised again at the next step of the work.
"""

from __future__ import annotations

import signal
from types import FrameType

_asked: list[int] = []


def remember_interrupts() -> None:
    """From here on `check_interrupt` knows; a caller who ignores Ctrl-C is left to do so."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _remember)


def check_interrupt() -> None:
    """Raises KeyboardInterrupt if Ctrl-C came, and whatever it interrupted went on."""
    if _asked:
        _asked.clear()
        raise KeyboardInterrupt


def _remember(number: int, frame: FrameType | None) -> None:
    _asked.append(number)
    signal.default_int_handler(number, frame)
