"""Weights in huge pages: equal to mapped ones, protected alike, and only where they fit."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.programs import affine_weights, write_affine
from tilewright.dsl.errors import DamagedArtifact
from tilewright.runtime import artifact, huge_pages
from tilewright.runtime.artifact import open_artifact
from tilewright.runtime.buffers import address_of
from tilewright.runtime.model import load

PAGE = 1 << 16
SIZE = 5 * PAGE + 100

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes ordinary pages for huge ones, so that small files qualify wherever tests run."""
    monkeypatch.setattr(huge_pages, "_page_size", lambda: PAGE)
    monkeypatch.setattr(huge_pages, "_LEAST_PAGES", 0)
    monkeypatch.setattr(huge_pages, "_READ", 10_000)


@pytest.fixture
def at(tmp_path: Path) -> Path:
    write_affine(tmp_path / "model")
    return tmp_path / "model"


def read(file: Path, size: int) -> memoryview | None:
    with file.open("rb") as handle, ThreadPoolExecutor(2) as threads:
        return huge_pages.read_huge(handle.fileno(), size, threads)


def mapping(address: int) -> list[str]:
    """The words that /proc/self/maps has about the memory there."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(bound, 16) for bound in line.split()[0].split("-"))
        if begin <= address < end:
            return line.split()
    raise AssertionError(hex(address))


def is_copied(found: artifact.Artifact) -> bool:
    return not mapping(address_of(found.weights["w"]))[-1].endswith("weights.safetensors")


def test_copy_is_the_file_whole_pages_and_protected(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(SIZE)
    (tmp_path / "file").write_bytes(data)
    found = read(tmp_path / "file", SIZE)
    assert found == data
    assert found is not None
    assert found.readonly
    address = address_of(np.frombuffer(found, np.uint8))
    assert address % PAGE == 0
    assert {mapping(address)[1], mapping(address + SIZE - 1)[1]} == {"r--p"}


def test_missing_end_of_a_file_is_zero(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\1" * 15_000)
    assert read(tmp_path / "file", SIZE) == b"\1" * 15_000 + bytes(SIZE - 15_000)


def test_weights_are_equal_both_ways(at: Path) -> None:
    mapped, copied = open_artifact(at), open_artifact(at, huge_pages=True)
    for name, wanted in affine_weights().items():
        for array in (mapped.weights[name], copied.weights[name]):
            assert np.array_equal(array, wanted)
            assert address_of(array) % 64 == 0
            assert not array.flags.writeable
    assert is_copied(copied)
    assert not is_copied(mapped)


def test_damage_is_noticed_in_the_copy(at: Path) -> None:
    file = at / "weights.safetensors"
    wrong = bytearray(file.read_bytes())
    wrong[-40] ^= 1
    file.write_bytes(wrong)
    with pytest.raises(DamagedArtifact):
        open_artifact(at, huge_pages=True)


@pytest.mark.parametrize(("setting", "copied"), [(None, True), ("huge", True), ("mapped", False)])
def test_setting_decides_how_a_model_is_loaded(
    at: Path, setting: str | None, copied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TILEWRIGHT_WEIGHTS", raising=False)
    if setting is not None:
        monkeypatch.setenv("TILEWRIGHT_WEIGHTS", setting)
    with load(at, threads=1) as model:
        assert is_copied(model.artifact) == copied
        x = np.ones((2, 4), np.float32)
        (result,) = model.run("apply", {"x": x}).values()
    weights = affine_weights()
    assert np.allclose(result, x @ weights["w"] + weights["b"])


# --- only where it fits ---------------------------------------------------------------------------


def no_huge_pages() -> None:
    return None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("_page_size", no_huge_pages),
        ("_LEAST_PAGES", 6),
        ("available_memory", lambda: 2 * SIZE - 1),
    ],
)
def test_else_the_file_is_mapped(
    name: str, value: object, at: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (at.parent / "file").write_bytes(bytes(SIZE))
    monkeypatch.setattr(huge_pages, "available_memory", lambda: 2 * SIZE)
    assert read(at.parent / "file", SIZE) is not None
    monkeypatch.setattr(huge_pages, name, value)
    assert read(at.parent / "file", SIZE) is None


def test_system_that_gives_no_memory_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(10))
    assert huge_pages._huge_memory(1 << 60, PAGE) is None
