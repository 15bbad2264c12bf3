"""Arrays of a graph in .npz files: read against a signature, written as a whole."""

from __future__ import annotations

import io
import lzma
import math
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilewright.dsl.dims import bounds
from tilewright.dsl.dtypes import BY_NAME
from tilewright.dsl.errors import InvalidArrayFile, UnknownInput
from tilewright.files import replace_file
from tilewright.runtime.dim_table import read_dim, symbol_table

if TYPE_CHECKING:
    from tilewright.runtime.model import Model, Signature

Array = NDArray[Any]
_HEADER = 1 << 16
_WIDEST = 16  # bytes of a complex128
_PLAIN = frozenset("fiub")
_FIX = "write it with numpy.savez, names and dtypes as in the graph's signature"


def read_inputs(path: Path, model: Model, graph: str) -> dict[str, Any]:
    """The arrays of a file, as the graph takes them: scalars as integers.

    A .npz file cannot say bf16 (nor 8-bit floats): inputs of these formats are given as float32
    and rounded here. What the graph does not know, or could not take for its size, is not unpacked.
    Raises InvalidArrayFile and UnknownInput.
    """
    signature = model.signature(graph)
    try:
        with zipfile.ZipFile(path) as file:
            found = _unpacked(file, _most_bytes(model, signature), path)
    except _UNREADABLE as error:
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


_UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    zipfile.BadZipFile,
    NotImplementedError,  # a compression that Python does not know
    RuntimeError,  # a password
    lzma.LZMAError,
    zlib.error,
    tokenize.TokenError,  # a header that ends within a text
)


def _unpacked(file: zipfile.ZipFile, most: Mapping[str, int], path: Path) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for member in file.infolist():
        name = member.filename.removesuffix(".npy")
        if name not in most:
            raise UnknownInput(
                f"the graph has no input {name[:80]!r}",
                where=str(path),
                fix=f"its inputs are: {', '.join(sorted(most)) or 'none'}",
            )
        if name in found:
            raise InvalidArrayFile(f"the file holds {name} twice", where=str(path), fix=_FIX)
        if member.file_size > most[name]:
            raise InvalidArrayFile(
                f"{name} has {member.file_size} bytes, more than the graph can take",
                where=str(path),
                fix="give a smaller array, or compile with larger bounds",
            )
        found[name] = _array(file.read(member))
    return found


def _array(data: bytes) -> Array:
    """The content of a .npy file; no more memory is taken than there are bytes. Raises ValueError.

    Version 3 of the format differs from 2 in names of fields alone, which no input has.
    """
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"the format has version {version}")
    shape, by_column, dtype = readers[version](file)
    if any(size < 0 for size in shape):
        raise ValueError(f"the shape is {shape}")
    count = math.prod(shape)
    flat = np.frombuffer(data, dtype, count, file.tell()) if count else np.empty(0, dtype)
    return flat.reshape(shape, order="F" if by_column else "C")


def _most_bytes(model: Model, signature: Signature) -> dict[str, int]:
    """How large a file of each input may be, whatever number format and header it has."""
    symbols = symbol_table(model.manifest.symbols)
    most = {record.name: _HEADER for record in signature.scalars}
    for port in signature.inputs:
        dims = (bounds(read_dim(text, symbols))[1] for text in port.shape)
        count = math.prod(high + 1 for high in dims)
        most[port.name] = _HEADER + _WIDEST * count
    return most


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
