"""Regions of a function, lowered to Triton and run in its interpreter."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tilewright.codegen.triton.backend import Schedule, TritonBackend
from tilewright.codegen.triton.emulate import emulate
from tilewright.codegen.triton.kernel import TritonKernel
from tilewright.dsl.attrs import Attrs
from tilewright.dsl.builder import TracedFunction
from tilewright.dsl.dims import Dim
from tilewright.dsl.dims import evaluate as size_of
from tilewright.dsl.graph import Graph, Node, extract
from tilewright.dsl.ident import Ident
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.program import collect
from tilewright.dsl.sampling import draw_inputs
from tilewright.dsl.tolerance import check, tolerances
from tilewright.passes.base import PassContext
from tilewright.passes.registry import default_pipeline
from tilewright.target.spec import parse_target

BACKEND = TritonBackend(parse_target("cuda:sm_90"))
Env = Mapping[str, int]


def fused(function: TracedFunction) -> Graph:
    """The graph after the pipeline for this backend; its nodes are regions and reshapes."""
    context = PassContext(BACKEND.target, backend=BACKEND)
    program = default_pipeline().run(collect("p", [function.graph()]), context)
    assert not context.prepared
    return program.graphs[0]


def whole(function: TracedFunction, family: str) -> Graph:
    """The graph with everything in one region, whatever the pipeline would make of it."""
    made = function.graph()
    body = extract(Ident("body"), made.nodes, made.output_values)
    attrs = Attrs({"family": family, "body": body})
    region = Node("fused", body.input_values, body.output_values, attrs)
    return Graph(made.name, made.inputs, (region,), made.outputs)


def regions(function: TracedFunction) -> list[Node]:
    """The regions of a function."""
    return [node for node in fused(function).nodes if node.op == "fused"]


def kernel_of(function: TracedFunction, schedule: Schedule | None = None) -> TritonKernel:
    """The only kernel of a function."""
    (region,) = regions(function)
    return BACKEND.lower("kernel", region, schedule)


def run(kernel: TritonKernel, node: Node, inputs: list[Any], env: Env, order: int | None) -> Any:
    """The results of one region; what a kernel leaves unwritten is nonsense, not zero."""
    results = [
        np.full([_number(d, env) for d in r.tensor.shape], 77).astype(r.tensor.dtype.numpy)
        for r in node.results
    ]
    given = {"x": inputs, "y": results}
    emulate(kernel, [given[a.role][a.place] for a in kernel.arguments], env, order)
    return results


def assert_right(
    function: TracedFunction,
    env: Env | None = None,
    schedule: Schedule | None = None,
    inputs: Mapping[str, Any] | None = None,
    after: Graph | None = None,
) -> None:
    """Fails unless the kernels agree with the ideal reading, in order and out of order.

    `after` is the graph of regions; by default what the pipeline makes.
    """
    env = env or {}
    before, after = function.graph(), after or fused(function)
    given = inputs or draw_inputs(before, env, np.random.default_rng(3))
    ideal = evaluate(before, given, symbols=env, reading="ideal")
    bounds = tolerances(before, given, symbols=env)
    for order in (None, 1):
        values = {i.value.name: np.ascontiguousarray(given[i.path]) for i in after.inputs}
        for node in after.nodes:
            operands = [values[o.name] for o in node.operands]
            if node.op == "reshape":
                shape = [_number(d, env) for d in node.result.tensor.shape]
                values[node.result.name] = operands[0].reshape(shape)
                continue
            assert BACKEND.accepts(node) is None
            kernel = BACKEND.lower("kernel", node, schedule)
            for result, found in zip(
                node.results, run(kernel, node, operands, env, order), strict=True
            ):
                values[result.name] = found
        for output in after.outputs:
            found = values[output.value.name]
            wrong = check(found, ideal[output.name], bounds[output.name])
            assert wrong is None, f"{output.name}: {wrong}"


def _number(size: Dim, env: Env) -> int:
    return size if isinstance(size, int) else size_of(size, env)
