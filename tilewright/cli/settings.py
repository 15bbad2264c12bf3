"""The settings in force for a command: flags, environment, the working folder's file, defaults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tilewright.settings import Settings, load_settings


def settings_here(flags: Mapping[str, str | None] | None = None) -> Settings:
    """Raises InvalidSetting. Without a settings file in the working folder none is opened."""
    here = Path.cwd()
    has_file = any((here / name).is_file() for name in ("tilewright.toml", "pyproject.toml"))
    return load_settings(flags, folder=here if has_file else None)


def threads_here(flag: int | None) -> int | None:
    """The count of threads that is in force; None: as many as are usable. Raises InvalidSetting."""
    return settings_here().threads if flag is None else flag
