"""Constant operands of matmuls stored under an encoding: what such passes have in common."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from tilewright.dsl.attrs import Attrs
from tilewright.dsl.dims import bounds
from tilewright.dsl.encoding import Encoding
from tilewright.dsl.graph import Graph, Input, Node, Output, Value
from tilewright.dsl.ident import Ident
from tilewright.dsl.program import Program
from tilewright.dsl.types import TensorType
from tilewright.passes.base import Pass, PassContext, Refusal
from tilewright.passes.subgraph import SubGraphs
from tilewright.passes.validate import validate

Weight = tuple[str, ...]
"""A matrix by the paths of the parameters whose rows it is made of, in order."""


@dataclass(frozen=True, slots=True)
class EncodeWeights(Pass):
    """matmul(x, w) -> matmul(x, decode(encode(w))), for a matrix w of parameters

    if w is a parameter [n, k], or the rows of several, that matmuls alone read, each as its
    transposed right operand, and it has `minimum` elements or more. Every graph of the program has
    to read the same matrix, so that it is stored once. What encoding loses is claimed of w alone.

    Choice `<name of the pass>:<path of the first parameter>`: the encoding's name, or dense.
    """

    option: ClassVar[str]
    """What the choice calls the encoding."""
    gathered: ClassVar[bool] = False
    """Whether rows may also be gathered from a matrix."""

    minimum: int = 4096

    @abstractmethod
    def encoding(self, weight: TensorType) -> Encoding | Refusal:
        """How a matrix is stored, or why this encoding does not fit it."""

    def refusal(self, weight: Weight, readers: Readers, ctx: PassContext) -> Refusal | None:
        """Why a matrix is better left as it is, given who reads it; None by default."""
        return None

    def run(self, program: Program, ctx: PassContext) -> Program:
        """Every graph rewritten, after the whole program has been looked at."""
        readers = Readers(self.gathered)
        found = [readers.observe(graph) for graph in program.graphs]
        chosen: dict[Weight, Encoding] = {}
        for weight, value in {w: v for each in found for w, v in each.items()}.items():
            made = (
                readers.refusal(weight)
                or self.refusal(weight, readers, ctx)
                or self._choice(weight, value.tensor, ctx)
            )
            if isinstance(made, Refusal):
                ctx.log.refused(self.name, program.name, weight[0], made.reason)
                continue
            chosen[weight] = made
            ctx.log.fired(self.name, program.name, weight[0], f"stored as {made}")
        if not chosen:
            return program
        pairs = zip(program.graphs, found, strict=True)
        return program.with_graphs([self._rewritten(g, each, chosen, ctx) for g, each in pairs])

    def _choice(self, weight: Weight, type_: TensorType, ctx: PassContext) -> Encoding | Refusal:
        if bounds(type_.numel)[1] < self.minimum:
            return Refusal(f"it has fewer than {self.minimum} elements")
        encoding = self.encoding(type_)
        if isinstance(encoding, Refusal):
            return encoding
        options = (self.option, "dense")
        if ctx.choose(f"{self.name}:{weight[0]}", options, self.option) == "dense":
            return Refusal("the plan keeps it dense")
        return encoding

    def _rewritten(
        self,
        graph: Graph,
        weights: dict[Weight, Value],
        chosen: dict[Weight, Encoding],
        ctx: PassContext,
    ) -> Graph:
        encodings = {v.name: chosen[w] for w, v in weights.items() if w in chosen}
        nodes: list[Node] = []
        decoded: dict[Ident, Value] = {}

        def store(value: Value) -> None:
            encoding = encodings.get(value.name)
            if encoding is not None:
                pair = _pair(value, encoding)
                if ctx.check != "off":
                    validate(self.name, self.preserves, _sides(value, pair), ctx.mesh)
                nodes.extend(pair)
                decoded[value.name] = pair[-1].result

        for entry in graph.by_role("param"):
            store(entry.value)
        for node in graph.nodes:
            operands = tuple(decoded.get(o.name, o) for o in node.operands)
            nodes.append(Node(node.op, operands, node.results, node.attrs))
            for result in node.results:
                store(result)
        return Graph(graph.name, graph.inputs, tuple(nodes), graph.outputs)


@dataclass
class Readers:
    """Who reads each parameter, over all graphs of a program."""

    gathered: bool = False
    """Whether rows may be gathered from a matrix as well."""
    types: dict[Weight, TensorType] = field(default_factory=dict[Weight, TensorType])
    products: dict[Weight, list[Node]] = field(default_factory=dict[Weight, list[Node]])
    """The matmuls that read a matrix as their transposed right operand."""
    forms: dict[str, set[Weight]] = field(default_factory=dict[str, set[Weight]])
    """The matrices that a parameter is multiplied as a part of."""
    others: dict[str, str] = field(default_factory=dict[str, str])
    """An operation that reads the parameter otherwise."""

    def observe(self, graph: Graph) -> dict[Weight, Value]:
        """The matrices of one graph that are a matmul's transposed right operand."""
        rows: dict[Ident, Weight] = {e.value.name: (e.path,) for e in graph.by_role("param")}
        joined = [
            n for n in graph.nodes if _joins_rows(n) and all(o.name in rows for o in n.operands)
        ]
        single = dict(rows)
        rows.update((n.result.name, tuple(single[o.name][0] for o in n.operands)) for n in joined)
        ours = {id(node) for node in joined}
        found: dict[Weight, Value] = {}
        for node in graph.nodes:
            for place, operand in enumerate(node.operands):
                weight = rows.get(operand.name)
                if weight is None or id(node) in ours:
                    continue
                if _is_weight(node, place):
                    found[weight] = operand
                    self.types[weight] = operand.tensor
                    self.products.setdefault(weight, []).append(node)
                    for path in weight:
                        self.forms.setdefault(path, set()).add(weight)
                elif not (self.gathered and gathers_rows(node, place)):
                    self.others.update(dict.fromkeys(weight, node.op))
        returned = {v.name for v in graph.output_values}
        self.others.update((p, "return") for n, w in rows.items() if n in returned for p in w)
        return found

    def refusal(self, weight: Weight) -> Refusal | None:
        for path in weight:
            if path in self.others:
                return Refusal(f"{self.others[path]} reads {path} too")
            if len(self.forms[path]) > 1 or weight.count(path) > 1:
                return Refusal(f"{path} would be stored twice")
        return None


def _joins_rows(node: Node) -> bool:
    return node.op == "concat" and node.attrs.int("axis") == 0


def _is_weight(node: Node, place: int) -> bool:
    """True for the transposed right operand of a matmul that is a matrix of floats."""
    if node.op != "matmul" or place != 1 or not node.attrs.bool("transpose_b"):
        return False
    type_ = node.operands[1].tensor
    fits = type_.rank == 2 and type_.is_dense and type_.dtype.name in ("f32", "bf16")
    return fits and node.operands[0].name != node.operands[1].name


def gathers_rows(node: Node, place: int) -> bool:
    """True for the table that rows are gathered from."""
    if node.op == "embedding":
        return place == 0
    return node.op == "gather" and place == 0 and node.attrs.int("axis") == 0


def _pair(value: Value, encoding: Encoding) -> tuple[Node, Node]:
    encoded = Value(Ident(f"{value.name}_encoded"), value.tensor.with_encoding(encoding))
    decoded = Value(Ident(f"{value.name}_decoded"), value.type)
    attrs = Attrs({"encoding": encoding})
    return Node("encode", (value,), (encoded,), attrs), Node(
        "decode", (encoded,), (decoded,), attrs
    )


def _sides(value: Value, pair: tuple[Node, Node]) -> SubGraphs:
    """The matrix, and what its codes stand for."""
    inputs = (Input(value, "input", "w"),)
    before = Graph(Ident("before"), inputs, (), (Output("w", value),))
    after = Graph(Ident("after"), inputs, pair, (Output("w", pair[-1].result),))
    return SubGraphs(before, after)
