"""Artifacts: what is written is what is read, and anything else is noticed."""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.faults import FailingCalls
from tests.power import ForgetfulDisk
from tests.runtime.programs import affine, affine_weights, manifest_of, write_affine
from tilewright.dsl.errors import (
    ArtifactError,
    ArtifactNotFound,
    ArtifactVersion,
    DamagedArtifact,
    InvalidManifest,
    LinkInArtifact,
    MissingArtifactFile,
    MissingWeights,
    NotAnArtifact,
    TilewrightError,
    UnknownArtifactFile,
    UnsafePath,
    WeightShapeMismatch,
    WriteFailed,
)
from tilewright.runtime import artifact, digest, folder
from tilewright.runtime.artifact import open_artifact
from tilewright.runtime.buffers import Array, address_of
from tilewright.runtime.schema import (
    SCHEMA_VERSION,
    HostStep,
    Manifest,
    Slot,
    SymbolRecord,
    WeightRecord,
)

FILES = {"graph.tw": b"program p {\n}\n", "src/kernel.ll": b"define"}


def small(**changes: object) -> Manifest:
    plain = Manifest(
        SCHEMA_VERSION, "", {}, {"t": "1"}, [], [], [WeightRecord("w", "i8", [3])], [], []
    )
    return msgspec.structs.replace(plain, **changes)


def write_small(at: Path, files: Mapping[str, bytes] = FILES, value: int = 1) -> Manifest:
    return artifact.write(at, small(), files, {"w": np.full(3, value, np.int8)})


def content(at: Path) -> dict[str, bytes]:
    return {str(p.relative_to(at)): p.read_bytes() for p in sorted(at.rglob("*")) if p.is_file()}


def siblings(at: Path) -> list[str]:
    return sorted(p.name for p in at.parent.iterdir() if p != at)


@pytest.fixture
def at(tmp_path: Path) -> Path:
    return tmp_path / "out" / "model"


# --- what is written is read ----------------------------------------------------------------------


def test_round_trip(at: Path) -> None:
    written = write_affine(at)
    found = open_artifact(at)
    assert found.manifest == written
    assert found.text("graph.tw").startswith("program affine")
    assert set(found.weights) == {"w", "b"}
    for name, wanted in affine_weights().items():
        array = found.weights[name]
        assert np.array_equal(array, wanted)
        assert address_of(array) % 64 == 0
        assert not array.flags.writeable
    assert siblings(at) == []


def test_weights_are_readable_by_the_safetensors_package(at: Path) -> None:
    from safetensors.numpy import load_file

    write_affine(at)
    found = load_file(at / "weights.safetensors")
    assert {name: array.size for name, array in found.items()} == {"w": 16, "b": 16}
    assert np.array_equal(found["w"][:12].reshape(4, 3), affine_weights()["w"])
    assert not found["b"][3:].any()


def test_arrays_of_every_layout_are_stored_in_order(at: Path) -> None:
    base = np.arange(24, dtype=np.int8)
    arrays: dict[str, Array] = {
        "plain": base.reshape(4, 6),
        "turned": base.reshape(6, 4).T,
        "strided": base[::2],
        "empty": base[:0].reshape(0, 5),
        "scalar": base[3].reshape(()),
    }
    records = [WeightRecord(n, "i8", list(a.shape)) for n, a in arrays.items()]
    artifact.write(at, small(weights=records), {}, arrays)
    found = open_artifact(at).weights
    assert {n: a.tolist() for n, a in found.items()} == {n: a.tolist() for n, a in arrays.items()}


def test_large_strided_array_is_stored_piecewise(at: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilewright.runtime.weights._BLOCK", 1000)
    array = np.random.default_rng(1).integers(-9, 9, (64, 333)).astype(np.int8).T
    artifact.write(at, small(weights=[WeightRecord("w", "i8", [333, 64])]), {}, {"w": array})
    assert np.array_equal(open_artifact(at).weights["w"], array)


def test_same_input_gives_same_bytes(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "elsewhere" / "b"
    write_small(a)
    write_small(b, dict(reversed(FILES.items())))
    assert content(a) == content(b)


def test_files_are_copied_from_paths(at: Path, tmp_path: Path) -> None:
    big = np.random.default_rng(0).bytes((1 << 20) + 17)
    (tmp_path / "big").write_bytes(big)
    artifact.write(at, small(weights=[]), {"lib/kernels.so": tmp_path / "big"})
    assert open_artifact(at).read("lib/kernels.so") == big


@pytest.mark.parametrize("size", [0, 1, 31, 32, 33, 64, 65, 100])
def test_digest_depends_on_every_byte_of_every_chunk(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digest, "CHUNK", 32)
    data = np.random.default_rng(size).bytes(size)
    with ThreadPoolExecutor(2) as threads:
        whole = digest.digest(data, threads)
        for i in range(size):
            wrong = data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :]
            assert digest.digest(wrong, threads) != whole
        assert digest.digest(data + b"\0", threads) != whole


def test_digest_of_a_small_file_is_its_sha256() -> None:
    with ThreadPoolExecutor(1) as threads:
        assert digest.digest(b"abc", threads) == hashlib.sha256(b"abc").hexdigest()
        whole = bytes(digest.CHUNK) + b"abc"
        leaves = hashlib.sha256(bytes(digest.CHUNK)).digest() + hashlib.sha256(b"abc").digest()
        assert (
            digest.digest(whole, threads) == hashlib.sha256(b"tilewright tree" + leaves).hexdigest()
        )


# --- anything else is noticed ---------------------------------------------------------------------


def test_every_flipped_byte_is_noticed(at: Path) -> None:
    write_small(at)
    count = 0
    for file in [p for p in at.rglob("*") if p.is_file()]:
        right = file.read_bytes()
        for index in range(len(right)):
            wrong = bytearray(right)
            wrong[index] ^= 1 << index % 8
            file.write_bytes(wrong)
            with pytest.raises(ArtifactError):
                open_artifact(at)
            count += 1
        file.write_bytes(right)
    assert count == sum(map(len, content(at).values()))
    open_artifact(at)


def test_truncated_and_grown_files_are_noticed(at: Path) -> None:
    write_small(at)
    for file in [p for p in at.rglob("*") if p.is_file()]:
        right = file.read_bytes()
        for wrong in (b"", right[:-1], right[: len(right) // 2], right + b"\n", right * 2):
            file.write_bytes(wrong)
            with pytest.raises(DamagedArtifact):
                open_artifact(at)
        file.write_bytes(right)


def test_exchanged_files_are_noticed(at: Path) -> None:
    write_small(at, {"a": b"1", "b": b"2"})
    (at / "a").rename(at / "c")
    (at / "b").rename(at / "a")
    (at / "c").rename(at / "b")
    with pytest.raises(DamagedArtifact):
        open_artifact(at)


def link(at: Path, name: str) -> None:
    (at / name).rename(at.parent / name)
    (at / name).symlink_to(at.parent / name)


def remove(at: Path, name: str) -> None:
    (at / name).unlink()


def put(at: Path, name: str, data: bytes = b"") -> None:
    (at / name).write_bytes(data)


def pipe(at: Path, name: str) -> None:
    os.mkfifo(at / name)


def vanish(at: Path, _: str) -> None:
    shutil.rmtree(at)


def become_a_file(at: Path, _: str) -> None:
    shutil.rmtree(at)
    at.write_bytes(b"")


def first_format(at: Path, name: str) -> None:
    put(at, name, b'{"schema":1,"old":true}')


def next_format(at: Path, name: str) -> None:
    put(at, name, b'{"schema":%d,"new":true}' % (SCHEMA_VERSION + 1))


def nested(at: Path, name: str) -> None:
    put(at, name, b"[" * 100_000)


def no_text(at: Path, name: str) -> None:
    put(at, name, b'{"schema":%d,"\xff":0}' % SCHEMA_VERSION)


@pytest.mark.parametrize(
    ("damage", "name", "mistake"),
    [
        (remove, "graph.tw", MissingArtifactFile),
        (remove, "weights.safetensors", MissingArtifactFile),
        (remove, "manifest.json", ArtifactNotFound),
        (put, "libc.so.6", UnknownArtifactFile),
        (put, "src/more", UnknownArtifactFile),
        (link, "graph.tw", LinkInArtifact),
        (link, "src", LinkInArtifact),
        (link, "manifest.json", LinkInArtifact),
        (pipe, "pipe", LinkInArtifact),
        (vanish, "", ArtifactNotFound),
        (become_a_file, "", ArtifactNotFound),
        (first_format, "manifest.json", ArtifactVersion),
        (next_format, "manifest.json", ArtifactVersion),
        (nested, "manifest.json", DamagedArtifact),
        (no_text, "manifest.json", DamagedArtifact),
    ],
)
def test_a_wrong_folder_is_refused(
    at: Path, damage: Callable[[Path, str], None], name: str, mistake: type[TilewrightError]
) -> None:
    write_small(at)
    damage(at, name)
    with pytest.raises(mistake) as caught:
        open_artifact(at)
    assert caught.value.fix


def seal(at: Path, **changes: object) -> None:
    """Change a manifest and seal it again, as malice or a wrong compiler would."""
    manifest = msgspec.json.decode((at / "manifest.json").read_bytes(), type=Manifest)
    changed = msgspec.structs.replace(manifest, **changes)
    sealed = artifact._sealed(changed)
    (at / "manifest.json").write_bytes(artifact._encode(sealed))


@pytest.mark.parametrize(
    "name",
    ["../secret", "/etc/passwd", "a/../../b", "a//b", ".hidden", "", "a/", "a\\b", "ü", "a b",
     "x" * 200, "/".join("a" * 9), "manifest.json", "a\0b"],
)  # fmt: skip
def test_paths_that_leave_the_folder_are_refused(at: Path, name: str) -> None:
    write_small(at)
    (at.parent / "secret").write_bytes(b"")
    seal(at, files={**open_artifact(at).manifest.files, name: ""})
    with pytest.raises(UnsafePath):
        open_artifact(at)
    with pytest.raises(UnsafePath):
        artifact.write(at.parent / "new", small(), {name: b""}, {"w": np.zeros(3, np.int8)})
    assert siblings(at) == ["secret"]


HOST = HostStep("eigh", "f32", ["rows", "4", "4"], 0, [0, 1])


def broken_plans() -> Iterator[dict[str, object]]:
    whole = manifest_of(affine(), affine_weights())
    plan = whole.graphs[0]
    step = plan.steps[0]

    def changed(**fields: object) -> dict[str, object]:
        return {"graphs": [msgspec.structs.replace(plan, **fields)]}

    yield changed(slots=[Slot("weight", "absent")])
    yield changed(slots=[Slot("input", "x", "rows +")])
    yield changed(slots=[Slot("arena", "x")])
    yield changed(arena="elsewhere")
    yield changed(requires=["rows - ("])
    yield changed(symbols=["columns"])
    yield changed(bound=["offset"])
    yield changed(states=["cache"])
    yield changed(name="../x")
    yield changed(inputs=plan.inputs * 2)
    yield changed(inputs=[msgspec.structs.replace(plan.inputs[0], dtype="f31")])
    yield changed(steps=[msgspec.structs.replace(step, inputs=[99])])
    yield changed(steps=[msgspec.structs.replace(step, outputs=[-1])])
    yield changed(steps=[msgspec.structs.replace(step, region="absent.tw")])
    for fields in (
        {"function": "system"},
        {"function": "__import__"},
        {"dtype": "bf16"},
        {"shape": ["4"]},
        {"shape": ["4", "columns"]},
        {"source": 99},
        {"targets": [0]},
        {"targets": [0, -1]},
    ):
        yield changed(steps=[msgspec.structs.replace(HOST, **fields)])
    yield {"symbols": whole.symbols * 2}
    yield {"symbols": [SymbolRecord("rows", 5, 2)]}
    yield {"symbols": [SymbolRecord("1rows", 1, 2)]}
    yield {"weights": [WeightRecord("w", "f32", [-4, 3])]}
    yield {"weights": [WeightRecord("__metadata__", "f32", [4])]}
    yield {"weights": whole.weights * 2}
    yield {"tokenizer": "tokenizer.json"}
    yield {"mesh": [("x", 0)]}


@pytest.mark.parametrize("changes", list(broken_plans()))
def test_manifests_that_contradict_themselves_are_refused(
    at: Path, changes: dict[str, object]
) -> None:
    write_affine(at)
    seal(at, **changes)
    with pytest.raises(InvalidManifest):
        open_artifact(at)


def test_host_steps_of_known_functions_are_taken(at: Path) -> None:
    write_affine(at)
    plan = open_artifact(at).manifest.graphs[0]
    seal(at, graphs=[msgspec.structs.replace(plan, steps=[HOST])])
    assert open_artifact(at).manifest.graphs[0].steps == [HOST]


def test_unknown_needs_are_refused(at: Path) -> None:
    write_small(at)
    seal(at, requires=["quantum"])
    with pytest.raises(ArtifactVersion, match="quantum"):
        open_artifact(at)


def test_weights_that_are_laid_out_otherwise_are_refused(at: Path) -> None:
    write_small(at)
    seal(at, weights=[WeightRecord("w", "u8", [3])])
    with pytest.raises(DamagedArtifact):
        open_artifact(at)


# --- writing as a whole ---------------------------------------------------------------------------


def no_exchange(a: Path, b: Path) -> bool:
    return False


@pytest.mark.parametrize("exchange", [True, False])
def test_a_full_disk_leaves_the_old_artifact(
    at: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(folder, "_exchange", no_exchange)
    write_small(at)
    old = content(at)
    new = {"other": b"x" * 100, "d/e/f": b"y"}
    failed = 0
    for fail_at in range(100):
        with monkeypatch.context() as patch:
            faults = FailingCalls(patch, folder, fail_at)
            done = faults.run(lambda: write_small(at, new, value=2))
        assert siblings(at) == []
        if faults.calls <= fail_at:
            break
        failed += not done
        # A folder that is there already need not be made: that fault harms nobody.
        assert done or content(at) == old
        write_small(at)
    assert failed > 10
    assert sorted(open_artifact(at).manifest.files) == ["d/e/f", "other", "weights.safetensors"]


def test_a_full_disk_leaves_nothing_where_nothing_was(
    at: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at.parent.mkdir()
    with monkeypatch.context() as patch:
        assert not FailingCalls(patch, folder, 3).run(lambda: write_small(at))
    assert list(at.parent.iterdir()) == []


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_a_power_cut_leaves_the_old_artifact_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(folder, "_exchange", no_exchange)
    disk, cut = tmp_path / "disk", tmp_path / "cut"
    disk.mkdir()
    at, after = disk / "out" / "model", cut / "out" / "model"
    if known:
        write_small(at)
    old = content(at)
    found: list[dict[str, bytes]] = []

    def look() -> None:
        for names in ("synced", "latest"):
            forgetful.restore(cut, names)
            found.append(content(after))

    new = {"other": b"x" * 100, "d/e/f": b"y"}
    with monkeypatch.context() as patch:
        forgetful = ForgetfulDisk(patch, disk, look)
        write_small(at, new, value=2)
        written = content(at)
        # Only where folders cannot be exchanged there may be none for a moment.
        assert all(each in (old, written, {} if known and not exchange else old) for each in found)
        assert found.count(old) > 10
        found.clear()
        look()
    assert found == [written, written]
    assert open_artifact(after).manifest.files.keys() >= new.keys()


KILLED = """
import os, sys
from collections import UserDict
from pathlib import Path
from tests.runtime.test_artifact import small, FILES
from tilewright.runtime import artifact

class Dying(UserDict):
    def __getitem__(self, name):
        os._exit(9)

artifact.write(Path(sys.argv[1]), small(), FILES, Dying(w=None))
"""


def test_a_killed_writer_leaves_the_old_artifact_and_no_rubbish(
    at: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_small(at)
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", KILLED, str(at)], cwd=root, check=False)
    assert done.returncode == 9
    open_artifact(at)
    assert len(siblings(at)) == 1
    monkeypatch.setattr(folder, "_NEWBORN_SECONDS", 0.0)
    write_small(at)
    assert siblings(at) == []


def test_a_living_writer_is_left_alone(at: Path) -> None:
    write_small(at)
    with folder.replaced_folder(at) as first:
        (first / "manifest.json").write_bytes(b"{}")
        long_ago = time.time() - 100
        os.utime(first, (long_ago, long_ago))
        write_small(at, value=2)
        assert first.exists()
    assert content(at) == {"manifest.json": b"{}"}
    assert siblings(at) == []


@pytest.mark.parametrize("name", ["thesis.tex", "manifest.json"])
def test_a_folder_of_somebody_else_is_not_overwritten(at: Path, name: str) -> None:
    at.mkdir(parents=True)
    (at / name).write_bytes(b'{"manifest_version": 3}')
    with pytest.raises(NotAnArtifact):
        write_small(at)
    assert content(at) == {name: b'{"manifest_version": 3}'}
    assert siblings(at) == []


def test_an_empty_folder_and_a_damaged_artifact_are_overwritten(at: Path) -> None:
    at.mkdir(parents=True)
    write_small(at)
    (at / "graph.tw").unlink()
    write_small(at)
    open_artifact(at)


def test_a_linked_folder_stays_linked(at: Path) -> None:
    at.parent.mkdir()
    real = at.parent / "real"
    write_small(real)
    at.symlink_to(real)
    write_small(at, value=7)
    assert at.is_symlink()
    assert open_artifact(real).weights["w"].tolist() == [7, 7, 7]


@pytest.mark.parametrize(
    ("weights", "mistake"),
    [
        ({}, MissingWeights),
        ({"w": np.zeros(4, np.int8)}, WeightShapeMismatch),
        ({"w": np.zeros(3, np.uint8)}, WeightShapeMismatch),
    ],
)
def test_weights_that_do_not_fit_leave_the_old_artifact(
    at: Path, weights: dict[str, Array], mistake: type[TilewrightError]
) -> None:
    write_small(at)
    old = content(at)
    with pytest.raises(mistake):
        artifact.write(at, small(), FILES, weights)
    assert content(at) == old
    assert siblings(at) == []


def test_values_that_json_cannot_say_are_refused(at: Path) -> None:
    with pytest.raises(InvalidManifest):
        artifact.write(at, small(weights=[], errors={"gelu": float("nan")}), {})
    assert not at.exists()


def test_a_parent_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WriteFailed):
        write_small(tmp_path / "file" / "model")
