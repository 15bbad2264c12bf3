"""`weights.safetensors`: what an artifact's kernels read, in the mapped file or a copy of it.

The format forbids holes, and kernels want every tensor at a multiple of 64 bytes. So the header is
padded with spaces, and every tensor is stored as a flat array filled up with zeros to a multiple of
64 bytes; true shapes are in the manifest. Header and layout follow from the manifest's records, so
a file is right if it begins with the very bytes that we would write.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from tilewright.dsl.dtypes import BY_NAME, DType
from tilewright.dsl.errors import DamagedArtifact, MissingWeights, WeightShapeMismatch
from tilewright.runtime.buffers import ALIGNMENT, Array
from tilewright.runtime.digest import Bytes
from tilewright.runtime.folder import new_file, write_all
from tilewright.runtime.schema import WeightRecord

WEIGHTS_FILE: Final = "weights.safetensors"

_FORMAT_NAMES: Final = {
    "f64": "F64", "f32": "F32", "f16": "F16", "bf16": "BF16", "f8e4m3": "F8_E4M3",
    "f8e5m2": "F8_E5M2", "f8e8m0": "F8_E8M0", "i64": "I64", "i32": "I32", "i8": "I8",
    "u32": "U32", "u8": "U8", "bool": "BOOL",
}  # fmt: skip
_BLOCK: Final = 1 << 24


def header(records: Sequence[WeightRecord]) -> bytes:
    """The bytes before the first tensor: the header's size, its JSON, spaces up to 64 bytes."""
    entries: dict[str, object] = {"__metadata__": {"format": "tilewright"}}
    for record, start, stop in _layout(records):
        dtype = BY_NAME[record.dtype]
        entries[record.name] = {
            "dtype": _FORMAT_NAMES[dtype.name],
            "shape": [(stop - start) // dtype.itemsize],
            "data_offsets": [start, stop],
        }
    text = msgspec.json.encode(entries)
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def write_weights(path: Path, records: Sequence[WeightRecord], arrays: Mapping[str, Array]) -> None:
    """Write the arrays in the records' order; each is looked up once and then let go.

    Raises MissingWeights, WeightShapeMismatch, and OSError from the system.
    """
    known = set(arrays)
    with new_file(path) as handle:
        write_all(handle, memoryview(header(records)))
        for record, start, stop in _layout(records):
            if record.name not in known:
                raise MissingWeights(f"there is no array for the weights {record.name}")
            array = np.asarray(arrays[record.name])
            _check(record, array)
            padding = stop - start - array.nbytes
            for block in _blocks(array):
                write_all(handle, block)
            write_all(handle, memoryview(bytes(padding)))


def map_weights(content: Bytes, records: Sequence[WeightRecord]) -> dict[str, Array]:
    """Read-only arrays of true shape over the content of a file, by name.

    Raises DamagedArtifact where the file is not laid out as the records say.
    """
    start = header(records)
    layout = list(_layout(records))
    size = len(start) + (layout[-1][2] if layout else 0)
    if len(content) != size or content[: len(start)] != start:
        raise DamagedArtifact(
            f"{WEIGHTS_FILE} does not hold the weights of the manifest",
            fix="compile the model again",
        )
    found: dict[str, Array] = {}
    for record, offset, _ in layout:
        dtype = BY_NAME[record.dtype].numpy
        count = math.prod(record.shape)
        flat: Array = np.frombuffer(content, np.uint8, count * dtype.itemsize, len(start) + offset)
        found[record.name] = flat.view(dtype).reshape(record.shape)
    return found


def _layout(records: Sequence[WeightRecord]) -> Iterator[tuple[WeightRecord, int, int]]:
    """Each record with the first byte of its data and the first after it."""
    start = 0
    for record in records:
        size = math.prod(record.shape) * BY_NAME[record.dtype].itemsize
        stop = start + size + -size % ALIGNMENT
        yield record, start, stop
        start = stop


def _check(record: WeightRecord, array: Array) -> None:
    wanted: DType = BY_NAME[record.dtype]
    if array.dtype != wanted.numpy or array.shape != tuple(record.shape):
        raise WeightShapeMismatch(
            f"the weights {record.name} are {array.dtype}{list(array.shape)}, the manifest says "
            f"{wanted}{record.shape}"
        )


def _blocks(array: Array) -> Iterator[memoryview]:
    """The bytes in row-major order; only a piece at a time of what is not contiguous is copied."""
    if array.flags.c_contiguous:
        flat: Array = array.reshape(-1).view(np.uint8)
        for start in range(0, flat.size, _BLOCK):
            yield flat[start : start + _BLOCK].data
        return
    rows: Any
    for rows in np.array_split(array, max(1, -(-array.nbytes // _BLOCK))):
        yield np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
