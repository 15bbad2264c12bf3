"""Every operation's samples, compiled for the CPU and compared with the reference."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.codegen.tvm.running import NO_WEIGHTS, compiled
from tilewright.dsl.errors import GraphError
from tilewright.dsl.graph import substitute_graph
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.op import OpDef, Sample, registry
from tilewright.dsl.program import collect
from tilewright.dsl.sampling import draw_operands, draw_symbols, sample_graph
from tilewright.dsl.tolerance import check, tolerances
from tilewright.dsl.types import TensorType
from tilewright.dsl.verify import verify
from tilewright.target.spec import parse_target

FORMATS = {"f32", "bf16", "f16", "i64", "i32", "i8", "u32", "u8", "bool"}
APART = {"fused", "encode", "fork", "cache_gather", "rollback", "append", "view"}
"""Regions, states (tested with their caches) and what is done when the artifact is made."""


def is_plain(op: OpDef, sample: Sample) -> bool:
    """Dense tensors of formats that the CPU computes with."""
    if sample.error is not None or op.is_collective or op.name in APART:
        return False
    graph = sample_graph(op.name, sample)
    types = [v.type for v in (*graph.input_values, *graph.output_values)]
    return all(
        isinstance(t, TensorType) and t.is_dense and not t.placement and t.dtype.name in FORMATS
        for t in types
    )


PLAIN = [
    (op, number, sample)
    for op in registry().values()
    for number, sample in enumerate(op.samples())
    if is_plain(op, sample)
]
CASES = [pytest.param(op, sample, id=f"{op.name}-{number}") for op, number, sample in PLAIN]


@pytest.mark.parametrize("target", ["cpu", "cpu:generic"])
@pytest.mark.parametrize(("op", "sample"), CASES)
def test_compiled_sample_equals_its_meaning(
    op: OpDef, sample: Sample, target: str, tmp_path: Path
) -> None:
    graph = sample_graph(op.name, sample)
    rng = np.random.default_rng(0)
    env = draw_symbols(graph, rng)
    try:
        verify(graph)
    except GraphError:
        # A symbol that no input binds: the kernel is compiled for its drawn value.
        graph = substitute_graph(graph, env)
    inputs: dict[str, Any] = draw_operands(sample, env, rng)
    allowed = tolerances(graph, inputs, symbols=env)
    ideal = evaluate(graph, inputs, symbols=env, checked=False, reading="ideal")
    with compiled(collect("p", [graph]), NO_WEIGHTS, tmp_path, parse_target(target)) as model:
        bound = {i.path: env[i.path] for i in graph.by_role("symbol")}
        actual = model.run(graph.name, {**inputs, **bound})
    for name, tolerance in allowed.items():
        assert check(actual[name], ideal[name], tolerance) is None, name


def test_there_is_a_sample_of_every_operation() -> None:
    tested = {op.name for op, _, _ in PLAIN}
    left = {
        op.name
        for op in registry().values()
        if not op.is_collective and op.name not in APART | {"decode"} and op.name not in tested
    }
    assert not left
