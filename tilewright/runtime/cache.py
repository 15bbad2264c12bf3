"""A content-addressed store of what is costly to make again: kernels, packed weights, plans.

    <root>/blobs/<2 hex>/<sha256 of the content>      the bytes
    <root>/keys/<2 hex>/<sha256 of the key>.json      one `Entry`: which blob a key stands for

A blob is written before the entry that names it and every file is replaced as a whole, so a crash
or a full disk leaves the old state (and at worst a blob that nobody names, which `gc` removes).
Whatever is read is hashed again: a damaged entry is dropped, noted, and made anew by the caller.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec
from filelock import FileLock, Timeout

from tilewright.dsl.errors import InvalidName, WriteFailed
from tilewright.files import private_folder, read_private_file, replace_file
from tilewright.settings import cache_folder

_LOG: Final = logging.getLogger("tilewright.cache")
_MAX_KEY: Final = 1024
_LOCK_SECONDS: Final = 60.0


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key of the cache: its text, what kind of thing it holds, and the blob's hash and size."""

    key: str
    kind: str
    blob: str
    size: int


class Cache:
    """The cache in `root`, by default the user's (`TILEWRIGHT_CACHE_DIR` overrides it).

    Processes share it freely: readers take no lock, writers and `gc` take a file lock that dies
    with its owner. Raises `UnsafeCacheFolder` and `WriteFailed`.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = private_folder(cache_folder() if root is None else root)
        self._blobs = private_folder(self.root / "blobs")
        self._keys = private_folder(self.root / "keys")
        self._notes: list[str] = []

    @property
    def notes(self) -> tuple[str, ...]:
        """What this object found damaged and dropped, one sentence each."""
        return tuple(self._notes)

    def put(self, key: str, data: bytes, *, kind: str = "blob") -> Entry:
        """Let `key` stand for `data`; an older value of `key` is replaced.

        Raises `InvalidName` for an empty, long or unprintable key and `WriteFailed`, after which
        `key` still stands for what it stood for before.
        """
        entry = Entry(key, kind, hashlib.sha256(data).hexdigest(), len(data))
        name, blob = self._name(key), self._blob_file(entry.blob)
        with self._lock():
            if read_private_file(blob) != data:
                private_folder(blob.parent)
                replace_file(blob, data, durable=False)
            private_folder(name.parent)
            replace_file(name, msgspec.json.encode(entry), durable=False)
        return entry

    def get(self, key: str) -> bytes | None:
        """What `key` stands for, None if it is absent or was damaged (then it is dropped)."""
        found = self._load(self._name(key))
        return None if found is None else found[1]

    def file(self, key: str) -> Path | None:
        """A checked file that holds what `key` stands for, to be mapped or loaded in place."""
        found = self._load(self._name(key))
        return None if found is None else self._blob_file(found[0].blob)

    def ls(self) -> tuple[Entry, ...]:
        """All entries by key. Damaged ones are dropped."""
        entries = (self._entry(name) for name in sorted(self._keys.glob("??/*.json")))
        return tuple(sorted((e for e in entries if e is not None), key=lambda e: e.key))

    def verify(self) -> tuple[str, ...]:
        """Hash everything again; drop what is damaged. Returns a sentence for each."""
        before = len(self._notes)
        for name in sorted(self._keys.glob("??/*.json")):
            self._load(name)
        return tuple(self._notes[before:])

    def gc(self, limit: int, *, keep_seconds: float = 0.0) -> int:
        """Drop the longest unused entries until at most `limit` bytes of blobs are left.

        Blobs without an entry go too; entries used within `keep_seconds` stay. Returns the number
        of bytes freed.
        """
        with self._lock():
            before = self._size()
            used = sorted(self._keys.glob("??/*.json"), key=_last_use, reverse=True)
            kept: dict[str, int] = {}
            young = time.time() - keep_seconds
            for name in used:
                entry = self._entry(name)
                if entry is None:
                    continue
                size = 0 if entry.blob in kept else entry.size
                if sum(kept.values()) + size <= limit or _last_use(name) > young:
                    kept[entry.blob] = entry.size
                else:
                    name.unlink(missing_ok=True)
            self._remove_blobs_except(kept)
            return before - self._size()

    def clear(self) -> int:
        """Drop everything. Returns the number of bytes freed."""
        with self._lock():
            before = self._size()
            for name in self._keys.glob("??/*"):
                name.unlink(missing_ok=True)
            self._remove_blobs_except({})
        return before

    def size(self) -> int:
        """Bytes held by blobs."""
        return self._size()

    def _load(self, name: Path) -> tuple[Entry, bytes] | None:
        entry = self._entry(name)
        if entry is None:
            return None
        blob = self._blob_file(entry.blob)
        data = read_private_file(blob)
        if data is None:
            return self._drop(name, f"the content of {entry.key[:80]!r} is gone")
        if hashlib.sha256(data).hexdigest() != entry.blob:
            with suppress(OSError):
                blob.unlink()
            return self._drop(name, f"the content of {entry.key[:80]!r} is damaged")
        with suppress(OSError):  # a cache that we may only read still serves
            os.utime(name)
        return entry, data

    def _entry(self, name: Path) -> Entry | None:
        data = read_private_file(name)
        if data is None:
            return None
        try:
            entry = msgspec.json.decode(data, type=Entry)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._drop(name, f"the entry {name.name} is not readable")
        if not _is_hash(entry.blob) or name.stem != _hash(entry.key):
            return self._drop(name, f"the entry {name.name} contradicts itself")
        return entry

    def _drop(self, name: Path, reason: str) -> None:
        note = f"cache: {reason}; dropped"
        self._notes.append(note)
        _LOG.warning(note)
        with suppress(OSError):
            name.unlink()

    def _name(self, key: str) -> Path:
        if not 0 < len(key) <= _MAX_KEY or not key.isprintable():
            raise InvalidName(f"{key[:80]!r} is not a cache key: 1 to {_MAX_KEY} printable letters")
        digest = _hash(key)
        return self._keys / digest[:2] / f"{digest}.json"

    def _blob_file(self, digest: str) -> Path:
        return self._blobs / digest[:2] / digest

    def _remove_blobs_except(self, kept: dict[str, int]) -> None:
        for blob in self._blobs.glob("??/*"):
            if blob.name not in kept:
                blob.unlink(missing_ok=True)

    def _size(self) -> int:
        total = 0
        for blob in self._blobs.glob("??/*"):
            with suppress(OSError):
                total += blob.lstat().st_size
        return total

    @contextmanager
    def _lock(self) -> Generator[None]:
        lock = FileLock(self.root / "lock", timeout=_LOCK_SECONDS, mode=0o600)
        try:
            lock.acquire()
        except Timeout as error:
            raise WriteFailed(
                "another process holds the cache's lock", where=str(self.root), fix="try again"
            ) from error
        except OSError as error:
            raise WriteFailed(
                f"cannot lock the cache: {error.strerror}", where=str(self.root)
            ) from error
        try:
            yield
        finally:
            lock.release()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _is_hash(text: str) -> bool:
    return len(text) == 64 and all(letter in "0123456789abcdef" for letter in text)


def _last_use(name: Path) -> float:
    try:
        return name.stat().st_mtime
    except OSError:
        return 0.0
