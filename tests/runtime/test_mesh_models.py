"""A Llama placed by a strategy, compiled for its ranks, on gloo processes: equal to one rank."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.audit import ROOT
from tests.runtime.test_mesh_slice import Weights
from tests.runtime.test_process_group import free_port
from tilewright.api import parameter_shapes
from tilewright.codegen.compiler import Options
from tilewright.codegen.ranks import compile_ranks
from tilewright.dsl.dtypes import f32
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.placement import Mesh
from tilewright.dsl.program import Program
from tilewright.models.config import LlamaConfig
from tilewright.models.llama import llama
from tilewright.passes.registry import default_pipeline
from tilewright.passes.shard import Shard
from tilewright.runtime.buffers import Array
from tilewright.target.spec import parse_target

SMALL = LlamaConfig(
    vocab_size=24,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=4,
)
BATCH, SEQ = 2, 4
RUN = """
import sys
import numpy as np
from tilewright.runtime import load

model = load(sys.argv[1], threads=1)
found = model.run("score", dict(np.load(sys.argv[2])))
np.savez(sys.argv[3], **found)
"""


def weights(of: Program) -> Weights:
    rng = np.random.default_rng(7)
    shapes = parameter_shapes(of).items()
    return Weights((path, rng.normal(0, 0.2, shape).astype(np.float32)) for path, shape in shapes)


@pytest.mark.parametrize(
    ("mesh", "hints", "backend"),
    [
        (Mesh.of(tp=2), "megatron@tp", "tvm"),
        (Mesh.of(tp=2), "sequence@tp", "reference"),
        (Mesh.of(dp=2, tp=2), "fsdp@dp megatron@tp", "reference"),
    ],
)
def test_ranks_compute_what_one_does(tmp_path: Path, mesh: Mesh, hints: str, backend: str) -> None:
    whole = llama(SMALL, BATCH, SEQ, f32, mesh).program
    stored = weights(whole)
    pipeline = default_pipeline(Shard(hints))
    options = Options(parse_target("cpu"), backend=backend, pipeline=pipeline)
    compile_ranks(whole, stored, tmp_path / "out", options)
    tokens = np.random.default_rng(1).integers(0, 24, (BATCH, SEQ)).astype(np.int32)
    made = run(tmp_path, mesh, hints, tokens)
    wanted = evaluate(whole.graphs[0], {"tokens": tokens, **stored}, reading="ideal")["logits"]
    for rank, logits in enumerate(made):
        part = cut(wanted, mesh, hints, rank)
        np.testing.assert_allclose(logits, part, rtol=1e-4, atol=1e-4, err_msg=f"rank {rank}")


def cut(x: Array, mesh: Mesh, hints: str, rank: int) -> Array:
    """The rank's part of tokens or logits: rows of the batch, positions of the sequence."""
    at = mesh.coordinates(rank)
    if "@dp" in hints:
        x = np.split(x, mesh.size("dp"), axis=0)[at["dp"]]
    if "sequence@tp" in hints:
        x = np.split(x, mesh.size("tp"), axis=1)[at["tp"]]
    return np.ascontiguousarray(x)


def run(folder: Path, mesh: Mesh, hints: str, tokens: Array) -> list[Array]:
    """The logits of every rank, from a process each."""
    common = {**os.environ, "WORLD_SIZE": str(mesh.ranks), "MASTER_ADDR": "127.0.0.1"}
    common |= {"MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    running: list[subprocess.Popen[bytes]] = []
    for rank in range(mesh.ranks):
        np.savez(folder / f"in{rank}.npz", tokens=cut(tokens, mesh, hints, rank))
        paths = [folder / "out" / f"rank{rank}", folder / f"in{rank}.npz", folder / f"y{rank}.npz"]
        command = [sys.executable, "-c", RUN, *map(str, paths)]
        numbers = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        running.append(subprocess.Popen(command, cwd=ROOT, env={**common, **numbers}))
    assert [process.wait(timeout=240) for process in running] == [0] * mesh.ranks
    return [np.load(folder / f"y{rank}.npz")["logits"] for rank in range(mesh.ranks)]
