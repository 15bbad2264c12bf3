"""A disk that may forget what it was not told to keep, as one does when the power is cut."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tilewright.runtime import folder as replacing


class ForgetfulDisk:
    """While `patch` lasts, remembers what was synced below `root`: contents and folders' names.

    Before every fsync and every change of names `cut` is called, as if the power failed there.
    """

    def __init__(self, patch: pytest.MonkeyPatch, root: Path, cut: Callable[[], None]) -> None:
        self.root = root
        self._contents: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        self._folders: set[int] = set()
        for path in [root, *root.rglob("*")]:
            self._keep(path)

        def interrupted(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **options: Any) -> Any:
                cut()
                return real(*args, **options)

            return call

        sync = os.fsync

        def kept(handle: int) -> None:
            sync(handle)
            self._keep(Path(os.readlink(f"/proc/self/fd/{handle}")))

        patch.setattr(os, "fsync", interrupted(kept))
        patch.setattr(os, "replace", interrupted(os.replace))
        patch.setattr(replacing, "_exchange", interrupted(replacing._exchange))

    def restore(self, at: Path, names: str) -> None:
        """Write into `at` what a power cut would leave in the worst case.

        A file has the content of its last fsync, or none. The `names` in a folder are those that it
        had when it was `synced`, or the `latest`: a disk may keep more than it was told.
        """
        shutil.rmtree(at, ignore_errors=True)
        if names == "synced":
            self._synced(self.root.stat().st_ino, at)
        else:
            self._latest(self.root, at)

    def _keep(self, path: Path) -> None:
        inode = path.stat().st_ino
        if path.is_dir():
            self._folders.add(inode)
            self._names[inode] = {p.name: p.stat().st_ino for p in path.iterdir()}
            self._folders.update(p.stat().st_ino for p in path.iterdir() if p.is_dir())
        else:
            self._contents[inode] = path.read_bytes()

    def _synced(self, inode: int, at: Path) -> None:
        if inode not in self._folders:
            at.write_bytes(self._contents.get(inode, b""))
            return
        at.mkdir()
        for name, child in self._names.get(inode, {}).items():
            self._synced(child, at / name)

    def _latest(self, path: Path, at: Path) -> None:
        if path.is_file():
            at.write_bytes(self._contents.get(path.stat().st_ino, b""))
            return
        at.mkdir()
        for child in path.iterdir():
            self._latest(child, at / child.name)
