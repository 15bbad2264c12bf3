"""The settings of Tilewright: one table, and for each value where it came from.

A flag goes before the environment, that before the file (`tilewright.toml`, or `[tool.tilewright]`
in `pyproject.toml`), that before the default.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from tilewright.dsl.errors import InvalidSetting

Origin = Literal["default", "file", "env", "flag"]
Value = str | int | Path | None

_TESTS: Final = "TILEWRIGHT_TEST_"  # the test-suite's own, not a user's to set
_SIZE: Final = re.compile(r"([0-9]{1,15})([KMGT]?)", re.ASCII)
_CHANNELS: Final = re.compile(r"[+-]?[a-z_]{1,32}(,[+-]?[a-z_]{1,32})*", re.ASCII)
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
_TARGET: Final = re.compile(r"[a-z]+(:[a-z0-9_.-]+)?(\+[a-z0-9.-]+)*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Setting:
    """A row of the table: the field's name, its default, how text becomes a value, what it does."""

    name: str
    default: Value
    parse: Callable[[str], Value]
    legal: str
    meaning: str

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"TILEWRIGHT_{self.name.upper()}"


def _folder(text: str) -> Path:
    path = Path(text).expanduser()
    if not text or "\0" in text or not path.is_absolute():
        raise ValueError
    return path


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,3}", text, re.ASCII):
        raise ValueError
    return int(text)


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text.upper())
    if match is None:
        raise ValueError
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[match[2]]


def _matching(pattern: re.Pattern[str]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if pattern.fullmatch(text) is None:
            raise ValueError
        return text

    return parse


TABLE: Final = (
    Setting("cache_dir", None, _folder, "an absolute path", "where the cache is kept"),
    Setting("cache_limit", 4 << 30, _size, "a size such as 4G", "how large the cache may grow"),
    Setting("threads", None, _count, "a count of at least 1", "how many threads run kernels"),
    Setting("jobs", None, _count, "a count of at least 1", "how many processes compile and tune"),
    Setting(
        "target", "cpu", _matching(_TARGET), "a target such as cpu:znver4", "what to compile for"
    ),
    Setting("backend", None, _matching(_NAME), "a backend such as tvm", "which backend lowers"),
    Setting("check", "local", _matching(re.compile("local|full")), "local or full", "validation"),
    Setting(
        "weights",
        "huge",
        _matching(re.compile("huge|mapped")),
        "huge or mapped",
        "whether weights are read into huge pages where possible, or mapped from their file",
    ),
    Setting("log", "", _matching(_CHANNELS), "channels such as +fuse,-tune", "what is logged"),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """One value a row of `TABLE`; `origins` says where each came from.

    None stands for "decided by the machine": the user's cache folder, all usable threads, as many
    jobs as threads, the target's own backend. `unknown` lists `TILEWRIGHT_*` variables that no row
    knows, most likely misspelt.
    """

    cache_dir: Path | None
    cache_limit: int
    threads: int | None
    jobs: int | None
    target: str
    backend: str | None
    check: str
    weights: str
    log: str
    origins: Mapping[str, Origin]
    unknown: tuple[str, ...] = ()

    def rows(self) -> tuple[tuple[str, str, Origin], ...]:
        """(variable, value as text, origin) for each setting, for listings."""
        rows: list[tuple[str, str, Origin]] = []
        for row in TABLE:
            value: Value = getattr(self, row.name)
            rows.append((row.variable, "" if value is None else str(value), self.origins[row.name]))
        return tuple(rows)


def load_settings(
    flags: Mapping[str, str | None] | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Settings:
    """The settings in force; `flags` maps field names to text, None meaning "not given".

    A settings file is looked for in `folder` alone; without one no file is opened. Raises
    `InvalidSetting`.
    """
    environment = os.environ if environment is None else environment
    in_file, path = ({}, None) if folder is None else _file_values(folder)
    given = {name: text for name, text in (flags or {}).items() if text is not None}
    _reject_unknown(given, "a flag")
    values: dict[str, Value] = {}
    origins: dict[str, Origin] = {}
    for row in TABLE:
        text: str | None = None
        origin: Origin = "default"
        where = ""
        if row.name in given:
            text, origin, where = given[row.name], "flag", f"--{row.name.replace('_', '-')}"
        elif environment.get(row.variable):
            text, origin, where = environment[row.variable], "env", row.variable
        elif row.name in in_file:
            text, origin, where = in_file[row.name], "file", f"{path}: {row.name}"
        origins[row.name] = origin
        values[row.name] = row.default if text is None else _parsed(row, text, where)
    known = {row.variable for row in TABLE}
    ours = (n for n in environment if n.startswith("TILEWRIGHT_") and not n.startswith(_TESTS))
    unknown = sorted(set(ours) - known)
    made: dict[str, Any] = {**values, "origins": origins, "unknown": tuple(unknown)}
    return Settings(**made)


def cache_folder(settings: Settings | None = None) -> Path:
    """The cache's folder: the setting `cache_dir`, or the user's cache folder of the platform."""
    from platformdirs import user_cache_path

    chosen = (load_settings() if settings is None else settings).cache_dir
    return user_cache_path("tilewright", appauthor=False) if chosen is None else chosen


def _parsed(row: Setting, text: str, where: str) -> Value:
    try:
        return row.parse(text)
    except (ValueError, RuntimeError) as error:  # RuntimeError: no home folder for "~"
        raise InvalidSetting(
            f"{text[:80]!r} is no value of {row.name}", where=where, fix=f"give {row.legal}"
        ) from error


def _file_values(folder: Path) -> tuple[dict[str, str], Path | None]:
    for name in ("tilewright.toml", "pyproject.toml"):
        path = folder / name
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InvalidSetting(f"the file cannot be read: {error}", where=str(path)) from error
        if name == "pyproject.toml":
            if "tilewright" not in (tools := _table(document.get("tool", {}), path)):
                continue
            document = _table(tools["tilewright"], path)
        return _scalars(document, path), path
    return {}, None


def _table(value: object, path: Path) -> dict[str, object]:
    try:
        return msgspec.convert(value, type=dict[str, object])
    except msgspec.ValidationError as error:
        raise InvalidSetting("[tool.tilewright] is not a table", where=str(path)) from error


def _scalars(table: dict[str, object], path: Path) -> dict[str, str]:
    _reject_unknown(table, str(path))
    try:
        values = msgspec.convert(table, type=dict[str, str | int])
    except msgspec.ValidationError as error:
        raise InvalidSetting(
            f"a setting is a text or a whole number: {error}", where=str(path), fix="quote it"
        ) from error
    return {name: str(value) for name, value in values.items()}


def _reject_unknown(values: Iterable[str], where: str) -> None:
    known = tuple(row.name for row in TABLE)
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise InvalidSetting(f"there is no setting {name[:80]!r}", where=where, fix=hint)
