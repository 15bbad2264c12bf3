"""A Llama placed by a strategy, compiled for its ranks, on gloo processes: equal to one rank."""

from pathlib import Path

import numpy as np
import pytest

from tests.runtime.processes import run_ranks_of
from tests.runtime.test_mesh_slice import Weights
from tests.seeds.zoo import LLAMA
from tilewright.api import parameter_shapes
from tilewright.codegen.compiler import Options
from tilewright.codegen.ranks import compile_ranks
from tilewright.dsl.dtypes import f32
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.placement import Mesh
from tilewright.dsl.program import Program
from tilewright.models.llama import llama
from tilewright.passes.registry import default_pipeline
from tilewright.passes.shard import Shard
from tilewright.runtime.buffers import Array
from tilewright.target.spec import parse_target

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
    whole = llama(LLAMA, BATCH, SEQ, f32, mesh).program
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

    def arguments(rank: int) -> list[object]:
        np.savez(folder / f"in{rank}.npz", tokens=cut(tokens, mesh, hints, rank))
        return [folder / "out" / f"rank{rank}", folder / f"in{rank}.npz", folder / f"y{rank}.npz"]

    run_ranks_of(RUN, mesh.ranks, arguments)
    return [np.load(folder / f"y{rank}.npz")["logits"] for rank in range(mesh.ranks)]
