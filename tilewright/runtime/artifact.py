"""The artifact: a folder that holds a compiled program, written as a whole and checked as a whole.

    manifest.json           the records of `schema`, canonical JSON, sealed with its own digest
    weights.safetensors     see `weights`
    everything else         listed in the manifest: graph.tw, libraries, sources, the tokenizer

The same input gives the same bytes. Loading hashes every file once and refuses what the manifest
does not list, so that a damaged or half-copied artifact is noticed before anything of it runs. The
digests guard against damage, not against malice: an artifact holds native code.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec

from tilewright.dsl.errors import (
    ArtifactNotFound,
    ArtifactVersion,
    DamagedArtifact,
    InvalidManifest,
    LinkInArtifact,
    MissingArtifactFile,
    NotAnArtifact,
    UnknownArtifactFile,
)
from tilewright.hostcpu import usable_threads
from tilewright.runtime.buffers import Array
from tilewright.runtime.digest import Bytes, digest
from tilewright.runtime.folder import Content, replaced_folder, write_file
from tilewright.runtime.huge_pages import read_huge
from tilewright.runtime.manifest_check import MANIFEST_FILE, check_manifest, check_path
from tilewright.runtime.schema import SCHEMA_VERSION, Manifest
from tilewright.runtime.weights import WEIGHTS_FILE, map_weights, write_weights

_MARK: Final = b'{"schema":'
"""How every manifest of ours begins."""
_MAX_MANIFEST: Final = 1 << 28
_MAX_FILES: Final = 100_000
_AGAIN: Final = "compile the model again, or copy the whole folder again"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A checked artifact. `weights` are read-only arrays over the mapped file, or over a copy."""

    folder: Path
    manifest: Manifest
    weights: Mapping[str, Array]

    def path(self, name: str) -> Path:
        """Where a listed file lies. Raises MissingArtifactFile for one that is not listed."""
        if name not in self.manifest.files:
            raise MissingArtifactFile(f"the artifact has no file {name[:80]!r}")
        return self.folder / name

    def read(self, name: str) -> bytes:
        """The content of a listed file, checked again. Raises DamagedArtifact."""
        with ThreadPoolExecutor(1) as threads:
            return bytes(_checked(self.path(name), name, self.manifest.files[name], threads))

    def text(self, name: str) -> str:
        """The content of a listed text file."""
        return self.read(name).decode("utf-8")


def write(
    folder: Path,
    manifest: Manifest,
    files: Mapping[str, Content],
    weights: Mapping[str, Array] | None = None,
) -> Manifest:
    """Write an artifact in the place of the one that `folder` may hold. Returns the manifest.

    manifest: `files` and `digest` are filled in here; `weights` says in which order the arrays are
        stored.
    files: the bytes of each file, or a file to copy, by path inside the folder.
    weights: arrays of the manifest's dtypes and shapes; each is looked up once, when its turn
        comes, and dropped afterwards, so that a lazy mapping never holds two.

    Raises NotAnArtifact if `folder` holds something else, InvalidManifest, UnsafePath and
    MissingWeights; and WriteFailed for a full disk, after which the old artifact is intact.
    """
    names = [*files, *([WEIGHTS_FILE] if manifest.weights else [])]
    check_replaceable(folder)
    check_manifest(msgspec.structs.replace(manifest, files=dict.fromkeys(names, "")))
    with replaced_folder(folder) as staging, _threads() as threads:
        for name in sorted(files):
            write_file(staging / name, files[name])
        if manifest.weights:
            write_weights(staging / WEIGHTS_FILE, manifest.weights, weights or {})
        found = {name: digest(_content(staging / name), threads) for name in sorted(names)}
        sealed = _sealed(msgspec.structs.replace(manifest, files=found))
        write_file(staging / MANIFEST_FILE, _encode(sealed))
    return sealed


def open_artifact(folder: Path | str, *, huge_pages: bool = False) -> Artifact:
    """Check an artifact and map its weights.

    huge_pages: read them into huge pages instead, for kernels, where the system has as many.

    Raises ArtifactNotFound, ArtifactVersion, DamagedArtifact, MissingArtifactFile,
    UnknownArtifactFile, LinkInArtifact, UnsafePath and InvalidManifest.
    """
    folder = Path(os.path.abspath(folder))
    present = _present(folder)
    manifest = _read_manifest(folder)
    for name in manifest.files:
        check_path(name)
    _compare(folder, present, manifest)
    weights: Bytes = b""
    with _threads() as threads:
        for name, wanted in manifest.files.items():
            huge = huge_pages and name == WEIGHTS_FILE
            content = _checked(folder / name, name, wanted, threads, huge=huge)
            if name == WEIGHTS_FILE:
                weights = content
    check_manifest(manifest)
    found = map_weights(weights, manifest.weights) if manifest.weights else {}
    return Artifact(folder, manifest, found)


def is_artifact(folder: Path) -> bool:
    """Whether a folder looks like an artifact of ours, be it whole or damaged."""
    try:
        with (folder / MANIFEST_FILE).open("rb") as file:
            return file.read(len(_MARK)) == _MARK
    except OSError:
        return False


def check_replaceable(folder: Path) -> None:
    """Raises NotAnArtifact if `folder` holds something that `write` would not replace."""
    if not folder.exists() or is_artifact(folder):
        return
    if folder.is_dir() and not any(folder.iterdir()):
        return
    raise NotAnArtifact(
        "the output folder holds something that is no artifact",
        where=str(folder),
        fix="choose another folder, or remove this one first",
    )


def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(usable_threads())


def _encode(manifest: Manifest) -> bytes:
    return msgspec.json.encode(manifest, order="deterministic")


def _sealed(manifest: Manifest) -> Manifest:
    """The manifest with its digest. Raises InvalidManifest where its text would not say it."""
    blank = _encode(msgspec.structs.replace(manifest, digest=""))
    sealed = msgspec.structs.replace(manifest, digest=sha256(blank).hexdigest())
    try:
        msgspec.json.decode(_encode(sealed), type=Manifest)
    except msgspec.DecodeError as error:
        raise InvalidManifest(f"a value of the manifest cannot be stored: {error}") from error
    return sealed


def _read_manifest(folder: Path) -> Manifest:
    """The manifest, after its own seal has been checked."""
    file = folder / MANIFEST_FILE
    content = _content(file)
    if len(content) > _MAX_MANIFEST:
        raise _damaged(MANIFEST_FILE, folder)
    text = bytes(content)
    try:
        version = msgspec.json.decode(text, type=_Version).schema
        if version != SCHEMA_VERSION:
            raise ArtifactVersion(
                f"the artifact has format {version}, this version reads {SCHEMA_VERSION}",
                where=str(file),
                fix="compile the model again with this version",
            )
        manifest = msgspec.json.decode(text, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(MANIFEST_FILE, folder) from error
    blank = _encode(msgspec.structs.replace(manifest, digest=""))
    if sha256(blank).hexdigest() != manifest.digest or _encode(manifest) != text:
        raise _damaged(MANIFEST_FILE, folder)
    return manifest


class _Version(msgspec.Struct):
    schema: int


def _present(folder: Path) -> set[str]:
    """The files of the folder, by path inside it. Raises LinkInArtifact for anything else."""
    if not folder.is_dir():
        raise ArtifactNotFound(
            "there is no such folder", where=str(folder), fix="compile a model into it first"
        )
    found: set[str] = set()
    pending = [folder]
    while pending and len(found) <= _MAX_FILES:
        for entry in os.scandir(pending.pop()):
            if entry.is_dir(follow_symlinks=False):
                pending.append(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                found.add(Path(entry.path).relative_to(folder).as_posix())
            else:
                raise LinkInArtifact(
                    "an artifact holds a link or a special file", where=entry.path, fix=_AGAIN
                )
    if MANIFEST_FILE not in found:
        raise ArtifactNotFound(
            f"the folder holds no {MANIFEST_FILE}",
            where=str(folder),
            fix="give the folder that `tilewright compile -o` wrote",
        )
    return found - {MANIFEST_FILE}


def _compare(folder: Path, present: set[str], manifest: Manifest) -> None:
    missing = sorted(set(manifest.files) - present)
    if missing:
        raise MissingArtifactFile(f"the artifact lacks {missing[0]}", where=str(folder), fix=_AGAIN)
    unknown = sorted(present - set(manifest.files))
    if unknown:
        raise UnknownArtifactFile(
            f"the artifact's folder holds {unknown[0][:80]!r}, which is no part of it",
            where=str(folder),
            fix="remove that file: it may replace something when code is loaded",
        )


def _checked(file: Path, name: str, wanted: str, threads: Executor, *, huge: bool = False) -> Bytes:
    content = _content(file, threads if huge else None)
    if digest(content, threads) != wanted:
        raise _damaged(name, file.parent)
    return content


def _damaged(name: str, folder: Path) -> DamagedArtifact:
    return DamagedArtifact(
        f"{name} is not what was written: it is damaged or truncated",
        where=str(folder),
        fix=_AGAIN,
    )


def _content(file: Path, huge: Executor | None = None) -> Bytes:
    """A plain file's content, mapped; with threads to read it, in huge pages where possible.

    Raises LinkInArtifact and MissingArtifactFile.
    """
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(file, error) from error
    try:
        state = os.fstat(handle)
        if not stat.S_ISREG(state.st_mode):
            raise LinkInArtifact("this is no plain file", where=str(file), fix=_AGAIN)
        if state.st_size == 0:
            return b""
        copy = None if huge is None else read_huge(handle, state.st_size, huge)
        return mmap.mmap(handle, 0, access=mmap.ACCESS_READ) if copy is None else copy
    except OSError as error:
        raise _unreadable(file, error) from error
    finally:
        os.close(handle)


def _unreadable(file: Path, error: OSError) -> MissingArtifactFile:
    return MissingArtifactFile(
        f"the file cannot be read: {error.strerror}", where=str(file), fix=_AGAIN
    )
