"""Weights in the safetensors format: one file, or shards with an index.

Format: https://huggingface.co/docs/safetensors. Eight bytes of header length, a JSON header that
maps a name to dtype, shape and byte range, then the bytes, without holes. Everything is checked
against the size of the file before an array is made, and arrays are views of the mapped file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import msgspec
import numpy as np
import numpy.typing as npt

from tilewright.dsl.errors import MalformedModelFile, ModelFileNotFound, UnsupportedModel
from tilewright.models.importers.mapped import MappedFile, inside, map_file
from tilewright.models.importers.records import read_record
from tilewright.models.importers.source import contiguous, missing_weight

WEIGHTS_NAME: Final = "model.safetensors"
INDEX_NAME: Final = "model.safetensors.index.json"
LARGEST_HEADER: Final = 100_000_000  # the limit of the reference implementation
MOST_DIMS: Final = 32

_FLOATS: Final[Mapping[str, npt.DTypeLike]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_ITEM_BYTES: Final = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class _Index(msgspec.Struct, frozen=True):
    weight_map: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Tensor:
    file: MappedFile
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def items(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class SafetensorsSource:
    """Weights of one or several mapped files, under the names that the files use."""

    tensors: Mapping[str, _Tensor]

    def names(self) -> Sequence[str]:
        return tuple(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensor(name).shape

    def read(self, name: str) -> npt.NDArray[Any]:
        tensor = self._tensor(name)
        if tensor.dtype not in _FLOATS:
            raise UnsupportedModel(
                f"the weight {name!a} holds {tensor.dtype}, not {', '.join(_FLOATS)}",
                where=str(tensor.file.path),
                fix="convert the checkpoint to one of these",
            )
        if not tensor.items:
            return np.empty(tensor.shape, _FLOATS[tensor.dtype])
        flat = tensor.file.array(_FLOATS[tensor.dtype], tensor.items, tensor.offset)
        return contiguous(flat.reshape(tensor.shape))

    def _tensor(self, name: str) -> _Tensor:
        if name not in self.tensors:
            raise missing_weight(name)
        return self.tensors[name]


def open_safetensors(folder: Path) -> SafetensorsSource:
    """The weights of a model folder: `model.safetensors`, or the shards that its index names.

    Raises:
        ModelFileNotFound: The folder holds neither, or a shard is absent.
        MalformedModelFile: A file is truncated, corrupted, or contradicts the index.
        UnsafePath: The index or a symbolic link leads out of the folder.
    """
    if (folder / WEIGHTS_NAME).exists():
        return SafetensorsSource(_read_header(inside(folder, WEIGHTS_NAME)))
    if not (folder / INDEX_NAME).exists():
        raise ModelFileNotFound(
            f"the folder holds neither {WEIGHTS_NAME} nor {INDEX_NAME}",
            where=str(folder),
            fix="give the folder of a checkpoint in safetensors format",
        )
    index_path = inside(folder, INDEX_NAME)
    weight_map = read_record(index_path, _Index, LARGEST_HEADER).weight_map
    shards: dict[str, Mapping[str, _Tensor]] = {}
    for shard in sorted(set(weight_map.values())):
        shards[shard] = _read_header(inside(folder, shard))
    strays = sorted(name for name, shard in weight_map.items() if name not in shards[shard])
    if strays:
        raise MalformedModelFile(
            f"the index promises {strays[0]!a} (and {len(strays) - 1} more weights) in shards that"
            " do not hold them",
            where=str(index_path),
            fix="fetch index and shards again, from one revision",
        )
    return SafetensorsSource({name: shards[shard][name] for name, shard in weight_map.items()})


def open_safetensors_file(path: Path) -> SafetensorsSource:
    """The weights of one file. Raises ModelFileNotFound and MalformedModelFile."""
    return SafetensorsSource(_read_header(path))


def _read_header(path: Path) -> dict[str, _Tensor]:
    file = map_file(path)
    if file.size < 8:
        raise _malformed(path, f"the file has {file.size} bytes, too few for a header")
    length = int.from_bytes(file.bytes[:8], "little")
    if length > min(LARGEST_HEADER, file.size - 8):
        raise _malformed(path, f"the header claims {length} bytes of a file of {file.size}")
    entries = _decode_header(path, bytes(file.bytes[8 : 8 + length]))
    _check_ranges(path, entries, file.size - 8 - length)
    return {
        name: _Tensor(file, entry.dtype, entry.shape, 8 + length + entry.data_offsets[0])
        for name, entry in entries.items()
    }


def _decode_header(path: Path, header: bytes) -> dict[str, _Entry]:
    if not header.startswith(b"{"):
        raise _malformed(path, "the header is not a JSON object")
    entries: dict[str, _Entry] = {}
    name = ""
    try:
        for name, raw in msgspec.json.decode(header, type=dict[str, msgspec.Raw]).items():
            if name == "__metadata__":
                msgspec.json.decode(raw, type=dict[str, str])
            else:
                entries[name] = msgspec.json.decode(raw, type=_Entry)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(path, f"the header is not valid near {name!a}: {error}") from error
    return entries


def _check_ranges(path: Path, entries: Mapping[str, _Entry], held: int) -> None:
    """Every tensor's range has the size of its shape, and together they tile the data exactly."""
    for name, entry in entries.items():
        begin, end = entry.data_offsets
        if entry.dtype not in _ITEM_BYTES:
            raise UnsupportedModel(
                f"the weight {name!a} has the unknown dtype {entry.dtype[:40]!a}", where=str(path)
            )
        if len(entry.shape) > MOST_DIMS or any(size < 0 for size in entry.shape):
            raise _malformed(path, f"the weight {name!a} has no possible shape")
        needed = math.prod(entry.shape) * _ITEM_BYTES[entry.dtype]
        if not 0 <= begin <= end <= held or end - begin != needed:
            raise _malformed(
                path,
                f"the weight {name!a} needs {needed} bytes and claims {begin}..{end} of {held}",
            )
    reached = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        begin, end = entry.data_offsets
        if begin != reached:
            kind = "overlaps its neighbour" if begin < reached else "leaves a hole before it"
            raise _malformed(path, f"the weight {name!a} {kind}, at byte {begin} of the data")
        reached = end
    if reached != held:
        raise _malformed(path, f"the weights fill {reached} of {held} bytes of data")


def _malformed(path: Path, reason: str) -> MalformedModelFile:
    return MalformedModelFile(reason, where=str(path), fix="fetch the file again")
