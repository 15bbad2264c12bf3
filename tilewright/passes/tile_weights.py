"""The stored layout of matmul weights, one for all consumers in all graphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tilewright.dsl.attrs import Attrs
from tilewright.dsl.encoding import Dense, Tiled
from tilewright.dsl.graph import Graph, Input, Node, Value
from tilewright.dsl.ident import Ident
from tilewright.dsl.program import Program
from tilewright.dsl.types import TensorType
from tilewright.passes.base import Pass, PassContext, Stage
from tilewright.passes.claim import EXACT, Claim
from tilewright.passes.prepare_params import PrepareParams


@dataclass(frozen=True, slots=True)
class TileWeights(Pass):
    """w -> decode(p), where p = encode(w, tiled), for a parameter w [n, k] that some matmul reads

    if the backend names tiles for it and every reader can read tiles (a matmul as its transposed
    right operand, a gather of rows). Exact: tiling moves elements. The stored layout is a choice of
    the program, `tile_weights:<path>`, with options `tiled` and `rows`.
    """

    name: ClassVar[str] = "tile_weights"
    stage: ClassVar[Stage] = "semantic"
    preserves: ClassVar[Claim] = EXACT

    def run(self, program: Program, ctx: PassContext) -> Program:
        if ctx.backend is None:
            return program
        chosen: dict[str, Tiled] = {}
        for declared in program.params:
            tiles = _tiles(program, declared.path, declared.type, ctx)
            if tiles is not None:
                chosen[declared.path] = tiles
        if not chosen:
            return program
        graphs = [_rewrite(graph, chosen) for graph in program.graphs]
        return PrepareParams().run(program.with_graphs(graphs), ctx)


def _tiles(program: Program, path: str, type_: object, ctx: PassContext) -> Tiled | None:
    if not isinstance(type_, TensorType) or type_.rank != 2 or ctx.backend is None:
        return None
    readers = [r for graph in program.graphs for r in _readers(graph, path)]
    if not any(node.op == "matmul" for node, _ in readers):
        return None
    bad = next((node.op for node, place in readers if not _reads_tiles(node, place)), None)
    if bad is not None:
        ctx.log.refused("tile_weights", program.name, path, f"{bad} reads it row by row")
        return None
    tiles = ctx.backend.weight_tiles(type_)
    if tiles is None:
        ctx.log.refused("tile_weights", program.name, path, "the backend streams it row by row")
        return None
    if ctx.choose(f"tile_weights:{path}", ("tiled", "rows"), "tiled") == "rows":
        ctx.log.refused("tile_weights", program.name, path, "the plan keeps rows")
        return None
    ctx.log.fired("tile_weights", program.name, path, f"stored as {tiles}")
    return tiles


def _readers(graph: Graph, path: str) -> Sequence[tuple[Node, int]]:
    """Who reads a parameter, and as which operand; a decode is seen through."""
    names = {i.value.name for i in graph.by_role("param") if i.path == path}
    found: list[tuple[Node, int]] = []
    for node in graph.nodes:
        for place, operand in enumerate(node.operands):
            if operand.name in names:
                if node.op == "decode":
                    names.add(node.result.name)
                else:
                    found.append((node, place))
    return found


def _reads_tiles(node: Node, place: int) -> bool:
    if node.op == "matmul":
        return place == 1 and node.attrs.bool("transpose_b")
    if node.op == "embedding":
        return place == 0
    return node.op == "gather" and place == 0 and node.attrs.int("axis") == 0


def _rewrite(graph: Graph, chosen: dict[str, Tiled]) -> Graph:
    before: list[Node] = []
    forward: dict[Ident, Value] = {}
    for entry in graph.by_role("param"):
        tiles = chosen.get(entry.path)
        if tiles is not None:
            pair, decoded = _tiled(entry, tiles)
            before.extend(pair)
            forward[entry.value.name] = decoded
    if not forward:
        return graph
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op == "decode" and node.operands[0].name in forward:
            forward[node.result.name] = forward[node.operands[0].name]
            continue
        operands = tuple(forward.get(o.name, o) for o in node.operands)
        nodes.append(Node(node.op, operands, node.results, node.attrs))
    return Graph(graph.name, graph.inputs, (*before, *nodes), graph.outputs)


def _tiled(entry: Input, tiles: Tiled) -> tuple[tuple[Node, ...], Value]:
    """encode and decode of one parameter; an encoding it already has goes inside the tiles."""
    value = entry.value
    stored = value.tensor
    inner = Tiled(tiles.rows, tiles.columns, stored.encoding)
    encoded = Value(Ident(f"{value.name}_tiled"), stored.with_encoding(inner))
    decoded = Value(Ident(f"{value.name}_rows"), stored.with_encoding(Dense()))
    attrs = Attrs({"encoding": inner})
    return (
        (
            Node("encode", (value,), (encoded,), attrs),
            Node("decode", (encoded,), (decoded,), attrs),
        ),
        decoded,
    )
