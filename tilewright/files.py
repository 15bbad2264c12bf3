"""Folders that are ours alone, and files that are replaced as a whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from tilewright.dsl.errors import UnsafeCacheFolder, WriteFailed


def private_folder(path: Path) -> Path:
    """`path` as a folder of the current user, made with mode 0700 if it is absent.

    Raises `UnsafeCacheFolder` if it is a link, another user's or open to others' writing, and
    `WriteFailed` if it cannot be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = path.lstat()
    except OSError as error:
        raise WriteFailed(f"cannot make the folder: {error.strerror}", where=str(path)) from error
    reason = None
    if not stat.S_ISDIR(state.st_mode):
        reason = "it is a link or a file"
    elif state.st_uid != os.geteuid():
        reason = "it belongs to another user"
    elif state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        reason = "other users may write to it"
    if reason is not None:
        raise UnsafeCacheFolder(
            f"the folder cannot be trusted: {reason}",
            where=str(path),
            fix="`chmod 700` it, or set TILEWRIGHT_CACHE_DIR to a folder of your own",
        )
    return path


def replace_file(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Make `path` hold `data`: readers see the old content or the new, never a mixture.

    `durable` waits for the disk, so that after a power cut, too, it is one or the other, and the
    new one where the disk could note the new name; a cache that checks what it reads can do
    without. Raises `WriteFailed`, and then the old file is intact and no temporary file is left.
    """
    try:
        if path.exists() and not path.is_file():
            # A device such as /dev/null would be gone.
            raise OSError(errno.EINVAL, "there is something that is no plain file")
        handle, temporary = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    except OSError as error:
        raise _failed(path, error) from error
    try:
        try:
            _write_all(handle, data)
            if durable:
                os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(temporary, path)
        if durable:
            with suppress(OSError):  # the old file is gone, and the new one is whole
                sync_folder(path.parent)
    except OSError as error:
        raise _failed(path, error) from error
    finally:
        with suppress(OSError):  # there is nothing left to remove where the replacement worked
            os.unlink(temporary)


def sync_folder(path: Path) -> None:
    """Wait until the disk holds the folder's names. Raises OSError.

    Returns at once where the file system cannot wait for a folder.
    """
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def read_private_file(path: Path) -> bytes | None:
    """The content of a plain file, None if there is none; links are not followed."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return None
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read()
    except OSError:
        return None
    finally:
        os.close(handle)


def _write_all(handle: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]


def _failed(path: Path, error: OSError) -> WriteFailed:
    return WriteFailed(
        f"cannot write the file: {error.strerror}",
        where=str(path),
        fix="free some space, or choose another folder; what was there before is intact",
    )
