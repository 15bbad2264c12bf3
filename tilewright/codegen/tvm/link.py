"""Object files to one shared library, byte for byte the same wherever it is built."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tilewright.dsl.errors import LinkerFailed, LinkerMissing

_FLAGS: Final = (
    "-shared",
    # Nothing from the compiler's own folders: the few libc functions that kernels use (memcpy,
    # sched_yield, syscall) are found in the process at load time.
    "-nostdlib",
    "-Wl,--build-id=none",
    # No symbol table and no debug sections: they would hold the names of temporary files.
    "-Wl,-s",
    # Calls between our objects never go through another library's symbol of the same name.
    "-Wl,-Bsymbolic",
    "-Wl,-z,noexecstack",
)
_TIMEOUT_S: Final = 120


def linker() -> tuple[str, ...]:
    """The command that links: a C compiler on PATH, else the `ziglang` package.

    Raises:
        LinkerMissing: there is neither.
    """
    for name in ("cc", "gcc", "clang"):
        if (found := shutil.which(name)) is not None:
            return (found,)
    if importlib.util.find_spec("ziglang") is not None:
        return (sys.executable, "-m", "ziglang", "cc")
    raise LinkerMissing(
        "no C compiler on PATH to link the kernels with",
        fix="install gcc or clang, or `pip install ziglang`",
    )


def shared_library(objects: Sequence[bytes], folder: Path | None = None) -> bytes:
    """Link object files, in this order, into a shared library.

    Works in a private temporary folder with fixed file names, made in `folder` or where the system
    has such folders; the result depends on the objects and on the linker's version alone.

    Raises:
        LinkerMissing: no linker was found.
        LinkerFailed: it did not accept the objects.
    """
    command = linker()
    with tempfile.TemporaryDirectory(prefix="tilewright-", dir=folder) as private:
        names = [f"{number}.o" for number in range(len(objects))]
        for name, code in zip(names, objects, strict=True):
            Path(private, name).write_bytes(code)
        _run([*command, *_FLAGS, "-o", "kernels.so", *names], private)
        return Path(private, "kernels.so").read_bytes()


def _run(command: Sequence[str], folder: str) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "TMPDIR": folder},  # for what the linker itself puts aside
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LinkerFailed(f"the linker {command[0]} did not run: {error}") from error
    if done.returncode != 0:
        said = "\n".join(done.stderr.splitlines()[:10])
        raise LinkerFailed(f"the linker {command[0]} failed:\n{said}")
