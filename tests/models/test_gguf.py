"""GGUF files: the header against the gguf package's reader, the values against its decoders."""

import dataclasses
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize

from tests.models.gguf_files import HIDDEN, LAYERS, TOKENS, GgufSpec, tensors
from tests.models.reference import gemma
from tilewright.dsl.errors import (
    MalformedModelFile,
    MissingWeights,
    ModelConfigError,
    UnsupportedModel,
)
from tilewright.models.config import Gemma3Config
from tilewright.models.importers.gguf import open_gguf
from tilewright.models.importers.gguf_container import open_container

K = GGMLQuantizationType


def test_the_header_equals_the_packages_reader(tmp_path: Path) -> None:
    path = GgufSpec(kinds={"token_embd.weight": K.Q8_0}).write(tmp_path / "a.gguf")
    ours, theirs = open_container(path), GGUFReader(path)
    fields = {name: f for name, f in theirs.fields.items() if not name.startswith("GGUF.")}
    assert list(ours.metadata) == list(fields)
    for name, value in ours.metadata.items():
        expected = fields[name].contents()
        found = list(value) if isinstance(value, tuple | np.ndarray) else value
        assert found == expected, name
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        mine = ours.tensors[tensor.name]
        assert (mine.kind, mine.offset, mine.bytes) == (
            tensor.tensor_type,
            tensor.data_offset,
            tensor.n_bytes,
        )
        assert mine.shape == tuple(reversed(tensor.shape.tolist()))


def test_names_and_shapes_are_hugging_faces(tmp_path: Path) -> None:
    source = open_gguf(GgufSpec().write(tmp_path / "a.gguf")).weights
    assert len(source.names()) == 2 + 13 * LAYERS
    assert source.shape("embed_tokens.weight") == (len(TOKENS), HIDDEN)
    assert source.shape("layers.1.self_attn.q_proj.weight") == (64, 32)
    assert source.shape("layers.0.mlp.down_proj.weight") == (32, 64)
    with pytest.raises(MissingWeights):
        source.read("layers.2.mlp.down_proj.weight")


@pytest.mark.parametrize(
    "kind", [K.F32, K.F16, K.BF16, K.Q4_0, K.Q4_1, K.Q5_0, K.Q5_1, K.Q8_0], ids=lambda k: k.name
)
def test_every_quantization_decodes_as_the_package_does(
    tmp_path: Path, kind: GGMLQuantizationType
) -> None:
    name = "token_embd.weight"
    path = GgufSpec(kinds={name: kind}).write(tmp_path / "a.gguf")
    read = open_gguf(path).weights.read("embed_tokens.weight")
    stored = next(tensor for tensor in GGUFReader(path).tensors if tensor.name == name)
    expected = dequantize(stored.data.view(np.uint8), kind)
    np.testing.assert_array_equal(read.astype(np.float32), expected.reshape(read.shape))
    assert read.flags.c_contiguous
    assert np.abs(read.astype(np.float32) - tensors()[name]).max() < 0.5


def test_blocks_beyond_one_step_are_decoded_too(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tilewright.models.importers.gguf.BLOCKS_AT_ONCE", 7)
    path = GgufSpec(kinds={"token_embd.weight": K.Q8_0}).write(tmp_path / "a.gguf")
    read = open_gguf(path).weights.read("embed_tokens.weight")
    stored = next(t for t in GGUFReader(path).tensors if t.name == "token_embd.weight")
    np.testing.assert_array_equal(read, dequantize(stored.data, K.Q8_0))


def test_norm_weights_are_stored_with_one_added(tmp_path: Path) -> None:
    source = open_gguf(GgufSpec().write(tmp_path / "a.gguf")).weights
    stored = tensors()
    for theirs, ours in {
        "output_norm": "norm",
        "blk.1.attn_q_norm": "layers.1.self_attn.q_norm",
        "blk.0.post_ffw_norm": "layers.0.post_feedforward_layernorm",
    }.items():
        read = source.read(f"{ours}.weight")
        np.testing.assert_array_equal(read + np.float32(1), stored[f"{theirs}.weight"])
    np.testing.assert_array_equal(
        source.read("layers.0.self_attn.q_proj.weight"), stored["blk.0.attn_q.weight"]
    )


def changed(numbers: dict[str, float | None], **fields: Any) -> GgufSpec:
    spec = GgufSpec(**fields)
    return dataclasses.replace(spec, numbers=spec.numbers | numbers)


def config_of(path: Path, spec: GgufSpec) -> Gemma3Config:
    config = open_gguf(spec.write(path / "a.gguf")).config
    assert isinstance(config, Gemma3Config)
    return config


def test_optional_metadata(tmp_path: Path) -> None:
    plain = config_of(tmp_path, GgufSpec())
    assert plain.layer_types == ("sliding_attention",) * 2
    assert plain.query_pre_attn_scalar == 32
    assert plain.tie_word_embeddings
    pattern: dict[str, float | None] = {
        "attention.sliding_window_pattern": 2,
        "rope.freq_base_swa": 5e3,
        "rope.scaling.factor": 8.0,
        "final_logit_softcapping": 30.0,
    }
    scaling = {"gemma3.rope.scaling.type": "linear", "tokenizer.ggml.model": "llama"}
    full = config_of(tmp_path, changed(pattern, texts=scaling))
    assert full.layer_types == ("sliding_attention", "full_attention")
    assert (full.rope_local_base_freq, full.rope_scaling_factor) == (5e3, 8.0)
    assert full.final_logit_softcapping == 30
    untied = tensors() | {"output.weight": tensors()["token_embd.weight"]}
    assert not config_of(tmp_path, GgufSpec(tensors=untied)).tie_word_embeddings


@pytest.mark.parametrize(
    ("spec", "error", "wrong"),
    [
        (changed({"block_count": None}), ModelConfigError, r"lacks the key `gemma3.block_count`"),
        (changed({"block_count": 2.0}), ModelConfigError, r"is not an integer"),
        (changed({"block_count": 4_000_000_000}), ModelConfigError, r"outside 1\.\.1024"),
        (changed({"attention.head_count": 0}), ModelConfigError, r"num_attention_heads"),
        (changed({"attention.value_length": 16}), UnsupportedModel, r"different widths"),
        (GgufSpec(architecture="llama"), UnsupportedModel, r"architecture 'llama'"),
        (GgufSpec(texts={"gemma3.rope.scaling.type": "yarn"}), UnsupportedModel, r"yarn"),
    ],
)  # fmt: skip
def test_bad_metadata(tmp_path: Path, spec: GgufSpec, error: type[Exception], wrong: str) -> None:
    with pytest.raises(error, match=wrong):
        open_gguf(spec.write(tmp_path / "a.gguf"))


def test_names_that_are_not_gemmas_stay_to_be_reported(tmp_path: Path) -> None:
    strays = ["blk.0.mystery.weight", "blk.00.attn_q.weight", "output_norm.bias"]
    made = tensors() | {name: np.ones(32, np.float32) for name in strays}
    source = open_gguf(GgufSpec(tensors=made).write(tmp_path / "a.gguf")).weights
    assert set(strays) <= set(source.names())
    clash = tensors() | {"norm.weight": np.ones(32, np.float32)}
    with pytest.raises(MalformedModelFile, match="names of one parameter"):
        open_gguf(GgufSpec(tensors=clash).write(tmp_path / "b.gguf"))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of the writer
def test_values_that_are_not_finite(tmp_path: Path) -> None:
    made = tensors()
    made["blk.0.attn_q.weight"][3, 4] = np.nan
    path = GgufSpec(tensors=made, kinds={"blk.0.attn_q.weight": K.Q8_0}).write(tmp_path / "a.gguf")
    with pytest.raises(MalformedModelFile, match="not finite"):
        open_gguf(path).weights.read("layers.0.self_attn.q_proj.weight")


def patched(path: Path, offset: int, code: str, *values: int) -> Path:
    data = bytearray(path.read_bytes())
    struct.pack_into(code, data, offset, *values)
    path.write_bytes(data)
    return path


def test_preambles(tmp_path: Path) -> None:
    def fresh() -> Path:
        return GgufSpec().write(tmp_path / "a.gguf")

    with pytest.raises(MalformedModelFile, match="not a GGUF file"):
        open_gguf(patched(fresh(), 0, "<I", 7))
    with pytest.raises(UnsupportedModel, match="version 9"):
        open_gguf(patched(fresh(), 4, "<I", 9))
    with pytest.raises(UnsupportedModel, match="big-endian"):
        open_gguf(patched(fresh(), 4, ">I", 3))
    for offset in (8, 16):
        with pytest.raises(MalformedModelFile, match="claims"):
            open_gguf(patched(fresh(), offset, "<Q", 2**63))
    (tmp_path / "b.gguf").write_bytes(b"GGUF")
    with pytest.raises(MalformedModelFile, match="ends 4 bytes too early"):
        open_gguf(tmp_path / "b.gguf")


def test_tensors_outside_or_upon_each_other(tmp_path: Path) -> None:
    path = GgufSpec().write(tmp_path / "a.gguf")
    name = b"blk.0.attn_k.weight"
    entry = path.read_bytes().index(name) + len(name)
    kind, offset = entry + 4 + 2 * 8, entry + 4 + 2 * 8 + 4
    for wrong, place, code, value in (
        ("overlap", offset, "<Q", 0),
        ("needs", offset, "<Q", 2**62),
        ("needs", offset, "<Q", 33),
        ("needs", entry + 4, "<Q", 2**40),
        ("claims 9 dimensions", entry, "<I", 9),
        ("no multiple of blocks", kind, "<I", K.Q6_K),
    ):
        with pytest.raises(MalformedModelFile, match=wrong):
            open_gguf(patched(GgufSpec().write(path), place, code, value))
    with pytest.raises(UnsupportedModel, match="unknown type 77"):
        open_gguf(patched(GgufSpec().write(path), kind, "<I", 77))


def test_number_formats_without_a_decoder(tmp_path: Path) -> None:
    path = GgufSpec().write(tmp_path / "a.gguf")
    kind = path.read_bytes().index(b"blk.0.attn_k.weight") + 19 + 4 + 2 * 8
    with pytest.raises(UnsupportedModel, match="Q8_1 cannot be dequantized"):
        open_gguf(patched(path, kind, "<I", K.Q8_1))


def test_the_real_model() -> None:
    model = gemma.imported()
    config = model.config
    assert isinstance(config, Gemma3Config)
    assert (config.vocab_size, config.hidden_size, config.num_hidden_layers) == (262144, 640, 18)
    assert (config.num_attention_heads, config.num_key_value_heads) == (4, 1)
    assert [i for i, t in enumerate(config.layer_types) if t == "full_attention"] == [5, 11, 17]
    assert len(model.weights.names()) == 236
    for name in model.weights.names():
        if name.endswith("norm.weight"):
            read = model.weights.read(name)
            stored = np.float64(read) + 1
            assert (np.float32(stored) == stored).all(), f"{name} lost bits of 1 + w"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_real_model_equals_transformers_own_reading() -> None:
    pytest.importorskip("accelerate", reason="transformers reads GGUF with accelerate only")
    import torch
    from transformers import AutoModelForCausalLM

    path = gemma.path()
    theirs: Any = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    state = theirs.state_dict()
    weights = gemma.imported().weights
    assert {f"model.{name}" for name in weights.names()} == state.keys() - {"lm_head.weight"}
    for name in weights.names():
        np.testing.assert_array_equal(weights.read(name), state[f"model.{name}"].numpy())
    ours = gemma.config().to_dict()
    for key, value in theirs.config.to_dict().items():
        if key in ours and key not in ("dtype", "quantization_config", "_name_or_path"):
            assert ours[key] == value, key
