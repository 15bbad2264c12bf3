"""What the command line says: data on stdout, talk on stderr, one JSON value under `--json`."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from tilewright.cli.interrupt import check_interrupt

if TYPE_CHECKING:
    from rich.console import Console


_PAUSE: Final = 5.0
"""Seconds between two plain lines of steps that come often."""


class Talk:
    """The two streams of one command."""

    def __init__(self, json: bool) -> None:
        self.json = json

    def say(self, text: str) -> None:
        """A line for the user to read."""
        print(text, file=sys.stderr, flush=True)

    def result(self, value: Mapping[str, Any] | Sequence[Any]) -> None:
        """The command's result, as JSON; nothing unless `--json` was given."""
        if self.json:
            print_json(value)

    def line(self, text: str) -> None:
        """A line of data; nothing under `--json`, where `result` says all of it."""
        if not self.json:
            print(text)

    def table(self, title: str, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table as data; nothing under `--json`, or without rows. Numbers stand to the right."""
        if self.json or not rows:
            return
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        for index, head in enumerate(heads):
            numbers = all(isinstance(row[index], int | float) for row in rows)
            table.add_column(head, justify="right" if numbers else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(_cell(cell)) for cell in row))
        _console(sys.stdout).print(table)

    @contextmanager
    def working(self, text: str) -> Generator[Steps]:
        """Shows that something long is going on: a live line on a terminal, else plain lines.

        What it gives is called with each step of the work.
        """
        if not sys.stderr.isatty():
            self.say(f"{text} ...")
            yield Steps(lambda step: self.say(f"  {step}"), _PAUSE)
            return
        with _console(sys.stderr).status(text) as status:
            yield Steps(lambda step: status.update(f"{text}: {step}"))


class Steps:
    """Shows steps of a work. Each one may be interrupted by Ctrl-C."""

    def __init__(self, show: Callable[[str], None], pause: float = 0.0) -> None:
        self._show, self._pause = show, pause
        self._last = -math.inf

    def __call__(self, text: str) -> None:
        """A step that is shown."""
        check_interrupt()
        self._show(text)
        self._last = -math.inf

    def often(self, text: str) -> None:
        """One of many alike: shown if it is the first of them, or some time has passed."""
        check_interrupt()
        now = monotonic()
        if now - self._last >= self._pause:
            self._show(text)
            self._last = now


def print_json(value: Any) -> None:
    """One line of JSON on stdout."""
    import msgspec

    try:
        text = msgspec.json.encode(value).decode()
    except UnicodeEncodeError:  # a file's name that is no UTF-8
        text = json.dumps(msgspec.to_builtins(value))
    print(text, flush=True)


def amount(value: float, unit: str) -> str:
    """A number in a readable magnitude: `3.2 MB`, `1.5 GFLOP`."""
    for prefix in ("", "k", "M", "G", "T"):
        if abs(value) < 999.5 or prefix == "T":
            digits = f"{value:.0f}" if value == int(value) and not prefix else f"{value:.3g}"
            return f"{digits} {prefix}{unit}"
        value /= 1000
    raise AssertionError


def _console(stream: Any) -> Console:
    from rich.console import Console

    # A pipe has no width: nothing is cut off there.
    return Console(file=stream, width=None if stream.isatty() else 200, highlight=False)


def _cell(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:.4g}"
    return f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else str(cell)
