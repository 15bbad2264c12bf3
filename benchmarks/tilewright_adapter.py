"""Tilewright as one of the systems: compile once into a folder, load it, call it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from harness import NotAvailable

from tilewright.dsl.dtypes import BY_NAME
from tilewright.dsl.errors import TilewrightError
from tilewright.runtime import LanguageModel, Model, load

ARTIFACTS = Path(__file__).resolve().parent.parent / "build" / "bench"


def tilewright_encoder(
    model: Path, batch: int, length: int, dtype: str, threads: int
) -> Callable[[], object]:
    """One call of MiniLM's `encode` on token ids of [batch, length]."""
    loaded = _load(model, dtype, threads)
    kinds = {port.name: BY_NAME[port.dtype].numpy for port in loaded.signature("encode").inputs}
    ids = np.random.default_rng(0).integers(1000, 20000, (batch, length))
    inputs = {
        "input_ids": ids.astype(kinds["input_ids"]),
        "attention_mask": np.ones_like(ids).astype(kinds["attention_mask"]),
    }
    return lambda: loaded.run("encode", inputs)


def tilewright_decoder(
    model: Path, dtype: str, threads: int
) -> tuple[Callable[[Sequence[int]], int], Callable[[int], int]]:
    """`prefill(ids) -> token`, which starts anew, and `decode(token) -> token`, greedily."""
    language = LanguageModel(_load(model, dtype, threads))
    session = language.model.session()

    def prefill(ids: Sequence[int]) -> int:
        session.reset()
        return int(language.prefill(session, ids).argmax())

    def decode(token: int) -> int:
        return int(language.decode(session, token).argmax())

    return prefill, decode


def artifact_of(model: Path, dtype: str) -> Path:
    """The model's artifact for this machine, compiled if anything has changed since."""
    artifact = ARTIFACTS / f"{model.stem}-{dtype}"
    _compile([str(model), "--dtype", dtype, "-o", str(artifact)])
    return artifact


def _load(model: Path, dtype: str, threads: int) -> Model:
    try:
        return load(artifact_of(model, dtype), threads=threads)
    except TilewrightError as error:
        raise NotAvailable(str(error)) from error


def _compile(arguments: Sequence[str]) -> None:
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tilewright.cli.main", "compile", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise NotAvailable(f"compiling failed: {ran.stderr.strip()[-300:]}")
