"""Weights stored as int8 codes or 2:4, through the whole compiler."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.codegen.tvm.kernels import CPUS
from tilewright.codegen.compiler import Options, compile_program
from tilewright.dsl.builder import graph, param
from tilewright.dsl.codec import decode_components, encode_array
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import bf16, f32
from tilewright.dsl.encoding import Encoding
from tilewright.dsl.program import Program, program
from tilewright.dsl.tensor import Tensor
from tilewright.passes.base import Pass
from tilewright.passes.plan import Plan
from tilewright.passes.quantize_weights import INT8, QuantizeWeights
from tilewright.passes.registry import default_pipeline
from tilewright.passes.sparsify_weights import TWO_OF_FOUR, SparsifyWeights
from tilewright.runtime.buffers import Array
from tilewright.runtime.model import load
from tilewright.runtime.schema import Manifest
from tilewright.target.spec import parse_target

WIDTH, HIDDEN = 72, 100
ROWS = dim("rows", 1, 64)
PASSES: dict[str, tuple[Pass, Encoding]] = {
    "int8": (QuantizeWeights(), INT8),
    "2:4": (SparsifyWeights(), TWO_OF_FOUR),
}


def mlp() -> Program:
    @graph(x=f32[ROWS, WIDTH])
    def mlp(x: Tensor) -> Tensor:
        hidden = x @ param("up", f32[HIDDEN, WIDTH]).T + param("bias", f32[HIDDEN])
        return (hidden * hidden) @ param("down", f32[WIDTH, HIDDEN]).T

    return program("mlp", mlp).program


class Weights(dict[str, Array]):
    """Parameters by path."""

    def read(self, name: str) -> Array:
        return self[name]


def weights(*, two_of_four: bool = False) -> Weights:
    random = np.random.default_rng(3)
    shapes = {"up": (HIDDEN, WIDTH), "down": (WIDTH, HIDDEN), "bias": (HIDDEN,)}
    found = {name: random.standard_normal(shape) for name, shape in shapes.items()}
    if two_of_four:
        for name in ("up", "down"):
            found[name][:, 1::4] = found[name][:, 2::4] = 0.0
    return Weights({name: array.astype(np.float32) for name, array in found.items()})


X = np.random.default_rng(4).standard_normal((9, WIDTH)).astype(np.float32)


def compiled(
    folder: Path,
    reader: Weights,
    *asked: Pass,
    target: str = "cpu:native",
    plan: Mapping[str, str] | None = None,
) -> tuple[Manifest, Array]:
    """The manifest, and what the artifact makes of X."""
    pipeline = default_pipeline(*asked)
    options = Options(parse_target(target), plan=Plan.of(plan or {}), pipeline=pipeline)
    manifest = compile_program(mlp(), reader, folder, options).manifest
    (y,) = load(folder, threads=2).run("mlp", {"x": X}).values()
    return manifest, y


def decoded(reader: Weights, encoding: Encoding) -> Weights:
    """The weights as the encoding keeps them."""
    found = Weights(reader)
    for name in ("up", "down"):
        type_ = f32[reader[name].shape].with_encoding(encoding)
        found[name] = decode_components(encode_array(reader[name], type_), type_)
    return found


def expected(reader: Weights) -> Array:
    wide = {name: array.astype(np.float64) for name, array in reader.items()}
    hidden = X @ wide["up"].T + wide["bias"]
    return (hidden * hidden) @ wide["down"].T


def distance(found: Array, wanted: Array) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def stored_bytes(manifest: Manifest) -> int:
    sizes = {"f32": 4, "i8": 1, "u8": 1}
    kept = (w for w in manifest.weights if w.name != "bias")
    return sum(int(np.prod(w.shape)) * sizes[w.dtype] for w in kept)


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("kind", PASSES)
def test_kernels_compute_with_the_decoded_weights(kind: str, cpu: str, tmp_path: Path) -> None:
    step, encoding = PASSES[kind]
    reader = weights()
    manifest, y = compiled(tmp_path / "a", reader, step, target=f"cpu:{cpu}")
    assert distance(y, expected(decoded(reader, encoding))) < 1e-6
    assert distance(y, expected(reader)) > 1e-3  # what is stored is not the dense matrix
    claims = {c.rule: c.claim for c in manifest.certificates}
    assert claims[step.name] == str(step.preserves)
    for name in ("up", "down"):
        error = distance(decoded(reader, encoding)[name], reader[name])
        assert manifest.errors[f"relative_l2:{name}"] == pytest.approx(error, rel=1e-6)


def test_int8_weights_take_a_quarter_and_stay_close(tmp_path: Path) -> None:
    dense, plain = compiled(tmp_path / "dense", weights())
    small, y = compiled(tmp_path / "int8", weights(), QuantizeWeights())
    # Codes lie in the same tiles as f32 would; the scales are one f32 a row.
    assert stored_bytes(small) == stored_bytes(dense) // 4 + 4 * (WIDTH + HIDDEN)
    assert {w.dtype for w in small.weights if w.name.endswith("codes")} == {"i8"}
    assert dense.errors == {}
    assert 0.001 < distance(y, plain) < 0.03


def test_weights_that_have_the_pattern_lose_nothing(tmp_path: Path) -> None:
    reader = weights(two_of_four=True)
    dense, plain = compiled(tmp_path / "dense", reader)
    sparse, y = compiled(tmp_path / "sparse", reader, SparsifyWeights())
    assert sparse.errors == {"relative_l2:up": 0.0, "relative_l2:down": 0.0}
    assert distance(y, plain) < 1e-6
    # Half the values, and a byte for each group of four; dense tiles are filled up besides.
    assert stored_bytes(sparse) == 2 * WIDTH * HIDDEN * 4 // 2 + 2 * WIDTH * HIDDEN // 4
    assert stored_bytes(sparse) < 0.6 * stored_bytes(dense)


def test_the_plan_keeps_one_weight_dense(tmp_path: Path) -> None:
    manifest, _ = compiled(
        tmp_path / "a", weights(), QuantizeWeights(), plan={"quantize_weights:down": "dense"}
    )
    assert set(manifest.errors) == {"relative_l2:up"}
    dtypes = {
        w.name.split(".")[1]: w.dtype
        for w in manifest.weights
        if "scale" not in w.name[-5:] and w.name != "bias"
    }
    assert dtypes == {"up": "i8", "down": "f32"}


def test_bf16_models_keep_int8_codes(tmp_path: Path) -> None:
    @graph(x=bf16[ROWS, WIDTH])
    def product(x: Tensor) -> Tensor:
        return x @ param("w", bf16[HIDDEN, WIDTH]).T

    reader = Weights(w=weights()["up"])
    options = Options(parse_target("cpu:native"), pipeline=default_pipeline(QuantizeWeights()))
    compile_program(program("p", product).program, reader, tmp_path / "a", options)
    x = X.astype(bf16.numpy)
    (y,) = load(tmp_path / "a", threads=1).run("product", {"x": x}).values()
    rounded = reader["w"].astype(bf16.numpy).astype(np.float32)
    type_ = f32[HIDDEN, WIDTH].with_encoding(INT8)
    wanted = x.astype(np.float64) @ decode_components(encode_array(rounded, type_), type_).T
    assert distance(y.astype(np.float64), wanted) < 2**-8
