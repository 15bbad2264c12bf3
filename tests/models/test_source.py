"""Weights are checked as a whole: every name that is missing, unknown or misshapen is told."""

from pathlib import Path

import pytest

from tests.models.safetensors_files import weights, write_folder
from tilewright.dsl.errors import (
    MissingWeights,
    ModelFileNotFound,
    UnexpectedWeights,
    UnsupportedModel,
    WeightShapeMismatch,
)
from tilewright.models.importers import check_weights, open_model
from tilewright.models.importers.safetensors import SafetensorsSource, open_safetensors

UNUSED = ("pooler.", "embeddings.position_ids")


@pytest.fixture
def source(tmp_path: Path) -> SafetensorsSource:
    return open_safetensors(write_folder(tmp_path))


def shapes() -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in weights().items()}


def test_what_fits_is_accepted(source: SafetensorsSource) -> None:
    check_weights(shapes(), source)
    used = {name: shape for name, shape in shapes().items() if name.endswith("weight")}
    check_weights(used, source, unused=UNUSED)


def test_all_missing_names_are_listed(source: SafetensorsSource) -> None:
    with pytest.raises(MissingWeights) as caught:
        check_weights(shapes() | {"a.weight": (1,), "b.weight": (2,)}, source)
    assert caught.value.message == "2 weights missing:\n  a.weight\n  b.weight"


def test_all_unknown_names_are_listed(source: SafetensorsSource) -> None:
    with pytest.raises(UnexpectedWeights) as caught:
        check_weights({"embeddings.LayerNorm.weight": (16,)}, source)
    for name in shapes().keys() - {"embeddings.LayerNorm.weight"}:
        assert name in caught.value.message
    with pytest.raises(UnexpectedWeights, match="1 weight unknown"):
        check_weights({"embeddings.LayerNorm.weight": (16,)}, source, unused=UNUSED)


def test_a_prefix_without_a_dot_is_a_whole_name(source: SafetensorsSource) -> None:
    with pytest.raises(UnexpectedWeights):
        check_weights(
            {k: v for k, v in shapes().items() if not k.startswith("pooler")},
            source,
            unused=("pooler",),
        )


def test_all_wrong_shapes_are_listed(source: SafetensorsSource) -> None:
    wrong = shapes() | {"pooler.dense.bias": (17,), "embeddings.LayerNorm.weight": (16, 1)}
    with pytest.raises(WeightShapeMismatch) as caught:
        check_weights(wrong, source)
    assert "pooler.dense.bias: [16], expected [17]" in caught.value.message
    assert "embeddings.LayerNorm.weight: [16], expected [16, 1]" in caught.value.message


def test_only_known_kinds_of_file_are_opened(tmp_path: Path) -> None:
    with pytest.raises(ModelFileNotFound):
        open_model(tmp_path / "absent.gguf")
    other = tmp_path / "model.bin"
    other.write_bytes(b"x")
    with pytest.raises(UnsupportedModel, match="kind of file"):
        open_model(other)
