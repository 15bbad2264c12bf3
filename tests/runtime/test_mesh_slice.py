"""Matmul, all-reduce, bias and residual on two gloo processes: rewritten and not, all equal."""

from pathlib import Path

import numpy as np
import pytest

from tests.runtime.processes import run_ranks_of
from tilewright.codegen.compiler import Options
from tilewright.codegen.ranks import compile_ranks
from tilewright.dsl.builder import graph, param
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import f32
from tilewright.dsl.errors import ProcessGroupError
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.ops.collective import all_reduce
from tilewright.dsl.ops.elementwise import tanh
from tilewright.dsl.placement import Mesh, Placement, Shard
from tilewright.dsl.program import Program, program
from tilewright.dsl.tensor import Tensor
from tilewright.passes.plan import Plan
from tilewright.passes.schedule import Schedule
from tilewright.runtime import load
from tilewright.runtime.buffers import Array
from tilewright.runtime.schema import CollectiveStep, Step
from tilewright.target.spec import parse_target

ROWS = dim("n", 2, 64, multiple_of=2)
IN, OUT = 96, 64
COLUMNS = Placement.of(tp=Shard(1))
REWRITTEN = Plan.of({"split_all_reduce:*": "split", "reorder_all_gather:*": "reorder"})
RUN = """
import sys
from pathlib import Path
import numpy as np
from tilewright.runtime import load

given, folder, rank = np.load(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
found = {}
for variant in sorted(path.name for path in folder.iterdir()):
    model = load(folder / variant / f"rank{rank}", threads=1)
    for _ in range(2):
        found |= {f"{variant}.{k}": v for k, v in model.run("block", dict(given)).items()}
np.savez(sys.argv[4], **found)
"""


@graph(x=f32[ROWS, IN].with_placement(COLUMNS), r=f32[ROWS, OUT])
def block(x: Tensor, r: Tensor) -> dict[str, Tensor]:
    w = param("w", f32[OUT, IN].with_placement(COLUMNS))
    total = all_reduce(x @ w.T, "tp")
    gate = tanh(r @ param("g", f32[OUT, OUT]).T)  # needs nobody else: hides the exchange
    return {"y": total + param("b", f32[OUT]) + r, "gate": gate}


def mesh_program() -> Program:
    return program("layer", block, mesh=Mesh.of(tp=2)).program


def names(of: Program) -> tuple[str, str, str]:
    """The all-reduce, the sum with the bias and the sum with the residual."""
    (found,) = of.graphs
    reduced = next(n.result for n in found.nodes if n.op == "all_reduce")
    biased = next(n.result for n in found.nodes if reduced in n.operands)
    return reduced.name, biased.name, found.outputs[0].value.name


class Weights(dict[str, Array]):
    def read(self, name: str) -> Array:
        return self[name]


def weights() -> Weights:
    rng = np.random.default_rng(11)
    shapes = {"w": (OUT, IN), "g": (OUT, OUT), "b": (OUT,)}
    return Weights((k, rng.normal(0, 0.3, s).astype(np.float32)) for k, s in shapes.items())


def inputs(rows: int) -> dict[str, Array]:
    rng = np.random.default_rng(rows)
    found = {"x": rng.normal(size=(rows, IN)), "r": rng.normal(size=(rows, OUT))}
    return {name: array.astype(np.float32) for name, array in found.items()}


def compile_variants(folder: Path) -> None:
    whole = mesh_program()
    total, *after = names(whole)
    rows = Schedule(whole).split(total, dim=0).reorder(*after).program
    columns = Schedule(whole).split(total, dim=1).reorder(*after).program
    halves = Schedule(whole).split(total).program
    for name, of, plan, backend in (
        ("whole", whole, Plan(), "tvm"),
        ("rows", rows, Plan(), "tvm"),
        ("columns", columns, Plan(), "tvm"),
        ("halves", halves, Plan(), "reference"),
        ("planned", whole, REWRITTEN, "reference"),
    ):
        options = Options(parse_target("cpu"), backend=backend, plan=plan)
        compiled = compile_ranks(of, weights(), folder / name, options)
        steps = compiled[1].manifest.graphs[0].steps
        posts = [i for i, s in enumerate(steps) if is_post(s)]
        ops = [step.op for i in posts if isinstance(step := steps[i], CollectiveStep)]
        wanted = ["all_reduce"] if name == "whole" else ["reduce_scatter", "all_gather"]
        assert ops == wanted, name
        meanwhile = [i for i in posts if not isinstance(steps[i + 1], CollectiveStep)]
        assert meanwhile, f"{name}: nothing runs between post and wait"


def is_post(step: Step) -> bool:
    return isinstance(step, CollectiveStep) and step.phase == "post"


def test_rewritten_programs_equal_the_whole_one_on_two_processes(tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    compile_variants(artifacts)
    given = inputs(6)

    def arguments(rank: int) -> list[object]:
        half = slice(rank * IN // 2, (rank + 1) * IN // 2)
        np.savez(tmp_path / f"in{rank}.npz", x=given["x"][:, half], r=given["r"])
        return [tmp_path / f"in{rank}.npz", artifacts, rank, tmp_path / f"out{rank}.npz"]

    run_ranks_of(RUN, 2, arguments)
    wanted = evaluate(mesh_program().graphs[0], {**given, **weights()}, reading="ideal")
    for rank in range(2):
        with np.load(tmp_path / f"out{rank}.npz") as found:
            assert len(found.files) == 10
            for name in found.files:
                variant, output = name.split(".")
                np.testing.assert_allclose(found[name], wanted[output], rtol=1e-5, atol=1e-5)
                np.testing.assert_allclose(
                    found[name], found[f"whole.{output}"], rtol=1e-5, atol=1e-5, err_msg=variant
                )


def test_an_artifact_knows_its_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options(parse_target("cpu"), backend="reference")
    made = compile_ranks(mesh_program(), weights(), tmp_path, options)
    assert [each.manifest.rank for each in made] == [0, 1]
    assert made[0].manifest.mesh == [("tp", 2)]
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ProcessGroupError, match="torchrun --nproc-per-node 2"):
        load(tmp_path / "rank1")
