"""The programs of all ranks, node by node in lockstep: what `localize` makes, without processes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tilewright.dsl.graph import Graph, Value
from tilewright.dsl.held import Held, shard, unshard
from tilewright.dsl.ident import Ident
from tilewright.dsl.meaning import Evaluation
from tilewright.dsl.op import get
from tilewright.dsl.ops.exchange import Collective
from tilewright.dsl.placement import Mesh
from tilewright.dsl.program import Program
from tilewright.passes.base import PassContext
from tilewright.passes.pipeline import Pipeline
from tilewright.target.spec import parse_target


def ranks_of(program: Program, pipeline: Pipeline) -> list[Program]:
    """The program of every rank."""
    target = parse_target("cpu:generic")
    return [
        pipeline.run(program, PassContext(target, rank=rank)) for rank in range(program.mesh.ranks)
    ]


def run_lockstep(before: Graph, mesh: Mesh, graphs: list[Graph], inputs: Mapping[str, Any]) -> Any:
    """The outputs of `before` by name, put together from what the ranks' graphs make.

    inputs: global values. Fails where a rank's value is not of the shape that its type says.
    """
    values: list[dict[Ident, Any]] = [{} for _ in graphs]
    for entry in before.inputs:
        for own, x in zip(values, _spread(inputs[entry.path], entry.value, mesh), strict=True):
            own[entry.value.name] = x
    evaluation = Evaluation("ideal", checked=False)
    for nodes in zip(*(graph.nodes for graph in graphs), strict=True):
        held = [
            [own[o.name] for o in node.operands] for node, own in zip(nodes, values, strict=True)
        ]
        op = get(nodes[0].op)
        assert {node.op for node in nodes} == {op.name}
        if isinstance(op, Collective):
            assert len({node.attrs for node in nodes}) == 1
            axis = nodes[0].attrs.str("axis")
            made = [[x] for x in _exchanged(op, nodes[0].attrs, [x for (x,) in held], mesh, axis)]
        else:
            made = [list(evaluation.node(n, xs)) for n, xs in zip(nodes, held, strict=True)]
        for node, own, results in zip(nodes, values, made, strict=True):
            for result, x in zip(node.results, results, strict=True):
                assert np.shape(x) == result.tensor.shape, (node.op, result.name)
                own[result.name] = x
    found: dict[str, Any] = {}
    for index, output in enumerate(before.outputs):
        names = [graph.outputs[index].value.name for graph in graphs]
        parts: Held = [own[name] for own, name in zip(values, names, strict=True)]
        found[output.name] = unshard(parts, output.value.type, mesh)
    return found


def _spread(x: Any, value: Value, mesh: Mesh) -> Held:
    array = np.asarray(x)
    wide = array if array.dtype.kind in "biu" else array.astype(np.float64)
    return shard(wide, value.type, mesh)


def _exchanged(op: Collective, attrs: Any, held: list[Any], mesh: Mesh, axis: str) -> list[Any]:
    groups: dict[tuple[tuple[str, int], ...], list[int]] = {}
    for rank in range(mesh.ranks):
        rest = tuple((n, i) for n, i in mesh.coordinates(rank).items() if n != axis)
        groups.setdefault(rest, []).append(rank)
    result = list(held)
    for ranks in groups.values():
        for rank, x in zip(ranks, op.exchange([held[r] for r in ranks], attrs), strict=True):
            result[rank] = x
    return result
