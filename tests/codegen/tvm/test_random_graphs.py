"""Random graphs, compiled for the CPU through the whole pipeline, agree with the reference."""

import tempfile
from pathlib import Path

from hypothesis import given, settings

from tests.codegen.tvm.running import Arrays, compiled
from tests.codegen.tvm.test_samples import APART, FORMATS
from tests.depth import count
from tests.strategies import Case, Family, cases, is_smooth
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.op import OpDef, Sample
from tilewright.dsl.program import collect
from tilewright.dsl.tolerance import check, tolerances
from tilewright.dsl.types import TensorType
from tilewright.target.spec import parse_target


def is_compiled(op: OpDef, sample: Sample) -> bool:
    """Dense tensors of formats that the CPU computes with, without jumps in rounding."""
    plain = all(
        isinstance(t, TensorType) and t.is_dense and t.dtype.name in FORMATS
        for t in sample.operands
    )
    makes = str(sample.attrs.get("dtype", "f32")) in FORMATS
    return plain and makes and op.name not in APART and is_smooth(op, sample)


@settings(max_examples=count(8, 300))
@given(case=cases(Family(steps=8, allow=is_compiled)))
def test_compiled_random_graph_agrees_with_the_reference(case: Case) -> None:
    arrays = case.arrays(0)
    bound = {i.path: case.env[i.path] for i in case.graph.by_role("symbol")}
    inputs = {**arrays, **bound}
    program = collect("p", [case.graph])
    allowed = tolerances(case.graph, inputs, symbols=case.env)
    ideal = evaluate(case.graph, inputs, symbols=case.env, checked=False, reading="ideal")
    given_ = {i.path: arrays[i.path] for i in case.graph.by_role("input")}
    with (
        tempfile.TemporaryDirectory() as folder,
        compiled(program, Arrays(arrays), Path(folder), parse_target("cpu")) as model,
    ):
        actual = model.run(case.graph.name, {**given_, **bound})
    for name, tolerance in allowed.items():
        assert check(actual[name], ideal[name], tolerance) is None, name
