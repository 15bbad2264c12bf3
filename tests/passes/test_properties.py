"""Random graphs keep their meaning under each pass alone and under the whole pipeline."""

import time
from typing import Any

import numpy as np
from hypothesis import given, settings

from tests.depth import count
from tests.passes.rewriting import assert_same_meaning, context
from tests.strategies import Case, Family, cases, is_smooth
from tilewright.dsl.builder import active, graph, param
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import f32
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.ops.elementwise import exp, tanh
from tilewright.dsl.program import Program, collect
from tilewright.dsl.sampling import draw_inputs
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.tolerance import check, tolerances
from tilewright.passes.algebra import Algebra
from tilewright.passes.base import Pass, PassContext
from tilewright.passes.claim import Approximates, changes_answers
from tilewright.passes.dce import Dce
from tilewright.passes.expand_composites import ExpandComposites
from tilewright.passes.pipeline import Pipeline
from tilewright.passes.registry import CLASSES, REGISTRY, canonical_passes, default_pipeline
from tilewright.passes.shorten_weights import ShortenWeights

CASES = cases(Family(steps=12, allow=is_smooth))
RUNS = settings(max_examples=count(40, 2000))


def inputs_of(case: Case) -> dict[str, Any]:
    """Drawn as the case says; states and symbols as sampling draws them."""
    rng = np.random.default_rng(0)
    return {**draw_inputs(case.graph, case.env, rng), **case.arrays(0)}


def prepared(ctx: PassContext, inputs: dict[str, Any], env: dict[str, int]) -> dict[str, Any]:
    """The inputs, and the parameters that a pass asked to be prepared, by path."""
    found = dict(inputs)
    for place, recipe in ctx.prepared.items():
        found[place] = evaluate(recipe, found, symbols=env, checked=False)["out"]
    return found


def check_case(case: Case, *pipelines: Pipeline) -> None:
    """Every pipeline alone keeps the meaning of one graph."""
    inputs = inputs_of(case)
    program = collect("p", [case.graph])
    ideal = evaluate(case.graph, inputs, symbols=case.env, checked=False, reading="ideal")
    allowed = tolerances(case.graph, inputs, symbols=case.env)
    for pipeline in pipelines:
        ctx = context()
        after = pipeline.run(program, ctx)
        if after is not program:
            given = prepared(ctx, inputs, case.env)
            actual = evaluate(after.graphs[0], given, symbols=case.env, checked=False)
            for name, tolerance in allowed.items():
                assert check(actual[name], ideal[name], tolerance) is None, (str(pipeline), name)


@RUNS
@given(case=CASES)
def test_random_graph_keeps_its_meaning_under_each_pass_alone(case: Case) -> None:
    exact = (cls for cls in CLASSES if not isinstance(cls.preserves, Approximates))
    check_case(case, *(Pipeline((cls(),)) for cls in exact))


@RUNS
@given(case=CASES)
def test_random_graph_keeps_its_meaning_under_the_pipeline(case: Case) -> None:
    opened = Pipeline((ExpandComposites(), *(p for p in canonical_passes() if p.cleans_up)))
    check_case(case, default_pipeline(), opened)


@settings(RUNS, max_examples=count(20, 500))
@given(case=CASES)
def test_pipeline_is_idempotent_in_meaning_and_deterministic(case: Case) -> None:
    """Two runs print the same; a second run of the canonical passes changes no meaning."""
    program = collect("p", [case.graph])
    canonical = Pipeline(canonical_passes())
    once, again = canonical.run(program, context()), canonical.run(program, context())
    assert str(once.graphs[0]) == str(again.graphs[0])
    twice = canonical.run(once, context())
    assert_same_meaning(case.graph, twice.graphs[0], inputs_of(case), case.env)


def layers(nodes: int) -> Program:
    """A program of about that many nodes, written out in primitives."""
    rows = dim("rows", 1, 64)

    def root(x: Tensor) -> Tensor:
        return ((x**2.0).mean(-1, keepdims=True) + 1e-6) ** -0.5

    @graph(x=f32[rows, 16])
    def deep(x: Tensor) -> Tensor:
        while len(active().nodes) < nodes:
            layer = len(active().nodes)
            names = (f"layers.{layer}.{name}" for name in ("norm", "gate", "up", "down"))
            norm, gate, up, down = (
                param(name, f32[16] if name.endswith("norm") else f32[16, 16]) for name in names
            )
            h = x * root(x) * norm
            u, v = h @ gate.T, h @ up.T
            weights = exp(u - u.max(-1, keepdims=True))
            weights = weights / weights.sum(-1, keepdims=True)
            bend = 0.5 * v * (1.0 + tanh(0.7978845608 * (v + 0.044715 * v**3.0)))
            x = x * 1.0 + (weights * bend) @ down.T
        return x

    return collect("deep", [deep.graph()])


def test_ten_thousand_nodes_pass() -> None:
    """No recursion over depth, no step that looks at all nodes for each node."""
    program, ctx = layers(10_000), context()
    assert ctx.check == "local"
    reached: dict[str, Program] = {}

    def observe(step: Pass, before: Program, _: Program) -> None:
        reached.setdefault(step.stage, before)

    start = time.perf_counter()
    final = default_pipeline().run(program, ctx, [observe])
    print(f"the default pipeline over 10,000 nodes: {time.perf_counter() - start:.1f} s")
    recognised = {node.op for node in reached["semantic"].graphs[0].nodes}
    assert {"softmax", "rms_norm", "gelu_tanh", "concat"} <= recognised
    assert not {"exp", "tanh", "permute_dims"} & recognised
    kernels = [node.attrs.graph("body") for node in final.graphs[0].nodes if node.op == "fused"]
    assert len(kernels) == len(final.graphs[0].nodes) < 1500
    assert sum(len(body.nodes) for body in kernels) > 10_000


def test_long_chains_of_identities_pass() -> None:
    @graph(x=f32[4])
    def chain(x: Tensor) -> Tensor:
        for _ in range(2500):
            x = -(x * 1.0)
            x = -x.reshape(2, 2).reshape(4)
        return x

    program = collect("p", [chain.graph()])
    found = Pipeline((*canonical_passes(), Algebra(), Dce())).run(program, context())
    assert found.graphs[0].nodes == ()


def test_every_pass_states_its_law() -> None:
    for cls in CLASSES:
        assert cls.__doc__ is not None
        assert "->" in cls.__doc__, cls.name
    default = default_pipeline().passes
    inexact = [step for step in default if isinstance(step.preserves, Approximates)]
    assert inexact == [ShortenWeights()]
    assert not any(changes_answers(step.preserves) for step in default)


def test_registry_is_sorted_and_reads_what_it_prints() -> None:
    names = [cls.name for cls in CLASSES]
    assert [cls.__name__ for cls in CLASSES] == sorted(cls.__name__ for cls in CLASSES)
    assert len(set(names)) == len(names)
    assert REGISTRY.parse(str(default_pipeline())) == default_pipeline()
