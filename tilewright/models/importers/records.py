"""JSON files of others, decoded into records with declared fields."""

from __future__ import annotations

from pathlib import Path
from typing import Final, TypeVar

import msgspec

from tilewright.dsl.errors import MalformedModelFile, ModelConfigError
from tilewright.models.importers.mapped import read_small

LARGEST_CONFIG: Final = 16 << 20

_Record = TypeVar("_Record")


def read_record(path: Path, record: type[_Record], most: int = LARGEST_CONFIG) -> _Record:
    """The JSON file at `path` as a `record`; unknown keys are ignored.

    Raises:
        ModelFileNotFound: There is no such plain file.
        MalformedModelFile: It is larger than `most` bytes, or not JSON.
        ModelConfigError: A key is missing or holds a value of another type; the message names it.
    """
    try:
        return msgspec.json.decode(read_small(path, most), type=record)
    except msgspec.ValidationError as error:
        reason = str(error).replace("Object missing required field", "it lacks the key")
        raise ModelConfigError(
            f"the configuration cannot be used: {reason}",
            where=str(path),
            fix="complete or correct the key that is named",
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedModelFile(
            f"not valid JSON: {error}", where=str(path), fix="fetch the file again"
        ) from error
