"""Artifacts of the two models, compiled by the command line once for all workers of a test run."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

from filelock import FileLock

from tests.models.reference import gemma, minilm
from tilewright.runtime import Model, load

ROOT = Path(__file__).parent.parent.parent


@cache
def encoder(dtype: str) -> Model:
    """MiniLM, loaded with two threads."""
    return load(_artifact("minilm", minilm.folder(), dtype), threads=2)


@cache
def decoder(dtype: str) -> Model:
    """Gemma, loaded with two threads."""
    return load(_artifact("gemma", gemma.path(), dtype), threads=2)


def _artifact(name: str, model: Path, dtype: str) -> Path:
    """In a process of its own: a compilation needs gigabytes, and TVM must not meet torch."""
    folder = Path(os.environ["TILEWRIGHT_TEST_SCRATCH"])
    out = folder / f"{name}-{dtype}"
    with FileLock(folder / f"{name}-{dtype}.lock"):
        if not out.exists():
            command = [sys.executable, "-m", "tilewright.cli.main", "compile", str(model)]
            done = subprocess.run(
                [*command, "--dtype", dtype, "-o", str(out)],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
    return out
