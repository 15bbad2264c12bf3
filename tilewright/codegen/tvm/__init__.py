"""Kernels for CPUs, through TVM and LLVM."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast


@contextmanager
def torch_hidden() -> Generator[None]:
    """Surrounds the first import of TVM, which imports torch wherever that is installed.

    Nothing here hands tensors from one to the other, so that would be seconds for nothing; and for
    a torch not of its own age TVM's interface would build an extension, for minutes, in the user's
    home. A torch that the program has already imported stays.
    """
    if "torch" in sys.modules or "tvm" in sys.modules:
        yield
        return
    sys.modules["torch"] = cast("Any", None)
    try:
        yield
    finally:
        del sys.modules["torch"]
