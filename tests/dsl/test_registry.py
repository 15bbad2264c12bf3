"""Every operation is complete, and means what an independent formula says."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.depth import count
from tests.dsl.formulas import FORMULAS, apply
from tilewright.dsl import ops as ops  # fills the registry
from tilewright.dsl.attrs import substitute_attrs
from tilewright.dsl.composite import Composite
from tilewright.dsl.dims import bounds, evaluate
from tilewright.dsl.errors import AttributeError_
from tilewright.dsl.graph import substitute_graph
from tilewright.dsl.meaning import evaluate as run
from tilewright.dsl.op import OpDef, Sample, checked_attrs, registry
from tilewright.dsl.ops.create import Creation
from tilewright.dsl.ops.movement import Movement
from tilewright.dsl.sampling import draw_operands, draw_symbols, sample_graph
from tilewright.dsl.types import CacheType, TensorType

OPS = registry()
OWN_TESTS = {
    "append": "test_state_ops.py",
    "cache_gather": "test_state_ops.py",
    "decode": "test_codec.py",
    "encode": "test_codec.py",
    "fork": "test_state_ops.py",
    "rollback": "test_state_ops.py",
    "dropout": "test_random.py",
    "bundle": "test_bundle.py",
    "eigh": "test_linalg.py",
    "fused": "test_registry.py",
    "grouped_matmul": "test_grouped.py",
    "qr": "test_linalg.py",
    "scan": "test_scan.py",
    "random_bits": "test_random.py",
    "uniform": "test_random.py",
    "view": "test_state_ops.py",
}
"""Operations without a formula in torch, and the test of their meaning."""
FREE = {"bundle", "cast", "gather", "append", "cache_gather", "fork", "rollback", "view"}
"""Operations besides movement and creation that do no arithmetic."""


NEVER_WRONG = {"cast", "copy", "fork"}
"""Operations that every operand suits."""


def samples(*, legal: bool) -> list[Any]:
    return list(_samples(legal))


def _samples(legal: bool) -> Iterator[Any]:
    for name, op in OPS.items():
        for index, sample in enumerate(op.samples()):
            if (sample.error is None) == legal:
                yield pytest.param(op, sample, id=f"{name}-{index}")


def dense(sample: Sample) -> bool:
    return all(isinstance(t, TensorType) and t.is_dense for t in sample.operands)


def as_float64(x: Any) -> Any:
    return x if x.dtype.kind in "biu" else x.astype(np.float64)


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_is_complete(op: OpDef) -> None:
    assert inspect.getdoc(type(op)), "an operation says what it does"
    assert type(op).__doc__, "in its own words"
    legal = [s for s in op.samples() if s.error is None]
    assert legal
    assert op.name in NEVER_WRONG or any(s.error is not None for s in op.samples())
    with pytest.raises(AttributeError_):
        checked_attrs(op, {"no_such_attribute": 1})


@pytest.mark.parametrize("name", OPS)
def test_meaning_is_tested(name: str) -> None:
    if name not in FORMULAS and not OPS[name].is_collective:
        assert name in OWN_TESTS, "write its formula, or name the test of its meaning"
        assert (Path(__file__).parent / OWN_TESTS[name]).exists()


@pytest.mark.parametrize(("op", "sample"), samples(legal=False))
def test_mistakes_are_noticed(op: OpDef, sample: Sample) -> None:
    assert sample.error is not None
    with pytest.raises(sample.error) as caught:
        sample_graph(op.name, sample)
    assert type(caught.value) is sample.error
    assert len(caught.value.message) > 10


@pytest.mark.parametrize(("op", "sample"), samples(legal=True))
def test_placement_rule_fits_the_types(op: OpDef, sample: Sample) -> None:
    a = checked_attrs(op, sample.attrs)
    out = op.infer(sample.operands, a, sample.mesh)
    if isinstance(op, Composite) or op.is_collective:
        return
    rule = op.rule(sample.operands, a)
    ranks = [t.rank if isinstance(t, TensorType) else 0 for t in sample.operands]
    assert [len(letters) for letters in rule.operands] == ranks
    for letters, type_ in zip(rule.results, out, strict=True):
        if isinstance(type_, TensorType):
            assert len(letters) == type_.rank
            named = [letter for letter in letters if letter != "1"]
            assert len(set(named)) == len(named)


@pytest.mark.parametrize(("op", "sample"), samples(legal=True))
def test_results_are_what_the_types_say(op: OpDef, sample: Sample) -> None:
    """The evaluator refuses wrong shapes; this looks at the formats that a meaning returns."""
    graph = sample_graph(op.name, sample)
    rng = np.random.default_rng(0)
    for _ in range(count(2, 20)):
        env = draw_symbols(graph, rng)
        inputs = draw_operands(sample, env, rng)
        faithful = run(graph, inputs, symbols=env)
        for output in substitute_graph(graph, env).outputs:
            type_ = output.value.type
            if isinstance(type_, TensorType) and type_.is_dense:
                assert faithful[output.name].dtype == type_.dtype.numpy
                assert faithful[output.name].shape == type_.shape
        for x in run(graph, inputs, symbols=env, reading="ideal").values():
            assert not isinstance(x, np.ndarray) or x.dtype.kind in "biu" or x.dtype == np.float64


@pytest.mark.parametrize(
    ("op", "sample"),
    [p for p in samples(legal=True) if p.values[0].name in FORMULAS and dense(p.values[1])],
)
def test_meaning_is_the_formula(op: OpDef, sample: Sample) -> None:
    """Of dense operands; encoded ones are moved in test_movement.py."""
    graph = sample_graph(op.name, sample)
    rng = np.random.default_rng(1)
    for _ in range(count(2, 50)):
        env = draw_symbols(graph, rng)
        inputs = draw_operands(sample, env, rng)
        found = run(graph, inputs, symbols=env, reading="ideal")
        a = substitute_attrs(checked_attrs(op, sample.attrs), env)
        wanted = apply(op.name, list(inputs.values()), a)
        for actual, expected in zip(found.values(), wanted, strict=True):
            assert actual.dtype == expected.dtype
            np.testing.assert_allclose(
                actual, expected, rtol=1e-12, atol=1e-13, equal_nan=True, strict=True
            )


@pytest.mark.parametrize(("op", "sample"), samples(legal=True))
def test_cost_is_counted(op: OpDef, sample: Sample) -> None:
    a = checked_attrs(op, sample.attrs)
    out = op.infer(sample.operands, a, sample.mesh)
    cost = op.cost(sample.operands, a, out)
    env = draw_symbols(sample_graph(op.name, sample), np.random.default_rng(0))
    for amount in (cost.flops, cost.bytes_read, cost.bytes_written):
        assert bounds(amount)[0] >= 0
        assert evaluate(amount, env) >= 0
    moves = isinstance(op, Movement | Creation) or op.name in FREE or op.is_collective
    empty = any(isinstance(t, TensorType) and evaluate(t.numel, env) == 0 for t in sample.operands)
    if not moves and not empty and op.name != "embedding":
        assert evaluate(cost.flops, env) > 0, "no silent zero cost"


@pytest.mark.parametrize(
    ("op", "sample"),
    [p for p in samples(legal=True) if isinstance(p.values[0], Composite)],
)
def test_composites_equal_their_bodies(op: OpDef, sample: Sample) -> None:
    assert isinstance(op, Composite)
    body = op.expand(sample.operands, checked_attrs(op, sample.attrs))
    types = op.infer(sample.operands, checked_attrs(op, sample.attrs), sample.mesh)
    assert tuple(v.type for v in body.output_values) == types
    graph = sample_graph(op.name, sample)
    rng = np.random.default_rng(2)
    env = draw_symbols(graph, rng)
    inputs = draw_operands(sample, env, rng)
    whole = list(run(graph, inputs, symbols=env).values())
    paths = [entry.path for entry in body.inputs]
    named = dict(zip(paths, inputs.values(), strict=True))
    parts = list(run(body, named, symbols=env).values())
    for left, right in zip(whole, parts, strict=True):
        if isinstance(left, np.ndarray):
            np.testing.assert_array_equal(as_float64(left), as_float64(right), strict=True)


@pytest.mark.parametrize(
    ("op", "sample"), [p for p in samples(legal=True) if p.values[0].is_collective]
)
def test_collectives_keep_the_whole_value(op: OpDef, sample: Sample) -> None:
    """Seen from all ranks at once, moving a value about does not change it."""
    if not dense(sample):
        pytest.skip("of components the same holds")
    graph = sample_graph(op.name, sample)
    rng = np.random.default_rng(3)
    env = draw_symbols(graph, rng)
    inputs = draw_operands(sample, env, rng)
    (found,) = run(graph, inputs, symbols=env).values()
    if op.name != "permute":  # which acts on what each rank holds of its own
        np.testing.assert_array_equal(as_float64(found), as_float64(inputs["x0"]), strict=True)


def test_caches_have_no_rule_letters() -> None:
    """States are not placed by letters: their operations say it themselves."""
    for op in OPS.values():
        for sample in op.samples():
            if any(isinstance(t, CacheType) for t in sample.operands):
                assert type(op).placements is not OpDef.placements
