"""Importers: files of others -> configuration, weights and tokenizer."""

from __future__ import annotations

from pathlib import Path

from tilewright.dsl.errors import ModelFileNotFound, UnsupportedModel
from tilewright.models.importers.source import (
    ImportedModel,
    RenamedSource,
    WeightSource,
    check_weights,
)

__all__ = ["ImportedModel", "RenamedSource", "WeightSource", "check_weights", "open_model"]


def open_model(path: Path) -> ImportedModel:
    """Open a GGUF file or a Hugging Face model folder; weights are read when they are asked for.

    Raises:
        ModelFileNotFound: There is nothing at `path`, or a file of the folder is absent.
        MalformedModelFile: A file is truncated or corrupted.
        ModelConfigError: The configuration lacks a key or contradicts itself.
        UnsupportedModel: No importer knows this kind of file or model.
        UnsafePath: A name or a symbolic link leads out of the folder.
    """
    # Each importer brings a library of its own: only the one that is needed is loaded.
    if path.is_dir():
        from tilewright.models.importers.huggingface import open_huggingface

        return open_huggingface(path)
    if not path.exists():
        raise ModelFileNotFound(
            "there is no such model", where=str(path), fix="give a GGUF file or a model folder"
        )
    if path.suffix == ".gguf":
        from tilewright.models.importers.gguf import open_gguf

        return open_gguf(path)
    raise UnsupportedModel(
        "no importer for this kind of file",
        where=str(path),
        fix="give a file that ends in .gguf, or a folder with config.json and safetensors",
    )
