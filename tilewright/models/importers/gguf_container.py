"""The container that is GGUF: metadata and a table of tensors.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The `gguf` package's own reader
makes several arrays per metadata entry (seconds for a vocabulary) and trusts every count it finds;
this one walks the header once and checks each count against the bytes that are left. Constants and
dequantization are the package's.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from gguf.constants import (
    GGML_QUANT_SIZES,
    GGUF_DEFAULT_ALIGNMENT,
    GGUF_MAGIC,
    GGMLQuantizationType,
    GGUFValueType,
)

from tilewright.dsl.errors import MalformedModelFile, UnsupportedModel
from tilewright.models.importers.mapped import MappedFile, map_file

Value = bool | int | float | str | tuple[str, ...] | npt.NDArray[Any]

VERSIONS: Final = (2, 3)
MOST_ENTRIES: Final = 1 << 16
MOST_STRINGS: Final = 1 << 24
LONGEST_NAME: Final = 1 << 16
MOST_DIMS: Final = 4
_LENGTH: Final = struct.Struct("<Q")
_SCALARS: Final[Mapping[int, str]] = {
    GGUFValueType.UINT8: "<u1",
    GGUFValueType.INT8: "<i1",
    GGUFValueType.UINT16: "<u2",
    GGUFValueType.INT16: "<i2",
    GGUFValueType.UINT32: "<u4",
    GGUFValueType.INT32: "<i4",
    GGUFValueType.FLOAT32: "<f4",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "<u8",
    GGUFValueType.INT64: "<i8",
    GGUFValueType.FLOAT64: "<f8",
}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """Where a tensor lies in the file; `shape` in row-major order, the file says it reversed."""

    name: str
    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int
    bytes: int


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A checked GGUF file: every tensor lies inside of it, and no two overlap."""

    file: MappedFile
    metadata: Mapping[str, Value]
    tensors: Mapping[str, GgufTensor]


def open_container(path: Path) -> GgufFile:
    """Read the header of a GGUF file.

    Raises:
        ModelFileNotFound: There is no such plain file.
        MalformedModelFile: It is truncated or corrupted, or no GGUF file at all.
        UnsupportedModel: Its version, byte order or a number format is unknown.
    """
    file = map_file(path)
    cursor = _Cursor(file)
    tensor_count, entry_count = _read_preamble(cursor)
    metadata: dict[str, Value] = {}
    for _ in range(entry_count):
        key = cursor.text(LONGEST_NAME)
        if key in metadata:
            raise cursor.malformed(f"the metadata key {key!a} appears twice")
        metadata[key] = _read_value(cursor, key)
    alignment = metadata.get("general.alignment", GGUF_DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise cursor.malformed("`general.alignment` is not a power of two")
    table = [_read_tensor(cursor) for _ in range(tensor_count)]
    start = -(-cursor.offset // alignment) * alignment
    tensors = _placed(cursor, table, start, alignment)
    return GgufFile(file, metadata, tensors)


class _Cursor:
    """A position in the file from which every read is checked against the bytes that are left."""

    def __init__(self, file: MappedFile) -> None:
        self.file = file
        self.offset = 0

    def malformed(self, reason: str) -> MalformedModelFile:
        return MalformedModelFile(
            f"{reason}, near byte {self.offset}",
            where=str(self.file.path),
            fix="fetch the file again",
        )

    def advance(self, length: int) -> int:
        """Step over `length` bytes; returns where they begin."""
        begin = self.offset
        if length > self.file.size - begin:
            raise self.malformed(f"the file ends {length - self.file.size + begin} bytes too early")
        self.offset = begin + length
        return begin

    def unpack(self, code: str) -> Any:
        """One number, as `struct` spells it."""
        return struct.unpack_from(code, self.file.bytes, self.advance(struct.calcsize(code)))[0]

    def text(self, longest: int) -> str:
        return self.texts(1, longest)[0]

    def texts(self, count: int, longest: int) -> tuple[str, ...]:
        """`count` texts in a row. One tight loop: a vocabulary has hundreds of thousands."""
        data, size, offset = self.file.bytes, self.file.size, self.offset
        found: list[str] = []
        for _ in range(count):
            begin = offset + _LENGTH.size
            length = _LENGTH.unpack_from(data, offset)[0] if begin <= size else size
            if length > longest or length > size - begin:
                self.offset = offset
                raise self.malformed(f"a text claims {length} bytes of a file of {size}")
            offset = begin + length
            try:
                found.append(str(data[begin:offset], "utf-8"))
            except UnicodeDecodeError as error:
                self.offset = begin
                raise self.malformed("a text is not UTF-8") from error
        self.offset = offset
        return tuple(found)


def _read_preamble(cursor: _Cursor) -> tuple[int, int]:
    if cursor.unpack("<I") != GGUF_MAGIC:
        cursor.offset = 0
        raise cursor.malformed("this is not a GGUF file")
    version = cursor.unpack("<I")
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
        raise UnsupportedModel(
            "the file is big-endian" if swapped else f"GGUF version {version} is unknown",
            where=str(cursor.file.path),
            fix=f"convert it to little-endian GGUF of version {VERSIONS[-1]}",
        )
    tensor_count, entry_count = cursor.unpack("<Q"), cursor.unpack("<Q")
    if tensor_count > MOST_ENTRIES or entry_count > MOST_ENTRIES:
        raise cursor.malformed(f"it claims {tensor_count} tensors and {entry_count} entries")
    return tensor_count, entry_count


def _read_value(cursor: _Cursor, key: str) -> Value:
    kind = cursor.unpack("<I")
    if kind == GGUFValueType.STRING:
        return cursor.text(cursor.file.size)
    if kind == GGUFValueType.ARRAY:
        return _read_array(cursor, key)
    if kind not in _SCALARS:
        raise cursor.malformed(f"the metadata {key!a} has the unknown type {kind}")
    return _numbers(cursor, kind, 1)[0].item()


def _read_array(cursor: _Cursor, key: str) -> Value:
    kind, count = cursor.unpack("<I"), cursor.unpack("<Q")
    if kind in _SCALARS:
        return _numbers(cursor, kind, count)
    if kind != GGUFValueType.STRING:
        raise cursor.malformed(f"the metadata {key!a} is an array of the unknown type {kind}")
    # Each text takes at least the eight bytes of its length.
    if count > min(MOST_STRINGS, (cursor.file.size - cursor.offset) // 8):
        raise cursor.malformed(f"the metadata {key!a} claims {count} texts")
    return cursor.texts(count, cursor.file.size)


def _numbers(cursor: _Cursor, kind: int, count: int) -> npt.NDArray[Any]:
    if kind == GGUFValueType.BOOL:
        values = cursor.file.array("<u1", count, cursor.advance(count))
        if count and values.max() > 1:
            raise cursor.malformed("a truth value is neither 0 nor 1")
        return values.astype(np.bool_)
    dtype = np.dtype(_SCALARS[kind])
    return cursor.file.array(dtype, count, cursor.advance(count * dtype.itemsize))


def _read_tensor(cursor: _Cursor) -> GgufTensor:
    """One entry of the table; `offset` still counts from the start of the data."""
    name = cursor.text(LONGEST_NAME)
    rank = cursor.unpack("<I")
    if rank > MOST_DIMS:
        raise cursor.malformed(f"the tensor {name!a} claims {rank} dimensions")
    shape = tuple(reversed([int(cursor.unpack("<Q")) for _ in range(rank)]))
    kind, offset = cursor.unpack("<I"), cursor.unpack("<Q")
    try:
        quantization = GGMLQuantizationType(kind)
    except ValueError as error:
        raise UnsupportedModel(
            f"the tensor {name!a} has the unknown type {kind}",
            where=str(cursor.file.path),
            fix="convert the model to a type that the gguf package knows",
        ) from error
    block, block_bytes = GGML_QUANT_SIZES[quantization]
    if shape and shape[-1] % block:
        raise cursor.malformed(
            f"the tensor {name!a} has rows of {shape[-1]}, no multiple of blocks of {block}"
        )
    return GgufTensor(name, quantization, shape, offset, math.prod(shape) // block * block_bytes)


def _placed(
    cursor: _Cursor, table: list[GgufTensor], start: int, alignment: int
) -> dict[str, GgufTensor]:
    """The table with offsets from the start of the file, checked to lie apart and inside."""
    tensors: dict[str, GgufTensor] = {}
    for entry in table:
        begin = start + entry.offset
        if entry.name in tensors:
            raise cursor.malformed(f"the tensor {entry.name!a} appears twice")
        if entry.offset % alignment or begin + entry.bytes > cursor.file.size:
            raise cursor.malformed(
                f"the tensor {entry.name!a} needs {entry.bytes} bytes at {begin} of a file of"
                f" {cursor.file.size}"
            )
        tensors[entry.name] = GgufTensor(entry.name, entry.kind, entry.shape, begin, entry.bytes)
    ordered = sorted(tensors.values(), key=lambda tensor: (tensor.offset, tensor.bytes))
    for left, right in itertools.pairwise(ordered):
        if left.offset + left.bytes > right.offset:
            raise cursor.malformed(f"the tensors {left.name!a} and {right.name!a} overlap")
    return tensors
