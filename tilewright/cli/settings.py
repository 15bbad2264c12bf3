"""The settings in force for a command: flags, environment, the working folder's file, defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tilewright.settings import Settings, load_settings


def settings_here(flags: Mapping[str, str | None] | None = None) -> Settings:
    """Raises InvalidSetting. Without a settings file in the working folder none is opened.

    What the file says of the cache goes into the environment, which is all that the layers below
    look at.
    """
    here = Path.cwd()
    has_file = any((here / name).is_file() for name in ("tilewright.toml", "pyproject.toml"))
    found = load_settings(flags, folder=here if has_file else None)
    if found.origins["cache_dir"] == "file":
        os.environ["TILEWRIGHT_CACHE_DIR"] = str(found.cache_dir)
    if found.origins["cache_limit"] == "file":
        os.environ["TILEWRIGHT_CACHE_LIMIT"] = str(found.cache_limit)
    return found


def threads_here(flag: int | None) -> int | None:
    """The count of threads that is in force; None: as many as are usable. Raises InvalidSetting."""
    return settings_here().threads if flag is None else flag
