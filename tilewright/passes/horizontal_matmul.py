"""Products that share their left operand computed as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from tilewright.dsl.attrs import Attr
from tilewright.dsl.dims import Dim
from tilewright.dsl.errors import TilewrightError
from tilewright.dsl.graph import Graph, Node, Value, uses
from tilewright.dsl.ident import Ident
from tilewright.dsl.program import Program
from tilewright.passes.base import Pass, PassContext, Refusal, Rewrite, Stage
from tilewright.passes.claim import EXACT, Claim
from tilewright.passes.editor import Editor
from tilewright.passes.sweep import settle

Paths = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Product:
    """A matmul by a parameter, and the add of a parameter that alone reads it, if there is one."""

    node: Node
    weight: Value
    path: str
    add: Node | None = None
    bias: Value | None = None

    @property
    def nodes(self) -> tuple[Node, ...]:
        """What the joined product replaces."""
        return (self.node,) if self.add is None else (self.node, self.add)


@dataclass(frozen=True, slots=True)
class HorizontalMatmul(Pass):
    """Products of one value with several parameters become one product.

        matmul(x, w1), matmul(x, w2) -> y = matmul(x, concat(w1, w2)), two slices of y

    if the products have equal attributes, the parameters differ in the number of columns alone,
    nothing else reads them, and every graph of the program that reads one of them multiplies one
    value by all of them (so that the joined parameter is the only one stored). Where a parameter of
    rank one is added to each product, and nothing else reads the products, the joined ones are
    added before the slices. Each element remains the same sum of products.

    Choice `horizontal_matmul:<path of the first parameter>`: fuse | separate.
    """

    name: ClassVar[str] = "horizontal_matmul"
    stage: ClassVar[Stage] = "canonical"
    preserves: ClassVar[Claim] = EXACT
    cleans_up: ClassVar[bool] = True

    def run(self, program: Program, ctx: PassContext) -> Program:
        """Every graph rewritten, after the whole program has been looked at."""
        groups = [_groups(graph) for graph in program.graphs]
        company = _Company()
        for graph, found in zip(program.graphs, groups, strict=True):
            company.observe(graph, found)
        graphs = [
            self._rewrite(graph, found, company, ctx)
            for graph, found in zip(program.graphs, groups, strict=True)
        ]
        same = all(new is old for new, old in zip(graphs, program.graphs, strict=True))
        return program if same else program.with_graphs(graphs)

    def _rewrite(
        self, graph: Graph, groups: Sequence[list[Product]], company: _Company, ctx: PassContext
    ) -> Graph:
        editor = Editor(graph, ctx.mesh)
        for group in groups:
            made = company.refusal(group) or _joined(group, editor)
            if isinstance(made, Rewrite):
                choice = f"{self.name}:{group[0].path}"
                if ctx.choose(choice, ("fuse", "separate"), "fuse") == "separate":
                    made = Refusal("the plan keeps them separate")
            settle(self, made, group[0].node.result.name, editor, ctx)
        return editor.freeze()


@dataclass
class _Company:
    """Which parameters are multiplied together, over all graphs of a program."""

    readers: Counter[str] = field(default_factory=Counter[str])
    """Readers of a parameter in the graph that reads it most."""
    groups: dict[str, set[Paths]] = field(default_factory=dict[str, set[Paths]])
    """The groups that a parameter is in; () for none."""

    def observe(self, graph: Graph, groups: Sequence[list[Product]]) -> None:
        paths = {entry.value.name: entry.path for entry in graph.by_role("param")}
        read = Counter(paths[name] for name in _reads(graph) if name in paths)
        self.readers |= read
        together = {p.path: tuple(q.path for q in group) for group in groups for p in group}
        for path in read:
            self.groups.setdefault(path, set()).add(together.get(path, ()))

    def refusal(self, group: Sequence[Product]) -> Refusal | None:
        for path in (product.path for product in group):
            if self.readers[path] > 1:
                return Refusal(f"{path} has other readers, and would be stored twice")
            if len(self.groups[path]) > 1:
                return Refusal(f"another graph reads {path} in other company")
        return None


def _reads(graph: Graph) -> Iterator[Ident]:
    for node in graph.nodes:
        yield from (operand.name for operand in node.operands)
    yield from (value.name for value in graph.output_values)


def _groups(graph: Graph) -> list[list[Product]]:
    """Products by parameters that could be one, in order; groups of at least two."""
    params = {entry.value.name: entry.path for entry in graph.by_role("param")}
    readers = uses(graph)
    outputs = {value.name for value in graph.output_values}
    found: dict[tuple[object, ...], list[Product]] = {}
    for node in graph.nodes:
        if node.op != "matmul" or node.operands[1].name not in params:
            continue
        x, weight = node.operands
        if weight.tensor.rank != 2 or x.name in params:
            continue
        add, bias = _bias(node, readers, params)
        if node.result.name in outputs:
            add, bias = None, None
        product = Product(node, weight, params[weight.name], add, bias)
        inner = weight.tensor.shape[1 - _column_axis(node)]
        rest = weight.tensor.with_shape((inner, 1))
        found.setdefault((x.name, node.attrs, rest), []).append(product)
    return [group for group in found.values() if len(group) > 1]


def _column_axis(node: Node) -> int:
    return 0 if node.attrs.bool("transpose_b") else 1


def _bias(
    node: Node, readers: Mapping[Ident, Sequence[Node]], params: Mapping[Ident, str]
) -> tuple[Node | None, Value | None]:
    """The add of a parameter [columns] that alone reads a product, and the parameter."""
    result = node.result
    alone = readers.get(result.name, ())
    if len(alone) != 1 or alone[0].op != "add":
        return None, None
    (add,) = alone
    bias = add.operands[0] if add.operands[1] == result else add.operands[1]
    fits = bias.name in params and bias.tensor.shape == result.tensor.shape[-1:]
    return (add, bias) if fits and add.result.type == result.type else (None, None)


def _joined(group: Sequence[Product], editor: Editor) -> Rewrite | Refusal:
    try:
        return _join(group, editor)
    except TilewrightError as mistake:
        return Refusal(f"the joined product is not legal: {mistake.message}")


def _join(group: Sequence[Product], editor: Editor) -> Rewrite:
    first = group[0].node
    x, weight = first.operands
    joined = editor.node(
        "concat", *(p.weight for p in group), like=weight, attrs={"axis": _column_axis(first)}
    )
    product = editor.node("matmul", x, joined.result, like=first.result, attrs=first.attrs)
    after = [joined, product]
    biases = [product.bias for product in group if product.bias is not None]
    biased = len(biases) == len(group)
    if biased:
        bias = editor.node("concat", *biases, like=biases[0], attrs={"axis": 0})
        after += [bias, editor.node("add", product.result, bias.result, like=first.result)]
    replaced = [part.nodes if biased else (part.node,) for part in group]
    whole = after[-1].result
    start: Dim = 0
    for nodes in replaced:
        result = nodes[-1].result
        after.append(_columns(whole, start, result, editor))
        start = start + result.tensor.shape[-1]
    before = sorted((node for nodes in replaced for node in nodes), key=editor.position)
    what = "product and sum" if biased else "product"
    return Rewrite(
        tuple(before), tuple(after), reason=f"{len(group)} parameters in one {what}", early=True
    )


def _columns(whole: Value, start: Dim, result: Value, editor: Editor) -> Node:
    lead = (0,) * (result.tensor.rank - 1)
    attrs: dict[str, Attr] = {"start": (*lead, start), "size": result.tensor.shape}
    return editor.defining("slice", whole, result=result, attrs=attrs)
