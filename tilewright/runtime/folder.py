"""Folders that are replaced as a whole or not at all.

The new content is written into a hidden sibling, which then changes places with the folder in one
step. A writer holds a lock on its sibling for as long as it lives, so that a later writer can tell
leftovers of a killed one and remove them. Nothing waits for the disk: after a power cut the folder
may hold less than was written, which whoever reads it must be able to notice.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tilewright.dsl.errors import WriteFailed

Content = bytes | Path
"""A file's bytes, or another file to copy them from."""

_BLOCK: Final = 1 << 20
_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
_NEWBORN_SECONDS: Final = 10.0


@contextmanager
def replaced_folder(path: Path) -> Generator[Path]:
    """A new folder to write into, which takes the place of `path` when the block ends well.

    Raises `WriteFailed` where the system refuses. Then, as after any other exception, `path` is
    what it was and the new folder is gone.
    """
    path = Path(os.path.realpath(path))
    try:
        os.makedirs(path.parent, exist_ok=True)
        _remove_leftovers(path)
        staging = Path(tempfile.mkdtemp(prefix=_prefix(path), dir=path.parent))
    except OSError as error:
        raise _failed(path, error) from error
    try:
        with _locked(staging):
            yield staging
            os.chmod(staging, 0o755)
            _install(staging, path)
    except OSError as error:
        raise _failed(path, error) from error
    finally:
        # Unless the folder is new, this is now the old one.
        shutil.rmtree(staging, ignore_errors=True)


def write_file(path: Path, content: Content) -> None:
    """Write one new file. Raises OSError."""
    os.makedirs(path.parent, mode=0o755, exist_ok=True)
    with new_file(path) as handle:
        if isinstance(content, Path):
            source = os.open(content, os.O_RDONLY | os.O_CLOEXEC)
            try:
                while block := os.read(source, _BLOCK):
                    write_all(handle, memoryview(block))
            finally:
                os.close(source)
        else:
            write_all(handle, memoryview(content))


@contextmanager
def new_file(path: Path) -> Generator[int]:
    """A file that did not exist, open for writing. Raises OSError."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        yield handle
    finally:
        os.close(handle)


def write_all(handle: int, data: memoryview) -> None:
    """Write everything, in as many calls as the system needs. Raises OSError."""
    while data:
        data = data[os.write(handle, data) :]


def _prefix(path: Path) -> str:
    return f".{path.name}.new-"


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _remove_leftovers(path: Path) -> None:
    for folder in path.parent.glob(f"{_prefix(path)}*"):
        # Whoever has just made one may not hold its lock yet.
        with suppress(OSError):
            if time.time() - folder.lstat().st_mtime < _NEWBORN_SECONDS:
                continue
            with _locked(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _install(staging: Path, path: Path) -> None:
    if not path.exists():
        os.replace(staging, path)
    elif not _exchange(staging, path):
        # Without an exchange in one step the folder is absent for a moment.
        old = staging.with_name(f"{staging.name}-old")
        os.replace(path, old)
        try:
            os.replace(staging, path)
        except OSError:
            os.replace(old, path)
            raise
        shutil.rmtree(old, ignore_errors=True)


def _exchange(a: Path, b: Path) -> bool:
    """Let two folders change names in one step; False where system or file system cannot."""
    if sys.platform != "linux":
        return False
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    names = os.fsencode(a), os.fsencode(b)
    if renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS):
        return False
    raise OSError(code, os.strerror(code))


def _failed(path: Path, error: OSError) -> WriteFailed:
    return WriteFailed(
        f"cannot write the folder: {error.strerror or error}",
        where=str(path),
        fix="free some space, or choose another folder; what was there before is intact",
    )
