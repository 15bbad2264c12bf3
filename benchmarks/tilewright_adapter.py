"""Tilewright as one of the systems: compile once into a folder, load it, call it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from harness import NotAvailable

ARTIFACTS = Path(__file__).resolve().parent.parent / "build" / "peers"


def tilewright_encoder(
    model: Path, batch: int, length: int, dtype: str, threads: int
) -> Callable[[], object]:
    """One call of MiniLM's `encode` on token ids of [batch, length]."""
    loaded = _load(model, dtype, threads)
    ids = np.random.default_rng(0).integers(1000, 20000, (batch, length), dtype=np.int64)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    return lambda: loaded.run("encode", inputs)


def tilewright_decoder(
    model: Path, dtype: str, threads: int
) -> tuple[Callable[[np.ndarray], int], Callable[[int], int]]:
    """`prefill(ids) -> token`, which starts anew, and `decode(token) -> token`, greedily."""
    loaded = _load(model, dtype, threads)
    session = loaded.session()

    def prefill(ids: np.ndarray) -> int:
        session.reset()
        return int(session.prefill(ids))

    def decode(token: int) -> int:
        return int(session.decode(token))

    return prefill, decode


def _load(model: Path, dtype: str, threads: int) -> Any:
    try:
        load = import_module("tilewright.runtime").load
    except (ImportError, AttributeError) as error:
        raise NotAvailable(f"tilewright.runtime.load is missing: {error}") from error
    artifact = ARTIFACTS / f"{model.stem}-{dtype}"
    if not artifact.exists():
        _compile([str(model), "--dtype", dtype, "-o", str(artifact)])
    return load(artifact, threads=threads)


def _compile(arguments: Sequence[str]) -> None:
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tilewright.cli.main", "compile", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise NotAvailable(f"compiling failed: {ran.stderr.strip()[-300:]}")
