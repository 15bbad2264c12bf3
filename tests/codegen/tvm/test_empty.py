"""Arrays without elements: every family compiles for them, and writes what there is to write."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.codegen.tvm.running import NO_WEIGHTS, compiled
from tests.dsl.tracing import traced
from tilewright.dsl.dtypes import f32
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.ops.create import iota
from tilewright.dsl.ops.index import gather, scatter_add
from tilewright.dsl.ops.movement import concat
from tilewright.dsl.ops.norm import softmax
from tilewright.dsl.ops.reduce import cumsum, topk
from tilewright.dsl.program import collect
from tilewright.dsl.tensor import Tensor
from tilewright.target.spec import parse_target

CASES: dict[str, tuple[Callable[[Tensor], object], tuple[int, ...]]] = {
    "elementwise": (lambda x: x * 2.0 + 1.0, (2, 0)),
    "sum to nothing": (lambda x: x.sum(1), (0, 3)),
    "sum of nothing": (lambda x: x.sum(1), (3, 0)),
    "softmax": (lambda x: softmax(x, axis=-1), (2, 0)),
    "cumsum along": (lambda x: cumsum(x, axis=1), (2, 0)),
    "cumsum across": (lambda x: cumsum(x, axis=0), (2, 0)),
    "cumsum between": (lambda x: cumsum(x, axis=1), (2, 3, 0, 4)),
    "topk": (lambda x: topk(x, k=2, axis=1), (0, 3)),
    "concat": (lambda x: concat([x, x, x.sum(1, keepdims=True)], axis=1), (2, 0)),
    "permuted": (lambda x: x.permute_dims(1, 0) + 1.0, (2, 0)),
    "matmul to nothing": (lambda x: x @ x.permute_dims(1, 0), (0, 3)),
    "matmul of nothing": (lambda x: x @ x.permute_dims(1, 0), (3, 0)),
    "gather": (lambda x: gather(x, iota((4,)), axis=1), (0, 5)),
    "scatter": (lambda x: scatter_add(x, iota((2,)), x, axis=0), (2, 0)),
}


@pytest.mark.parametrize("name", CASES)
def test_arrays_without_elements(name: str, tmp_path: Path) -> None:
    body, shape = CASES[name]
    graph = traced(body, f32[shape])
    program, x = collect("p", [graph]), np.ones(shape, np.float32)
    (entry,) = graph.by_role("input")
    wanted = evaluate(graph, {entry.path: x})
    with compiled(program, NO_WEIGHTS, tmp_path, parse_target("cpu")) as model:
        found = model.run(graph.name, {entry.path: x})
    for output, value in wanted.items():
        np.testing.assert_array_equal(found[output], value)
