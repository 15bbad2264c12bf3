"""Finds pickles: files that are one, and files that hold one."""

import pickletools
import re
import sqlite3
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path

_START = re.compile(rb"\x80[\x02-\x05]")
_LEAST_OPCODES = 6
"""Machine code and weights hold shorter sequences by chance."""
_NAMING = {"GLOBAL", "STACK_GLOBAL", "INST"}
"""Opcodes that name what is to be imported: by chance in no sequence, however short."""


def pickles_in(folder: Path) -> list[str]:
    """The files below a folder that are pickles or hold some, with the place inside the file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [f"{path.relative_to(folder)}{place}" for path in files for place in _places(path)]


def holds_pickle(data: bytes) -> bool:
    """Whether the bytes begin with a pickle of any protocol, or hold one of protocol 2 or later."""
    if _opcodes(data):
        return True
    found = (_opcodes(data[match.start() :]) for match in _START.finditer(data))
    return any(len(names) >= _LEAST_OPCODES or _NAMING & {*names} for names in found)


def _opcodes(data: bytes) -> list[str]:
    """The opcodes of the pickle at the start, none if there is none: they end with a STOP."""
    names: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes in what only looks like a text
        try:
            for opcode, _, _ in pickletools.genops(data):
                names.append(opcode.name)
        except Exception:  # genops raises whatever its readers of arguments raise
            return []
    return names


def _places(path: Path) -> Iterator[str]:
    data = path.read_bytes()
    if holds_pickle(data):
        yield ""
    if data.startswith(b"SQLite format 3\0"):
        yield from (f": {place}" for place in _cells(path))
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(BytesIO(data)) as archive:
            for name in archive.namelist():
                content = archive.read(name)
                # An array of objects is an .npy file whose data are a pickle.
                if holds_pickle(content) or b"'descr': '|O'" in content[:256]:
                    yield f": {name}"


def _cells(path: Path) -> Iterator[str]:
    """The cells of a database that hold a pickle. Large ones are scattered over its pages."""
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as base:
        tables = base.execute("SELECT name FROM sqlite_master WHERE type='table'").fetchall()
        for (table,) in tables:
            for row in base.execute(f'SELECT * FROM "{table}"'):
                for cell in row:
                    data = cell.encode() if isinstance(cell, str) else cell
                    if isinstance(data, bytes) and holds_pickle(data):
                        yield table
