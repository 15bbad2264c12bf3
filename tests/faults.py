"""Injects faults of the file system: the n-th call that changes something fails with ENOSPC."""

import errno
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from tilewright.dsl.errors import WriteFailed

CHANGING = ("open", "write", "fsync", "replace", "mkdir")


class FailingCalls:
    """While `patch` lasts, the call number `fail_at` of `os` (or of mkstemp) in `module` fails.

    A failing `write` first writes half of its bytes, as a disk that fills up does.
    """

    def __init__(self, patch: pytest.MonkeyPatch, module: ModuleType, fail_at: int) -> None:
        self.calls = 0
        self.fail_at = fail_at
        for name in CHANGING:
            patch.setattr(module.os, name, self._counted(getattr(os, name), name))
        patch.setattr(module.tempfile, "mkstemp", self._counted(module.tempfile.mkstemp, "mkstemp"))

    def run(self, change: Callable[[], object]) -> bool:
        """Whether `change` went through; the injected fault must come out as `WriteFailed`."""
        try:
            change()
        except WriteFailed:
            return False
        return True

    def _counted(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            reading = name == "open" and not (args[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            if reading:
                return real(*args, **options)
            self.calls += 1
            if self.calls - 1 == self.fail_at:
                if name == "write":
                    real(args[0], args[1][: len(args[1]) // 2])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **options)

        return call
