"""Configurations of model folders, strictly read."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.models.reference import minilm
from tests.models.safetensors_files import BERT, GEMMA3, write_folder
from tilewright.dsl.errors import (
    MalformedModelFile,
    ModelConfigError,
    ModelFileNotFound,
    UnsafePath,
    UnsupportedModel,
)
from tilewright.models.config import BertConfig, Gemma3Config, SentenceConfig
from tilewright.models.importers import check_weights, open_model
from tilewright.models.importers.huggingface import BERT_UNUSED, read_config
from tilewright.models.importers.sentence import read_sentence_config


def config_of(folder: Path, values: dict[str, Any]) -> BertConfig | Gemma3Config:
    (folder / "config.json").write_text(json.dumps(values))
    return read_config(folder)


def test_the_real_sentence_model() -> None:
    model = open_model(minilm.folder())
    assert model.config == BertConfig(
        vocab_size=30522,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        max_position_embeddings=512,
        type_vocab_size=2,
        layer_norm_eps=1e-12,
    )
    assert model.config.head_dim == 32
    assert model.sentence == SentenceConfig(pooling="mean", normalize=True, max_seq_length=256)
    shapes = {
        name: model.weights.shape(name)
        for name in model.weights.names()
        if name.startswith(("encoder.", "embeddings.")) and "position_ids" not in name
    }
    assert len(shapes) == 5 + 6 * 16
    check_weights(shapes, model.weights, unused=BERT_UNUSED)


def test_the_real_tokenizer_neither_pads_nor_truncates() -> None:
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    read = open_model(minilm.folder()).tokenizer_json
    assert read is not None
    ours = Tokenizer.from_str(read())
    theirs = AutoTokenizer.from_pretrained(minilm.folder())
    for text in ("Hello", "", "a " * 300, "naïve 日本 🙂 don't"):
        assert ours.encode(text).ids == theirs(text)["input_ids"]


def test_bert_names_of_other_checkpoints(tmp_path: Path) -> None:
    stored = {
        "bert.embeddings.LayerNorm.gamma": np.ones(16, np.float32),
        "bert.embeddings.LayerNorm.beta": np.zeros(16, np.float32),
        "cls.predictions.bias": np.zeros(40, np.float32),
    }
    source = open_model(write_folder(tmp_path, tensors=stored)).weights
    expected = {"embeddings.LayerNorm.weight": (16,), "embeddings.LayerNorm.bias": (16,)}
    check_weights(expected, source, unused=BERT_UNUSED)
    assert source.read("embeddings.LayerNorm.weight").all()
    assert not source.read("embeddings.LayerNorm.bias").any()


def test_two_names_of_one_parameter(tmp_path: Path) -> None:
    twice = {f"{prefix}pooler.dense.bias": np.ones(1, np.float32) for prefix in ("", "bert.")}
    with pytest.raises(MalformedModelFile, match="are one parameter"):
        open_model(write_folder(tmp_path, tensors=twice))


def test_gemma_weights_lose_their_prefix(tmp_path: Path) -> None:
    stored = {"model.norm.weight": np.ones(32, np.float32)}
    model = open_model(write_folder(tmp_path, GEMMA3, stored))
    assert list(model.weights.names()) == ["norm.weight"]
    assert model.tokenizer_json is None
    assert model.sentence is None


def test_gemma_as_version_4_of_transformers_writes_it(tmp_path: Path) -> None:
    config = config_of(tmp_path, GEMMA3)
    assert isinstance(config, Gemma3Config)
    assert config.layer_types == (*["sliding_attention"] * 5, "full_attention", "sliding_attention")
    assert (config.rope_theta, config.rope_local_base_freq) == (1e6, 1e4)
    assert config.rope_scaling_factor == 1
    assert config.eos_token_ids == (1, 5)
    scaled = config_of(tmp_path, GEMMA3 | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}})
    assert isinstance(scaled, Gemma3Config)
    assert scaled.rope_scaling_factor == 8
    old = config_of(tmp_path, GEMMA3 | {"rope_scaling": {"type": "linear", "factor": 4}})
    assert isinstance(old, Gemma3Config)
    assert old.rope_scaling_factor == 4


def test_gemma_as_version_5_of_transformers_writes_it(tmp_path: Path) -> None:
    from transformers import Gemma3TextConfig

    given = {key: value for key, value in GEMMA3.items() if key != "model_type"}
    given |= {"rope_theta": 5e5, "rope_local_base_freq": 2e4, "sliding_window_pattern": 3}
    Gemma3TextConfig(**given).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert "rope_parameters" in written
    config = read_config(tmp_path)
    assert isinstance(config, Gemma3Config)
    assert (config.rope_theta, config.rope_local_base_freq) == (5e5, 2e4)
    assert [kind == "full_attention" for kind in config.layer_types] == [0, 0, 1, 0, 0, 1, 0]


@pytest.mark.parametrize("key", sorted(BERT.keys() - {"model_type"}))
def test_a_missing_key_of_bert_is_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(ModelConfigError, match=f"lacks the key `{key}`"):
        config_of(tmp_path, {name: value for name, value in BERT.items() if name != key})


@pytest.mark.parametrize(
    "key", sorted(GEMMA3.keys() - {"model_type", "bos_token_id", "eos_token_id"})
)
def test_a_missing_key_of_gemma_is_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(ModelConfigError, match=f"lacks the key `{key}`"):
        config_of(tmp_path, {name: value for name, value in GEMMA3.items() if name != key})


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"hidden_size": "16"}, r"hidden_size"),
        ({"hidden_size": 16.5}, r"hidden_size"),
        ({"hidden_size": True}, r"hidden_size"),
        ({"hidden_size": None}, r"hidden_size"),
        ({"hidden_size": 0}, r"`hidden_size` is 0, outside"),
        ({"hidden_size": 17}, r"not a multiple of num_attention_heads"),
        ({"num_hidden_layers": 10**9}, r"`num_hidden_layers` is 1000000000, outside"),
        ({"layer_norm_eps": 0}, r"not a positive number"),
        ({"hidden_act": "swoosh"}, r"hidden_act"),
        ({"pad_token_id": 40}, r"outside the vocabulary"),
    ],
)
def test_impossible_values(tmp_path: Path, change: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ModelConfigError, match=wrong):
        config_of(tmp_path, BERT | change)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"num_key_value_heads": 3}, r"not a multiple of num_key_value_heads"),
        ({"head_dim": 7}, r"not a multiple of the two halves"),
        ({"layer_types": ["full_attention"]}, r"1 entries for 7 layers"),
        ({"layer_types": ["half_attention"] * 7}, r"layer_types"),
        ({"sliding_window_pattern": 0}, r"`sliding_window_pattern` is 0"),
        ({"final_logit_softcapping": -1.0}, r"not a positive number"),
        ({"eos_token_id": 64}, r"outside the vocabulary"),
        ({"rope_scaling": {"rope_type": "linear"}}, r"lacks the key `factor`"),
    ],
)
def test_impossible_values_of_gemma(tmp_path: Path, change: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ModelConfigError, match=wrong):
        config_of(tmp_path, GEMMA3 | change)


@pytest.mark.parametrize(
    "values",
    [
        {"model_type": "llama"},
        BERT | {"position_embedding_type": "relative_key"},
        BERT | {"is_decoder": True},
        GEMMA3 | {"attention_bias": True},
        GEMMA3 | {"use_bidirectional_attention": True},
        GEMMA3 | {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
    ],
)
def test_models_that_are_not_supported(tmp_path: Path, values: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModel):
        config_of(tmp_path, values)


def test_files_that_are_not_json(tmp_path: Path) -> None:
    for text in (b"{", b"\xff\xfe", b'{"model_type": "bert"' * 5000):
        (tmp_path / "config.json").write_bytes(text)
        with pytest.raises(MalformedModelFile, match="not valid JSON"):
            read_config(tmp_path)
    (tmp_path / "config.json").write_bytes(b'{"x": ' + b"[" * 100000)
    with pytest.raises(MalformedModelFile):
        read_config(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ModelFileNotFound):
        read_config(tmp_path)


def test_a_broken_tokenizer_is_told_when_it_is_read(tmp_path: Path) -> None:
    (write_folder(tmp_path) / "tokenizer.json").write_bytes(b"{")
    read = open_model(tmp_path).tokenizer_json
    assert read is not None
    with pytest.raises(MalformedModelFile):
        read()


def sentence(folder: Path, path: str, last: str = "Normalize", mode: str = "cls_token") -> Path:
    kinds = ("Transformer", "Pooling", last)
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for kind in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    pooling = {f"pooling_mode_{mode}": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


def test_sentence_modules(tmp_path: Path) -> None:
    assert read_sentence_config(tmp_path) is None
    config = read_sentence_config(sentence(tmp_path, "1_Pooling"))
    assert config == SentenceConfig(pooling="cls", normalize=True)
    with pytest.raises(UnsupportedModel, match="Dense"):
        read_sentence_config(sentence(tmp_path, "1_Pooling", last="Dense"))
    with pytest.raises(UnsupportedModel, match="mean_sqrt_len"):
        read_sentence_config(sentence(tmp_path, "1_Pooling", mode="mean_sqrt_len_tokens"))
    with pytest.raises(UnsafePath):
        read_sentence_config(sentence(tmp_path, "../1_Pooling"))
