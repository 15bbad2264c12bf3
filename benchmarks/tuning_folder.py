"""Folders that keep what a tuner has found, so that a second run measures nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path


def once(folder: Path, trials: int, tune: Callable[[], None]) -> None:
    """Tune into an empty folder, unless a run with as many trials has ended in this one.

    A run that was interrupted begins anew: its budget would not be the one that is stated.
    """
    done = folder / f"tuned-with-{trials}-trials"
    if done.is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tune()
    done.touch()
