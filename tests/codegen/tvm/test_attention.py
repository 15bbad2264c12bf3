"""Attention kernels against the meaning of the operation: odd shapes, masks, groups, prologues."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.codegen.tvm.kernels import CPUS, Compiled, isa
from tests.dsl.tracing import traced
from tilewright.codegen.tvm.attention_schedule import AttentionSchedule
from tilewright.codegen.tvm.backend import TvmBackend
from tilewright.codegen.tvm.region import Argument
from tilewright.dsl.attrs import Attrs
from tilewright.dsl.dims import dim
from tilewright.dsl.dims import evaluate as evaluate_dim
from tilewright.dsl.dtypes import DType, bf16, bool_, f16, f32
from tilewright.dsl.encoding import Dense
from tilewright.dsl.errors import InvalidSchedule
from tilewright.dsl.graph import Graph, Node, extract
from tilewright.dsl.ident import Ident
from tilewright.dsl.mask import EVERYTHING, K, Mask, Q, causal, sinks, window
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.ops.attention import attention
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.types import TensorType
from tilewright.target.cpu import CpuIsa

STORED = {"f32": np.float32, "bf16": ml_dtypes.bfloat16, "f16": np.float16, "bool": np.bool_}
B, S, T = dim("b", 1, 8), dim("s", 1, 4096), dim("t", 1, 4096)
Array = NDArray[np.generic]


def region_of(graph: Graph) -> Node:
    """All nodes of a graph as one attention region."""
    outputs = [output.value for output in graph.outputs]
    body = extract(Ident("body"), graph.nodes, outputs)
    attrs = Attrs({"family": "attention", "body": body})
    return Node("fused", body.input_values, tuple(outputs), attrs)


class Kernel:
    """One region's kernel, compiled; runs on arrays in the order of the graph's inputs."""

    def __init__(
        self, graph: Graph, isa: CpuIsa, folder: Path, schedule: AttentionSchedule | None = None
    ) -> None:
        self.graph = graph
        self.region = region_of(graph)
        backend = TvmBackend(isa)
        refusal = backend.accepts(self.region)
        assert refusal is None, refusal
        lowered = backend.lower("kernel", self.region, schedule)
        self.symbols = lowered.function.symbols
        self.arguments: Sequence[Argument] = lowered.arguments
        self.compiled = Compiled([lowered.function], isa, folder, None)

    def __call__(
        self, symbols: Mapping[str, int], arrays: Sequence[Any], threads: int = 1
    ) -> list[Array]:
        """The results; an array of the wrong size would be noticed by its poisoned rest."""
        names = [entry.value.name for entry in self.graph.inputs]
        given = dict(zip(names, arrays, strict=True))
        results = [self._poisoned(output.value.tensor, symbols) for output in self.graph.outputs]
        found: list[Array] = []
        for argument in self.arguments:
            if argument.role == "y":
                found.append(results[argument.place])
                continue
            value = given[self.region.operands[argument.place].name]
            found.append(value["kv".index(argument.component)] if type(value) is tuple else value)
        self.compiled([symbols[name] for name in self.symbols], found, threads)
        return results

    def _poisoned(self, tensor: TensorType, symbols: Mapping[str, int]) -> Array:
        shape = [d if isinstance(d, int) else evaluate_dim(d, symbols) for d in tensor.shape]
        return np.full(shape, np.nan, STORED[tensor.dtype.name])
