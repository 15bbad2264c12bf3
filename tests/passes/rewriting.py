"""Running passes on small graphs: what stands there afterwards, and whether it means the same."""

from collections.abc import Callable, Mapping
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from tilewright.dsl import ops as ops  # fills the registry
from tilewright.dsl.builder import Returned, TracedFunction, graph
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import f32
from tilewright.dsl.errors import BrokenClaim
from tilewright.dsl.graph import Graph, Node
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.program import Program, collect
from tilewright.dsl.sampling import draw_inputs, draw_symbols
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.tolerance import check, tolerances
from tilewright.dsl.types import TensorType
from tilewright.passes import validate
from tilewright.passes.base import Pass, PassContext
from tilewright.passes.log import Decision
from tilewright.passes.pipeline import Pipeline
from tilewright.target.spec import parse_target

ROWS = f32[dim("n", 1, 64), 3]
Expression = Callable[[Tensor], Returned]


def of_x(expression: Expression, type_: TensorType = ROWS) -> TracedFunction:
    """The graph of an expression of one input x."""

    @graph(x=type_)
    def g(x: Tensor) -> Returned:
        return expression(x)

    return g


def context() -> PassContext:
    """A context for a portable cpu, with local validation."""
    return PassContext(parse_target("cpu:generic"))


def rewritten(function: TracedFunction, *passes: Pass, ctx: PassContext | None = None) -> Graph:
    """The graph of a function after the passes; its meaning is compared with what it was."""
    before = collect("p", [function.graph()])
    after = Pipeline(passes).run(before, ctx or context())
    assert_same_meaning(before.graphs[0], after.graphs[0])
    return after.graphs[0]


def names(graph: Graph) -> list[str]:
    """The operations of a graph, in order."""
    return [node.op for node in graph.nodes]


def only(graph: Graph, op: str) -> Node:
    """The one node that applies an operation."""
    (found,) = (node for node in graph.nodes if node.op == op)
    return found


def refusals(function: TracedFunction, *passes: Pass) -> list[str]:
    """Why the last pass declined."""
    ctx = context()
    rewritten(function, *passes, ctx=ctx)
    return [d.reason for d in decisions(ctx, passes[-1]) if d.outcome == "refused"]


def decisions(ctx: PassContext, step: Pass) -> list[Decision]:
    """What a pass decided."""
    return list(ctx.log.of_rule(step.name))


def assert_same_meaning(
    before: Graph,
    after: Graph,
    inputs: Mapping[str, Any] | None = None,
    symbols: Mapping[str, int] | None = None,
    added: Mapping[str, Any] | None = None,
) -> None:
    """Fails unless `after` is within the tolerance that `before` derives, output by output.

    `added` are inputs that only the rewritten graph has.
    """
    rng = np.random.default_rng(7)
    env = dict(symbols) if symbols is not None else draw_symbols(before, rng)
    given = dict(inputs) if inputs is not None else draw_inputs(before, env, rng)
    ideal = evaluate(before, given, symbols=env, reading="ideal", checked=False)
    actual = evaluate(after, {**given, **(added or {})}, symbols=env, checked=False)
    assert actual.keys() == ideal.keys()
    for name, tolerance in tolerances(before, given, symbols=env).items():
        assert check(actual[name], ideal[name], tolerance) is None, name


def assert_caught(function: TracedFunction, *passes: Pass) -> None:
    """Fails unless local validation stops a planted fault."""
    program: Program = collect("p", [function.graph()])
    with patch.object(validate, "_CHECKED", set()), pytest.raises(BrokenClaim):
        Pipeline(passes).run(program, context())
