"""Tilewright as one of the systems: compile once into a folder, load it, call it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from harness import WORK_FOLDER, NotAvailable, Setting
from tuning_folder import once

from tilewright.dsl.dtypes import BY_NAME
from tilewright.dsl.errors import TilewrightError
from tilewright.runtime import LanguageModel, Model, load

RECORDS = "--storage"
"""The option that names a file of records, of `tune` and of `compile`."""
_SECONDS = "86400"  # trials end a search, not the clock


def tilewright_encoder(
    model: Path, batch: int, length: int, dtype: str, setting: Setting
) -> Callable[[], object]:
    """One call of MiniLM's `encode` on token ids of [batch, length]."""
    loaded = _load(model, dtype, setting)
    kinds = {port.name: BY_NAME[port.dtype].numpy for port in loaded.signature("encode").inputs}
    ids = np.random.default_rng(0).integers(1000, 20000, (batch, length))
    inputs = {
        "input_ids": ids.astype(kinds["input_ids"]),
        "attention_mask": np.ones_like(ids).astype(kinds["attention_mask"]),
    }
    return lambda: loaded.run("encode", inputs)


def tilewright_decoder(
    model: Path, dtype: str, setting: Setting
) -> tuple[Callable[[Sequence[int]], int], Callable[[int], int]]:
    """`prefill(ids) -> token`, which starts anew, and `decode(token) -> token`, greedily."""
    language = LanguageModel(_load(model, dtype, setting))
    session = language.model.session()

    def prefill(ids: Sequence[int]) -> int:
        session.reset()
        return int(language.prefill(session, ids).argmax())

    def decode(token: int) -> int:
        return int(language.decode(session, token).argmax())

    return prefill, decode


def artifact_of(model: Path, dtype: str, trials: int = 0, folder: Path = WORK_FOLDER) -> Path:
    """The model's artifact for this machine, compiled if anything has changed since."""
    artifact = artifact_folder(model, dtype, folder)
    what = [str(model), "--dtype", dtype]
    records = tuned(what, folder / f"{model.stem}-{dtype}-tuning", trials)
    tilewright("compile", *what, *records, "-o", str(artifact))
    return artifact


def artifact_folder(model: Path, dtype: str, folder: Path = WORK_FOLDER) -> Path:
    """Where the model's artifact is kept."""
    return folder / f"{model.stem}-{dtype}"


def stored_bytes(artifact: Path) -> int:
    """Bytes of all the weights that an artifact stores."""
    records = json.loads((artifact / "manifest.json").read_text())["weights"]
    return sum(math.prod(r["shape"]) * BY_NAME[r["dtype"]].numpy.itemsize for r in records)


def tuned(what: Sequence[str], folder: Path, trials: int) -> list[str]:
    """The options with which `compile` uses what has won; tunes first if that was not done yet.

    what: the arguments that name a model, as `tilewright tune` takes them.
    """
    records = [RECORDS, str(folder / "tuning.db")]

    def tune() -> None:
        count = ["--trials", str(trials), "--budget", _SECONDS]
        tilewright("tune", *what, *records, *count, harmless="NothingToTune")

    if trials:
        once(folder, trials, tune)
    return records if (folder / "tuning.db").is_file() and trials else []


def tilewright(verb: str, *arguments: str, harmless: str | None = None) -> None:
    """Runs a command; `harmless` is a mistake that is none here. Raises NotAvailable."""
    command = [sys.executable, "-m", "tilewright.cli.main", verb, *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode and not (harmless and f"{harmless}:" in ran.stderr):
        raise NotAvailable(f"tilewright {verb} failed: {ran.stderr.strip()[-300:]}")


def _load(model: Path, dtype: str, setting: Setting) -> Model:
    try:
        artifact = artifact_of(model, dtype, setting.trials, setting.folder)
        return load(artifact, threads=setting.threads)
    except TilewrightError as error:
        raise NotAvailable(str(error)) from error
