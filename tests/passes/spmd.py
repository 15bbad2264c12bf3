"""Random programs over a mesh, and every rewrite of communication that may apply to them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

from tilewright.dsl.builder import GraphBuilder, building
from tilewright.dsl.dtypes import f32
from tilewright.dsl.errors import TilewrightError
from tilewright.dsl.graph import Graph, Node, Output
from tilewright.dsl.ident import ident
from tilewright.dsl.ops.collective import (
    all_gather,
    all_reduce,
    all_to_all,
    reduce_scatter,
    shard_slice,
)
from tilewright.dsl.ops.elementwise import maximum, tanh
from tilewright.dsl.ops.matmul import matmul
from tilewright.dsl.ops.norm import rms_norm, softmax
from tilewright.dsl.placement import Mesh, Partial, Placement, Shard
from tilewright.dsl.program import Program, collect
from tilewright.dsl.tensor import Tensor
from tilewright.passes.chunking import sends
from tilewright.passes.editor import Editor
from tilewright.passes.overlap import around
from tilewright.passes.schedule import Schedule

MESHES = (
    Mesh.of(a=1),
    Mesh.of(a=2),
    Mesh.of(a=3),
    Mesh.of(a=4),
    Mesh.of(a=2, b=2),
    Mesh.of(a=8),
    Mesh.of(a=2, b=4),
    Mesh.of(a=2, b=2, c=2),
)
EVEN, UNEVEN = 24, (5, 7, 10)
Move = Callable[[Schedule], Schedule]


def random_program(seed: int) -> Program:
    """A dozen operations on a mesh of 1 to 8 ranks, at least two of them collectives that send;
    every third program has uneven shards.
    """
    tries = (_drawn(random.Random(f"{seed}/{attempt}"), seed) for attempt in count())
    return next(p for p in tries if sum(map(sends, p.graphs[0].nodes)) > 1)


def _drawn(draw: random.Random, seed: int) -> Program:
    mesh = MESHES[seed % len(MESHES)]
    size = draw.choice(UNEVEN) if seed % 3 == 0 else EVEN
    builder = GraphBuilder(ident("main"), mesh)
    with building(builder):
        pool = [_input(builder, draw, mesh, size, number) for number in range(3)]
        steps = 0
        while steps < 12:
            try:
                made = _step(draw, mesh, pool, builder, size)
            except TilewrightError:
                continue
            pool.append(made)
            steps += 1
        read = {o.name for node in builder.nodes for o in node.operands}
        ends = [t for t in pool if t.value.name not in read and _is_returned(t)]
        graph = builder.finish({f"y{i}": t for i, t in enumerate(ends or pool[-1:])})
    return collect("p", [graph], mesh)


def _is_returned(x: Tensor) -> bool:
    return x.value.name not in {"x0", "x1", "x2"}


def _input(builder: GraphBuilder, draw: random.Random, mesh: Mesh, size: int, n: int) -> Tensor:
    axis = draw.choice(mesh.axes)[0]
    place = draw.choice([None, Shard(0), Shard(1), Partial("sum")])
    type_ = f32[size, size]
    if place is not None:
        type_ = type_.with_placement(Placement.of(**{axis: place}))
    found = builder.add_input("input", f"x{n}", type_)
    assert isinstance(found, Tensor)
    return found


def _step(
    draw: random.Random, mesh: Mesh, pool: list[Tensor], builder: GraphBuilder, size: int
) -> Tensor:
    """One more operation on recent values; raises where it is illegal there."""
    x, y = draw.choice(pool[-4:]), draw.choice(pool[-6:])
    axis = draw.choice(mesh.axes)[0]
    if x.type.placement and draw.random() < 0.6:
        axis, place = draw.choice(x.type.placement.entries)
        match place:
            case Partial(op):
                if draw.random() < 0.7:
                    return all_reduce(x, axis, op)
                return reduce_scatter(x, axis, draw.randrange(2), op)
            case Shard(dim):
                if draw.random() < 0.8:
                    return all_gather(x, axis, dim)
                return all_to_all(x, axis, dim, 1 - dim)
            case _:
                pass
    kind = draw.randrange(10)
    match kind:
        case 0 | 1:
            return x + y
        case 2:
            return x * y
        case 3:
            return tanh(x)
        case 4:
            return shard_slice(x, axis, draw.randrange(2))
        case 5 | 6:
            return matmul(x, y, transpose_b=draw.random() < 0.5) * (1.0 / size)
        case 7:
            return rms_norm(x, _param(builder, f"n{len(builder.nodes)}", size))
        case 8:
            return softmax(x, axis=1)
        case _:
            return maximum(x, y * 0.5)


def _param(builder: GraphBuilder, name: str, size: int) -> Tensor:
    found = builder.add_input("param", name, f32[size])
    assert isinstance(found, Tensor)
    return found


@dataclass(frozen=True)
class Named:
    """A move with the words that describe it."""

    text: str
    apply: Move


def moves(program: Program) -> Iterator[Named]:
    """Every rewrite that has a name here, whether it is legal or not."""
    (graph,) = program.graphs
    editor = Editor(graph, program.mesh)
    for node in graph.nodes:
        yield from _of(node, editor)
    for output in graph.outputs:
        yield _dead(output)


def _of(node: Node, editor: Editor) -> Iterator[Named]:
    name = node.results[0].name
    if node.op == "all_reduce":
        for dim in (0, 1):
            yield Named(f"split {name} {dim}", lambda s, d=dim: s.split(name, dim=d))
    if any(made.op == "all_gather" for v in node.operands if (made := editor.producer(v))):
        yield Named(f"reorder {name}", lambda s: s.reorder(name))
    if sends(node):
        group = [n.results[0].name for n in around(node, editor)]
        for parts in (2, 3, 4):
            for dim in (0, 1):
                yield Named(
                    f"overlap {' '.join(group)} {parts} {dim}",
                    lambda s, p=parts, d=dim: s.overlap(*group, parts=p, dim=d),
                )


def _dead(output: Output) -> Named:
    return Named(f"dead {output.name}", lambda s: s.dead(output.name))


def same_outputs(before: Graph, after: Graph) -> list[str]:
    """Outputs that both graphs have."""
    kept = {o.name for o in after.outputs}
    return [o.name for o in before.outputs if o.name in kept]
