"""The safetensors reader: right on good files, and never more than an error on bad ones."""

import json
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.models.reference import minilm
from tests.models.safetensors_files import weights, write_folder, write_raw
from tilewright.dsl.errors import (
    MalformedModelFile,
    MissingWeights,
    ModelConfigError,
    ModelFileNotFound,
    TilewrightError,
    UnsafePath,
    UnsupportedModel,
)
from tilewright.models.importers.safetensors import open_safetensors


def test_every_weight_of_the_real_model_equals_the_reference_reader() -> None:
    from safetensors.numpy import load_file

    expected = load_file(minilm.folder() / "model.safetensors")
    source = open_safetensors(minilm.folder())
    assert set(source.names()) == set(expected)
    for name, value in expected.items():
        assert source.shape(name) == value.shape
        if value.dtype == np.float32:
            read = source.read(name)
            assert read.flags.c_contiguous
            assert read.flags.aligned
            assert not read.flags.owndata, "a mapped weight is not copied"
            np.testing.assert_array_equal(read, value)


def test_shards_read_like_one_file(tmp_path: Path) -> None:
    whole = weights()
    names = sorted(whole)
    save_file({names[0]: whole[names[0]]}, tmp_path / "a.safetensors")
    save_file({name: whole[name] for name in names[1:]}, tmp_path / "b.safetensors")
    index = {name: "b.safetensors" for name in names} | {names[0]: "a.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    source = open_safetensors(tmp_path)
    assert sorted(source.names()) == names
    for name in names:
        if whole[name].dtype != np.int64:
            np.testing.assert_array_equal(source.read(name), whole[name])


def test_bfloat16_half_scalars_and_empty_weights(tmp_path: Path) -> None:
    bits = np.array([0x3F80, 0xC000, 0x0001], "<u2").tobytes()
    header = {
        "__metadata__": {"format": "pt"},
        "b": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]},
        "h": {"dtype": "F16", "shape": [], "data_offsets": [6, 8]},
        "e": {"dtype": "F32", "shape": [0, 4], "data_offsets": [8, 8]},
        "f": {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]},
    }
    data = bits + np.float16(0.5).tobytes() + np.float32(3).tobytes()
    write_raw(tmp_path / "model.safetensors", header, data)
    source = open_safetensors(tmp_path)
    assert source.read("b").dtype == ml_dtypes.bfloat16
    assert source.read("b").astype(np.float32).tolist()[:2] == [1.0, -2.0]
    assert source.read("h").shape == ()
    assert source.read("h") == 0.5
    assert source.read("e").shape == (0, 4)
    assert source.read("f").flags.aligned, "an unaligned weight is copied"


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("header", "data", "wrong"),
    [
        (b"", b"", "not a JSON object"),
        (b"[]", b"", "not a JSON object"),
        (b"{", b"", "not valid"),
        (b'{"a": \xff}', b"", "not valid"),
        (b'{"a":' * 20000, b"", "not valid"),
        ({"a": 3}, b"", "not valid near 'a'"),
        ({"a": {"dtype": "F32", "shape": [2]}}, bytes(8), "data_offsets"),
        ({"a": entry(shape=(2.5,))}, bytes(8), "not valid near 'a'"),
        ({"a": entry(shape=(-2,))}, bytes(8), "no possible shape"),
        ({"a": entry(shape=(1,) * 40)}, bytes(8), "no possible shape"),
        ({"a": entry(shape=(2**40, 2**40))}, bytes(8), "needs 4835703278458516698824704 bytes"),
        ({"a": entry(shape=(3,))}, bytes(8), "needs 12 bytes"),
        ({"a": entry(offsets=(8, 0))}, bytes(8), "claims 8..0"),
        ({"a": entry(offsets=(-8, 0))}, bytes(8), "claims -8..0"),
        ({"a": entry(offsets=(0, 8))}, bytes(7), "claims 0..8 of 7"),
        ({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12), "overlaps"),
        ({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20), "leaves a hole"),
        ({"a": entry()}, bytes(9), "fill 8 of 9"),
        ({"__metadata__": {"format": 3}}, b"", "not valid near '__metadata__'"),
    ],
)  # fmt: skip
def test_malformed_headers(tmp_path: Path, header: Any, data: bytes, wrong: str) -> None:
    path = write_raw(tmp_path / "model.safetensors", header, data)
    with pytest.raises(MalformedModelFile) as caught:
        open_safetensors(tmp_path)
    assert wrong in caught.value.message
    assert caught.value.where == str(path)


def test_a_header_longer_than_the_file(tmp_path: Path) -> None:
    for length in (3, 2**31, 2**64 - 1):
        write_raw(tmp_path / "model.safetensors", b"{}", length=length)
        with pytest.raises(MalformedModelFile, match="claims"):
            open_safetensors(tmp_path)


def test_files_too_short_for_a_header(tmp_path: Path) -> None:
    for data in (b"", b"1234567"):
        (tmp_path / "model.safetensors").write_bytes(data)
        with pytest.raises(MalformedModelFile, match=r"empty|too few"):
            open_safetensors(tmp_path)


def test_numbers_that_are_no_weights(tmp_path: Path) -> None:
    source = open_safetensors(write_folder(tmp_path))
    with pytest.raises(UnsupportedModel, match="I64"):
        source.read("embeddings.position_ids")
    with pytest.raises(MissingWeights, match="nothing"):
        source.read("nothing")
    with pytest.raises(MissingWeights, match="nothing"):
        source.shape("nothing")
    write_raw(tmp_path / "model.safetensors", {"a": entry(dtype="Q7")}, bytes(8))
    with pytest.raises(UnsupportedModel, match="Q7"):
        open_safetensors(tmp_path)


@pytest.mark.parametrize("name", ["../a.safetensors", "/etc/passwd", "", "x/../../a", "a\0b"])
def test_an_index_cannot_leave_its_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(weights(), tmp_path / "a.safetensors")
    index = {"weight_map": {"w": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UnsafePath):
        open_safetensors(folder)


def test_symbolic_links_cannot_leave_the_folder(tmp_path: Path) -> None:
    outside = write_folder(tmp_path / "outside")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(outside / "model.safetensors")
    with pytest.raises(UnsafePath, match="symbolic link"):
        open_safetensors(folder)
    (folder / "model.safetensors").unlink()
    write_folder(folder / "blobs")
    (folder / "model.safetensors").symlink_to(folder / "blobs" / "model.safetensors")
    assert open_safetensors(folder).names()


def test_bad_indices(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    save_file(weights(), tmp_path / "a.safetensors")
    cases: list[tuple[bytes, type[TilewrightError]]] = [
        (b"{", MalformedModelFile),
        (b"{}", ModelConfigError),
        (b'{"weight_map": {"w": 3}}', ModelConfigError),
        (b'{"weight_map": {"w": "absent.safetensors"}}', ModelFileNotFound),
        (b'{"weight_map": {"w": "a.safetensors"}}', MalformedModelFile),
    ]
    for text, error in cases:
        index.write_bytes(text)
        with pytest.raises(error):
            open_safetensors(tmp_path)


def test_things_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(ModelFileNotFound, match="neither"):
        open_safetensors(tmp_path)
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(ModelFileNotFound, match="not a plain file"):
        open_safetensors(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(ModelFileNotFound, match="not a plain file"):
        open_safetensors(tmp_path)
