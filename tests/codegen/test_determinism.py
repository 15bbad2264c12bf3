"""The same input gives the same bytes, whatever the folder and the seed of Python's hashes."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.audit import ROOT
from tests.models.gguf_files import GgufSpec
from tests.pickles import pickles_in
from tilewright.passes.registry import default_pipeline
from tilewright.runtime import load
from tilewright.runtime.artifact import open_artifact

SOURCE = """
import sys
from pathlib import Path

import numpy as np

from tilewright.codegen.compiler import Options, compile_program
from tilewright.dsl import ops as ops
from tilewright.dsl.builder import graph, param, state
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import f32
from tilewright.dsl.ops.norm import softmax
from tilewright.dsl.program import program
from tilewright.dsl.types import CacheType
from tilewright.target.spec import parse_target

n, past = dim("n", 1, 16), dim("past", 0, 48)


@graph(x=f32[1, n, 24], past=past)
def step(x, past):
    hidden = softmax(x @ param("a", f32[24, 40]), axis=-1)
    y = (hidden @ param("b", f32[40, 16])).reshape(1, n, 1, 16)
    kept, _ = state("cache", CacheType(1, 64, 1, 16, f32)).append(y, y, at=past).view(past + n)
    return {"total": kept.sum(axis=1)}


class Weights:
    def read(self, name):
        shape = {"a": (24, 40), "b": (40, 16)}[name]
        return np.random.default_rng(ord(name)).standard_normal(shape).astype(np.float32)


out, target = sys.argv[1:]
compile_program(program("small", step).program, Weights(), Path(out), Options(parse_target(target)))
assert "torch" not in sys.modules
"""


def compiled(out: Path, target: str = "cpu", hash_seed: int = 0) -> Path:
    """The small program's artifact, made by a process of its own with an empty cache."""
    settings = {
        "PYTHONHASHSEED": str(hash_seed),
        "PYTHONPATH": str(ROOT),
        "TILEWRIGHT_CACHE_DIR": f"{out}-cache",
    }
    done = subprocess.run(
        [sys.executable, "-c", SOURCE, str(out), target],
        cwd=ROOT,
        env={**os.environ, **settings},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_two_compilations_give_the_same_bytes_and_no_pickle(tmp_path: Path) -> None:
    first = contents(compiled(tmp_path / "one", hash_seed=1))
    second = contents(compiled(tmp_path / "some" / "where else", hash_seed=2))
    assert first.keys() == second.keys()
    assert {"manifest.json", "kernels.so", "weights.safetensors", "graph.tw"} <= first.keys()
    assert [name for name in first if first[name] != second[name]] == []
    assert pickles_in(tmp_path) == []
    assert not any(str(tmp_path).encode() in data for data in first.values())


def transformer(folder: Path) -> list[str]:
    """Arguments that compile a small Gemma of bf16; its MLP's matrices are stored as int8 codes."""
    spec = GgufSpec()
    spec.numbers["block_count"] = 1
    spec.tensors = {n: t for n, t in spec.tensors.items() if not n.startswith("blk.1.")}
    model, plan = spec.write(folder / "small.gguf"), folder / "plan.json"
    plan.write_text('{"quantize_weights:*attn*": "dense", "quantize_weights:embed*": "dense"}')
    late = "split_all_reduce"
    passes = str(default_pipeline()).replace(late, f"quantize_weights,{late}", 1)
    return ["compile", str(model), "--plan", str(plan), "--passes", passes, "-o", "out"]


def command(arguments: list[str], folder: Path, seed: int) -> Path:
    """What a command in a folder of its own, with a cache of its own, writes."""
    folder.mkdir(parents=True)
    settings = {
        "PYTHONHASHSEED": str(seed),
        "PYTHONPATH": str(ROOT),
        "TILEWRIGHT_CACHE_DIR": str(folder / "cache"),
        "TMPDIR": str(folder),
    }
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tilewright.cli.main", *arguments],
        cwd=folder,
        env={**os.environ, **settings},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder / "out"


def test_the_command_compiles_a_transformer_to_the_same_bytes(tmp_path: Path) -> None:
    seeds = random.SystemRandom().sample(range(1 << 32), 2)
    print("PYTHONHASHSEED", *seeds)  # shown where the test fails
    arguments = transformer(tmp_path)
    places = [tmp_path / "one", tmp_path / "some" / "where else"]
    first, second = (
        contents(command(arguments, place, seed)) for place, seed in zip(places, seeds, strict=True)
    )
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    assert not any(str(tmp_path).encode() in data for data in first.values())
    manifest = open_artifact(places[0] / "out").manifest
    packed = {record.dtype for record in manifest.weights if len(record.shape) > 2}
    assert packed == {"bf16", "i8"}
    assert len(contents(places[0] / "cache")) > 10
    assert pickles_in(tmp_path) == []


def expected(x: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
    scores = x.astype(np.float64) @ weights["a"]
    hidden = np.exp(scores - scores.max(-1, keepdims=True))
    return (hidden / hidden.sum(-1, keepdims=True) @ weights["b"]).sum(1).reshape(1, 1, 16)


@pytest.mark.parametrize("target", ["cpu", "cpu:generic"])
def test_the_code_is_right(target: str, tmp_path: Path) -> None:
    folder = compiled(tmp_path / "small", target)
    shapes = {"a": (24, 40), "b": (40, 16)}
    weights = {n: np.random.default_rng(ord(n)).standard_normal(s) for n, s in shapes.items()}
    x = np.random.default_rng(0).standard_normal((1, 9, 24)).astype(np.float32)
    for threads in (1, 2, 3):
        with load(folder, threads=threads) as model:
            session = model.session()
            model.run("step", {"x": x[:, :4], "past": 0}, session=session)
            session.advance(4)
            found = model.run("step", {"x": x[:, 4:], "past": 4}, session=session)["total"]
        np.testing.assert_allclose(found, expected(x, weights), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(shutil.which("objdump") is None, reason="nothing to disassemble with")
def test_generic_code_has_no_wide_vectors(tmp_path: Path) -> None:
    def registers(target: str) -> set[str]:
        library = compiled(tmp_path / target.replace(":", "-"), target) / "kernels.so"
        listing = subprocess.run(
            ["objdump", "-d", str(library)], check=True, capture_output=True, text=True
        ).stdout
        return {kind for kind in ("xmm", "ymm", "zmm") if f"%{kind}" in listing}

    assert registers("cpu:generic") == {"xmm"}
    assert registers("cpu:x86-64-v3") >= {"ymm"}  # a listing in which they would be seen
