"""Files and folders of others, opened with care."""

from __future__ import annotations

import mmap
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tilewright.dsl.errors import MalformedModelFile, ModelFileNotFound, UnsafePath


@dataclass(frozen=True, slots=True)
class MappedFile:
    """A file mapped read-only: bytes cost memory when they are touched, not before."""

    path: Path
    bytes: memoryview

    @property
    def size(self) -> int:
        return len(self.bytes)

    def array(self, dtype: npt.DTypeLike, count: int, offset: int) -> npt.NDArray[Any]:
        """A read-only flat view of `count` numbers; the caller has checked that they are there."""
        return np.frombuffer(self.bytes, dtype, count, offset)


def map_file(path: Path) -> MappedFile:
    """Map a plain file.

    Raises:
        ModelFileNotFound: There is no such file, or it is a folder, pipe or device.
        MalformedModelFile: The file is empty.
    """
    try:
        # Without O_NONBLOCK a named pipe would wait for a writer that never comes.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise _not_found(path, getattr(error, "strerror", None) or str(error)) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _not_found(path, "not a plain file")
        if status.st_size == 0:
            raise MalformedModelFile("the file is empty", where=str(path), fix="fetch it again")
        mapped = mmap.mmap(descriptor, status.st_size, prot=mmap.PROT_READ)
    except OSError as error:
        raise _not_found(path, error.strerror or str(error)) from error
    finally:
        os.close(descriptor)
    return MappedFile(path, memoryview(mapped))


def read_small(path: Path, most: int) -> bytes:
    """The bytes of a plain file of at most `most` bytes.

    Raises:
        ModelFileNotFound: There is no such plain file.
        MalformedModelFile: It is empty or larger.
    """
    mapped = map_file(path)
    if mapped.size > most:
        raise MalformedModelFile(
            f"the file has {mapped.size} bytes, more than the {most} that its kind may have",
            where=str(path),
            fix="check that this is the right file",
        )
    return bytes(mapped.bytes)


def inside(folder: Path, name: str) -> Path:
    """The path of `folder/name`, if neither the name nor a symbolic link leads out of the folder.

    Raises:
        UnsafePath: It does, or `name` is not a relative path.
    """
    candidate = Path(name)
    if not name or "\0" in name or candidate.is_absolute() or ".." in candidate.parts:
        raise UnsafePath(
            f"the file name {name!a} leaves its folder",
            where=str(folder),
            fix="name files that lie in the model's own folder",
        )
    path = folder / candidate
    try:
        real, root = path.resolve(), folder.resolve()
    except (OSError, RuntimeError) as error:
        raise _not_found(path, str(error)) from error
    if not real.is_relative_to(root):
        raise UnsafePath(
            f"{name!a} is a symbolic link out of its folder",
            where=str(folder),
            fix="copy the files into one folder (`hf download --local-dir` does)",
        )
    return path


def _not_found(path: Path, reason: str) -> ModelFileNotFound:
    return ModelFileNotFound(f"cannot open the model file: {reason}", where=str(path))
