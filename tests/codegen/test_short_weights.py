"""bf16 weights stored in 12 bits an element, through the whole compiler."""

from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tests.codegen.test_encoded_weights import Weights, distance
from tests.codegen.tvm.kernels import CPUS, isa
from tilewright.codegen.compiler import Options, compile_program
from tilewright.dsl.builder import graph, param
from tilewright.dsl.codec import decode_components, encode_array
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import bf16, f32, i32
from tilewright.dsl.encoding import SHORT
from tilewright.dsl.ops.embedding import embedding
from tilewright.dsl.ops.matmul import matmul
from tilewright.dsl.program import Program, program
from tilewright.dsl.tensor import Tensor
from tilewright.passes.pipeline import Pipeline
from tilewright.passes.plan import Plan
from tilewright.passes.registry import default_pipeline
from tilewright.passes.shorten_weights import ShortenWeights
from tilewright.runtime.buffers import Array
from tilewright.runtime.model import load
from tilewright.runtime.schema import Manifest
from tilewright.target.spec import parse_target

VOCABULARY, WIDTH, HIDDEN = 101, 38, 50
FMA = [cpu for cpu in CPUS if not isa(cpu).bf16_dot and not isa(cpu).amx_bf16]
"""Where bf16 is multiplied as f32; others read all 16 bits."""
SHORTER = Pipeline(
    tuple(
        replace(step, minimum=1, least=1) if isinstance(step, ShortenWeights) else step
        for step in default_pipeline().passes
    )
)


def decoder() -> Program:
    """Token ids to logits, with one table at both ends and a gated MLP between."""

    def logits(ids: Tensor) -> Tensor:
        table = param("table", bf16[VOCABULARY, WIDTH])
        x = embedding(table, ids)
        gate = x @ param("gate", bf16[HIDDEN, WIDTH]).T
        up = x @ param("up", bf16[HIDDEN, WIDTH]).T
        x = x + (gate * up) @ param("down", bf16[WIDTH, HIDDEN]).T
        return matmul(x, table, transpose_b=True, out_dtype=f32)

    @graph(ids=i32[dim("seq", 1, 64)])
    def prefill(ids: Tensor) -> Tensor:
        return logits(ids)

    @graph(ids=i32[1])
    def decode(ids: Tensor) -> Tensor:
        return logits(ids)

    return program("decoder", prefill, decode).program


def weights() -> Weights:
    """All but `down` within 14 binades of the largest of their rows."""
    random = np.random.default_rng(5)
    shapes = {"gate": (HIDDEN, WIDTH), "up": (HIDDEN, WIDTH), "down": (WIDTH, HIDDEN)}
    found = {"table": random.uniform(0.5, 4, (VOCABULARY, WIDTH)) * random.choice([-1, 1], WIDTH)}
    for name, shape in shapes.items():
        found[name] = random.uniform(0.02, 0.3, shape) * random.choice([-1, 1], shape)
    found["down"][:, ::3] *= 2.0**-18
    return Weights({name: array.astype(ml_dtypes.bfloat16) for name, array in found.items()})


def compiled(folder: Path, cpu: str, pipeline: Pipeline, **plan: str) -> Manifest:
    entries = {name.replace("__", ":*"): value for name, value in plan.items()}
    target = parse_target(f"cpu:{cpu}")
    options = Options(target, plan=Plan.of(entries), pipeline=pipeline, check="full")
    return compile_program(decoder(), weights(), folder, options).manifest


def kept(x: Array) -> Array:
    """The weights as 12 bits hold them."""
    type_ = bf16[x.shape].with_encoding(SHORT)
    return decode_components(encode_array(x, type_), type_)


def expected(ids: Array) -> Array:
    wide = {name: kept(array).astype(np.float64) for name, array in weights().items()}

    def rounded(x: Array) -> Array:
        return x.astype(ml_dtypes.bfloat16).astype(np.float64)

    x = wide["table"][ids]
    gate, up = (rounded(x @ wide[name].T) for name in ("gate", "up"))
    return rounded(x + rounded(rounded(gate * up) @ wide["down"].T)) @ wide["table"].T


def stored_bytes(manifest: Manifest) -> int:
    sizes = {"bf16": 2, "f32": 4, "u8": 1}
    return sum(int(np.prod(w.shape)) * sizes[w.dtype] for w in manifest.weights)


@pytest.mark.parametrize("cpu", FMA)
def test_a_decoder_with_one_table_at_both_ends(cpu: str, tmp_path: Path) -> None:
    manifest = compiled(tmp_path / "a", cpu, SHORTER)
    model = load(tmp_path / "a", threads=2)
    for name, count in (("decode", 1), *(("prefill", n) for n in (1, 3, 8, 9, 50))):
        ids = np.random.default_rng(count).integers(0, VOCABULARY, count).astype(np.int32)
        (found,) = model.run(name, {"ids": ids}).values()
        assert distance(found, expected(ids)) < 2**-8, (name, count)
    assert {w.dtype for w in manifest.weights} == {"u8", "f32"}
    assert {"codes", "low", "scale"} == {w.name.rpartition(":")[2] for w in manifest.weights}
    claims = {c.rule: c.claim for c in manifest.certificates}
    assert claims["shorten_weights"] == str(ShortenWeights().preserves)


@pytest.mark.parametrize("choice", ["tiled", "rows"])
def test_tiles_and_rows_compute_what_dense_weights_do(choice: str, tmp_path: Path) -> None:
    for name, pipeline in (("dense", default_pipeline()), ("short", SHORTER)):
        compiled(tmp_path / name, FMA[-1], pipeline, tile_weights__=choice)
    dense, short = (load(tmp_path / name, threads=2) for name in ("dense", "short"))
    for count in (1, 3, 8, 9, 50):
        ids = np.random.default_rng(count).integers(0, VOCABULARY, count).astype(np.int32)
        one, two = (next(iter(m.run("prefill", {"ids": ids}).values())) for m in (dense, short))
        assert distance(two, one) < 2**-8, count


def test_what_is_lost_is_measured(tmp_path: Path) -> None:
    manifest = compiled(tmp_path / "a", FMA[-1], SHORTER)
    lost = manifest.errors.pop("relative_l2:down")
    down = weights()["down"]
    assert 0 < lost < 2**-20
    assert lost == pytest.approx(distance(kept(down).astype(float), down.astype(float)), rel=1e-6)
    assert set(manifest.errors.values()) == {0.0}
    assert set(manifest.errors) == {"relative_l2:table", "relative_l2:gate"}


def test_a_quarter_of_the_bytes_is_saved(tmp_path: Path) -> None:
    dense = compiled(tmp_path / "dense", FMA[-1], default_pipeline(), tile_weights__="rows")
    short = compiled(tmp_path / "short", FMA[-1], SHORTER, tile_weights__="rows")
    rows = VOCABULARY + 2 * HIDDEN + WIDTH
    assert stored_bytes(short) == stored_bytes(dense) * 3 // 4 + 4 * rows
    assert dense.errors == {}


def test_the_plan_keeps_weights_dense(tmp_path: Path) -> None:
    manifest = compiled(tmp_path / "a", FMA[-1], SHORTER, shorten_weights__="dense")
    assert {w.dtype for w in manifest.weights} == {"bf16"}
