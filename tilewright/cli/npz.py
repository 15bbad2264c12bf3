"""Arrays of a graph in .npz files: read against a signature, written as a whole."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilewright.dsl.dtypes import BY_NAME
from tilewright.dsl.errors import InvalidArrayFile
from tilewright.files import replace_file

if TYPE_CHECKING:
    from tilewright.runtime.model import Signature

Array = NDArray[Any]
_PLAIN = frozenset("fiub")
_FIX = "write it with numpy.savez, names and dtypes as in the graph's signature"


def read_inputs(path: Path, signature: Signature) -> dict[str, Any]:
    """The arrays of a file, as the graph takes them: scalars as integers.

    A .npz file cannot say bf16 (nor 8-bit floats): inputs of these formats are given as float32
    and rounded here. Raises InvalidArrayFile.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            found: dict[str, Array] = {name: np.asarray(file[name]) for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, AttributeError) as error:
        raise InvalidArrayFile(
            f"the file holds no arrays that can be read: {error}", where=str(path), fix=_FIX
        ) from error
    formats = {port.name: BY_NAME[port.dtype].numpy for port in signature.inputs}
    scalars = {record.name for record in signature.scalars}
    inputs: dict[str, Any] = {}
    for name, array in found.items():
        if name in scalars:
            inputs[name] = _integer(name, array, path)
        elif name in formats and formats[name].kind == "V" and array.dtype == np.float32:
            inputs[name] = array.astype(formats[name])
        else:
            inputs[name] = array
    return inputs


def write_outputs(path: Path, outputs: Mapping[str, Array]) -> None:
    """Write arrays; formats that the file cannot say as float32. Raises WriteFailed."""
    plain = {
        name: array if array.dtype.kind in _PLAIN else array.astype(np.float32)
        for name, array in outputs.items()
    }
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **plain)
    replace_file(path, content.getvalue())


def _integer(name: str, array: Array, path: Path) -> int:
    if array.ndim != 0 or array.dtype.kind not in "iu":
        raise InvalidArrayFile(
            f"{name} is {array.dtype}{list(array.shape)}, the graph takes one integer",
            where=str(path),
            fix=_FIX,
        )
    return int(array)
