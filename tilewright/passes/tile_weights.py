"""The stored layout of matmul weights, one for all consumers in all graphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from tilewright.dsl.attrs import Attrs
from tilewright.dsl.cost import most_bytes
from tilewright.dsl.encoding import Dense, Tiled
from tilewright.dsl.graph import Graph, Input, Node, Output, Value
from tilewright.dsl.ident import Ident
from tilewright.dsl.program import Program
from tilewright.dsl.types import TensorType
from tilewright.passes.base import Pass, PassContext, Stage
from tilewright.passes.claim import EXACT, Claim
from tilewright.passes.encode_weights import gathers_rows
from tilewright.passes.prepare_params import GROWTH, PrepareParams


@dataclass(frozen=True, slots=True)
class TileWeights(Pass):
    """w -> decode(p), where p = encode(w, tiled), for a parameter w [n, k] that some matmul reads

    if the backend names tiles for it and every reader can read tiles (a matmul as its transposed
    right operand, a gather of rows). Exact: tiling moves elements. The stored layout is a choice of
    the program, `tile_weights:<path>`, with options `tiled` and `rows`.
    """

    name: ClassVar[str] = "tile_weights"
    stage: ClassVar[Stage] = "layout"
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
        for path in chosen.keys() & ctx.prepared.keys():
            ctx.prepared[path] = _tiled_recipe(ctx.prepared[path], chosen[path])
        graphs = [_rewrite(graph, chosen) for graph in program.graphs]
        return PrepareParams().run(program.with_graphs(graphs), ctx)


def _tiles(program: Program, path: str, type_: object, ctx: PassContext) -> Tiled | None:
    if not isinstance(type_, TensorType) or type_.rank != 2 or ctx.backend is None:
        return None
    found = [r for graph in program.graphs for r in readers(graph, path)]
    if not any(node.op == "matmul" for node, _ in found):
        return None
    bad = next((node.op for node, place in found if not _reads_tiles(node, place)), None)
    if bad is not None:
        ctx.log.refused("tile_weights", program.name, path, f"{bad} reads it row by row")
        return None
    if not type_.is_dense and not _is_encoding(ctx.prepared.get(path)):
        ctx.log.refused("tile_weights", program.name, path, "it is imported as it is stored")
        return None
    tiles = ctx.backend.weight_tiles(type_)
    if tiles is None:
        ctx.log.refused("tile_weights", program.name, path, "the backend streams it row by row")
        return None
    stored, plain = (most_bytes(t) for t in (type_.with_encoding(tiles), type_))
    if type_.is_dense and stored > GROWTH * plain:
        ctx.log.refused("tile_weights", program.name, path, f"{stored} bytes instead of {plain}")
        return None
    if ctx.choose(f"tile_weights:{path}", ("tiled", "rows"), "tiled") == "rows":
        ctx.log.refused("tile_weights", program.name, path, "the plan keeps rows")
        return None
    ctx.log.fired("tile_weights", program.name, path, f"stored as {tiles}")
    return tiles


def readers(graph: Graph, path: str) -> Sequence[tuple[Node, int]]:
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
    return gathers_rows(node, place)


def _rewrite(graph: Graph, chosen: dict[str, Tiled]) -> Graph:
    before: list[Node] = []
    forward: dict[Ident, Value] = {}
    inputs: list[Input] = []
    for entry in graph.inputs:
        tiles = chosen.get(entry.path) if entry.role == "param" else None
        if tiles is None:
            inputs.append(entry)
            continue
        stored, decoding = _tiled(entry, tiles)
        inputs.append(stored)
        before.extend(decoding)
        forward[entry.value.name] = decoding[-1].result
    if not forward:
        return graph
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op == "decode" and node.operands[0].name in forward:
            forward[node.result.name] = forward[node.operands[0].name]
            continue
        operands = tuple(forward.get(o.name, o) for o in node.operands)
        nodes.append(Node(node.op, operands, node.results, node.attrs))
    return Graph(graph.name, tuple(inputs), (*before, *nodes), graph.outputs)


def _tiled(entry: Input, tiles: Tiled) -> tuple[Input, tuple[Node, ...]]:
    """One parameter and its decode, after an encode where it was dense."""
    value = entry.value
    inner = _around(tiles, value.tensor)
    attrs = Attrs({"encoding": inner})
    stored = value.tensor.with_encoding(inner)
    decoded = Value(Ident(f"{value.name}_rows"), value.tensor.with_encoding(Dense()))
    if not value.tensor.is_dense:
        # Encoded already: `_tiled_recipe` prepares the codes in tiles.
        own = Value(value.name, stored)
        return replace(entry, value=own), (Node("decode", (own,), (decoded,), attrs),)
    encoded = Value(Ident(f"{value.name}_tiled"), stored)
    encode = Node("encode", (value,), (encoded,), attrs)
    return entry, (encode, Node("decode", (encoded,), (decoded,), attrs))


def _around(tiles: Tiled, of: TensorType) -> Tiled:
    """The tiles, with the encoding that a parameter already has inside."""
    return Tiled(tiles.rows, tiles.columns, of.encoding)


def _is_encoding(recipe: Graph | None) -> bool:
    """True for a preparation whose last step is to encode."""
    return recipe is not None and recipe.nodes[-1].op == "encode"


def _tiled_recipe(recipe: Graph, tiles: Tiled) -> Graph:
    """The preparation of an encoded parameter, its codes in tiles."""
    last = recipe.nodes[-1]
    if last.op != "encode":
        return recipe
    inner = _around(tiles, last.result.tensor)
    result = Value(last.result.name, last.result.tensor.with_encoding(inner))
    encode = Node("encode", last.operands, (result,), Attrs({"encoding": inner}))
    nodes = (*recipe.nodes[:-1], encode)
    return Graph(recipe.name, recipe.inputs, nodes, (Output("out", result),))
