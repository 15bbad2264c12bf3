"""Kernel text to a Triton function: Triton reads the source of a real file."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tilewright.codegen.triton.kernel import TritonKernel


@contextmanager
def loaded(kernel: TritonKernel, folder: Path | None = None) -> Generator[Any]:
    """The kernel's `triton.jit` function, while its file lies in a private folder.

    That folder is made in `folder`, or where the system has temporary ones.

    The text is what this package has just printed; nothing is ever loaded from elsewhere.
    """
    with tempfile.TemporaryDirectory(prefix="tilewright-", dir=folder) as private:
        path = Path(private, f"{kernel.entry}.py")
        path.write_text(kernel.source, encoding="ascii")
        spec = importlib.util.spec_from_file_location(kernel.entry, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield getattr(module, kernel.entry)
