"""The key of a compilation: equal keys mean equal artifacts, so nothing needs to be compiled again.

It covers the program's text, the options, the compiler (its version and its very sources), TVM's
version, and the content of the files that weights and tokenizer come from.
"""

from __future__ import annotations

import functools
import hashlib
import mmap
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from tilewright.codegen.space import Schedules
from tilewright.dsl.errors import ArtifactError, ModelFileNotFound
from tilewright.dsl.hashing import text_hash
from tilewright.dsl.program import Program
from tilewright.hostcpu import usable_threads
from tilewright.runtime.artifact import is_artifact, open_artifact
from tilewright.runtime.digest import digest
from tilewright.runtime.schema import Manifest
from tilewright.target.cpu import resolve
from tilewright.version import __version__

if TYPE_CHECKING:
    from tilewright.codegen.compiler import Options

KEY: Final = "key"
"""Under this name the key stands in the artifact's metadata."""


def compilation_key(program: Program, options: Options, inputs: Iterable[tuple[str, str]]) -> str:
    """The key, in hexadecimal. `inputs` are names and digests of the files that are read."""
    parts = {
        "program": text_hash(program),
        "target": str(resolve(options.target)),
        "backend": options.backend,
        "fallback": options.fallback,
        "passes": str(options.pipeline),
        "plan": list(options.plan.entries),
        "schedules": _schedules(options.schedules),
        "metadata": sorted((k, v) for k, v in options.metadata.items() if k != KEY),
        "compiler": [__version__, sources_digest()],
        "tvm": tvm_version(),
        "inputs": sorted(inputs),
    }
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def _schedules(given: Schedules) -> Sequence[object]:
    """All of them in order, with their origins: an artifact tells them."""
    return sorted((*k, sorted(p.items()), given.origin(*k)) for k, p in given.points.items())


def finished(out: Path, key: str) -> Manifest | None:
    """The manifest of the whole, undamaged artifact in `out`, if it was compiled under this key."""
    if not is_artifact(out):
        return None
    try:
        found = open_artifact(out).manifest
    except ArtifactError:
        return None
    return found if found.metadata.get(KEY) == key else None


def file_digest(path: Path) -> str:
    """The digest of a file's content. Raises ModelFileNotFound."""
    try:
        with path.open("rb") as file, ThreadPoolExecutor(usable_threads()) as threads:
            size = file.seek(0, 2)
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
            return digest(content, threads)
    except OSError as error:
        raise ModelFileNotFound(
            f"the file cannot be read: {error.strerror}", where=str(path)
        ) from error


@functools.cache
def sources_digest() -> str:
    """The digest of this package's own sources: another compiler is another key."""
    package = Path(__file__).resolve().parents[1]
    found = hashlib.sha256()
    for path in sorted((*package.rglob("*.py"), *package.rglob("*.lark"))):
        found.update(f"{path.relative_to(package).as_posix()}\0".encode())
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


@functools.cache
def tvm_version() -> str:
    """TVM's version without importing it; empty where it is not installed."""
    try:
        return version("apache-tvm")
    except PackageNotFoundError:
        return ""
