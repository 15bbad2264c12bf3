"""Folders that are replaced as a whole or not at all.

The new content is written into a hidden sibling, which then changes places with the folder in one
step. A writer holds a lock on its sibling for as long as it lives, so that a later writer can tell
leftovers of a killed one and remove them.

The disk has all of the new content before the names change, and the new names before the writer is
told that it went well: after a power cut the folder is the old one or the new one, whole, and the
new one if its writer had returned. (As far as fsync goes: a drive may lie about its own memory.
Without an exchange in one step, on systems other than Linux, a power cut may also leave no folder
of this name, and the old one under the name of the new one's sibling.)
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
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from tilewright.dsl.errors import WriteFailed
from tilewright.files import sync_folder

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
    try:
        path = Path(os.path.realpath(path))
        _make_durably(path.parent)
        _remove_leftovers(path)
        staging = Path(tempfile.mkdtemp(prefix=_prefix(path), dir=path.parent))
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise _failed(path, error) from error
    try:
        with _locked(staging):
            yield staging
            os.chmod(staging, 0o755)
            _sync_folders(staging)
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
    """A file that did not exist, open for writing; in the end the disk has it. Raises OSError."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        yield handle
        os.fsync(handle)
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


def _make_durably(folder: Path) -> None:
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(exist_ok=True)
        sync_folder(each.parent)


def _sync_folders(root: Path) -> None:
    for folder, _, _ in os.walk(root):
        sync_folder(Path(folder))


def _install(staging: Path, path: Path) -> None:
    """Let the two folders change names for good; where there is no old one, name the new one.

    Raises OSError, after which the names are what they were.
    """
    with ExitStack() as undo:

        def move(source: Path, target: Path) -> None:
            os.replace(source, target)
            undo.callback(os.replace, target, source)

        if not path.exists():
            move(staging, path)
        elif _exchange(staging, path):
            undo.callback(_exchange, staging, path)
        else:  # without an exchange in one step the folder is absent for a moment
            old = staging.with_name(f"{staging.name}-old")
            move(path, old)
            move(staging, path)
            move(old, staging)
        sync_folder(path.parent)
        undo.pop_all()


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


def _failed(path: Path, error: OSError | ValueError) -> WriteFailed:
    return WriteFailed(
        f"cannot write the folder: {getattr(error, 'strerror', None) or error}",
        where=str(path),
        fix="free some space, or choose another folder; what was there before is intact",
    )
