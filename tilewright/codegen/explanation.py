"""How an artifact came about, as records that are stored in it: what `tilewright explain` shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from tilewright.codegen.kernels import as_graph
from tilewright.codegen.steps import GraphLowering
from tilewright.dsl.cost import Cost, nbytes
from tilewright.dsl.dims import Dim, to_text
from tilewright.dsl.graph import Graph, Node, Value
from tilewright.dsl.op import get
from tilewright.dsl.program import Program
from tilewright.dsl.types import CacheType, TensorType, Type
from tilewright.passes.base import Pass
from tilewright.passes.log import Decision
from tilewright.passes.plan import Choice

EXPLANATION_FILE = "explain.json"


class StageRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """A pass that ran, and how many nodes all graphs had before and after it."""

    name: str
    claim: str
    before: int
    after: int


class DecisionRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """Decisions of one rule with one outcome for one reason, and the places they were taken at."""

    outcome: str
    rule: str
    reason: str
    places: list[str]
    gain_bytes: int | None = None
    """Predicted traffic saved at the symbols' upper bounds, over all places."""


class ChoiceRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """A choice that was met, and what was taken."""

    id: str
    options: list[str]
    taken: str


class KernelRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """A kernel in one graph: how often it runs a call, and what each run costs, as formulas."""

    graph: str
    name: str
    ops: list[str]
    calls: int
    flops: str
    bytes: str
    dtype: str
    """The number format of the arithmetic that dominates."""


class Explanation(Struct, frozen=True, forbid_unknown_fields=True):
    """All of it."""

    stages: list[StageRecord]
    decisions: list[DecisionRecord]
    choices: list[ChoiceRecord]
    kernels: list[KernelRecord]


def explanation(
    stages: Sequence[tuple[Pass, Program, Program]],
    decisions: Iterable[Decision],
    choices: Iterable[Choice],
    lowered: Sequence[GraphLowering],
) -> Explanation:
    """What a compilation did, without the programs themselves."""
    return Explanation(
        [StageRecord(str(p), str(p.preserves), _size(b), _size(a)) for p, b, a in stages],
        grouped(decisions),
        [ChoiceRecord(c.id, list(c.options), c.taken) for c in choices],
        [record for lowering in lowered for record in _kernels(lowering)],
    )


def grouped(decisions: Iterable[Decision]) -> list[DecisionRecord]:
    """Equal decisions at several places as one, in the order of the first."""
    groups: dict[tuple[str, str, str], list[Decision]] = {}
    for decision in decisions:
        key = decision.outcome, decision.rule, decision.reason
        groups.setdefault(key, []).append(decision)
    return [
        DecisionRecord(
            *key,
            [f"{d.graph}/{d.anchor}" for d in same],
            _total([d.gain_bytes for d in same if d.gain_bytes is not None]),
        )
        for key, same in groups.items()
    ]


def region_cost(region: Node) -> Cost:
    """FLOPs of a region, and the bytes that cross its border.

    Of a table or a cache only what is looked up counts, not what it could hold.
    """
    xs = [o.type for o in region.operands]
    out = [r.type for r in region.results]
    if region.op != "fused":
        op = get(region.op)
        cost = op.cost(xs, region.attrs, out)
        body = as_graph(region)
        if any(isinstance(x, CacheType) for x in xs):
            return cost
        return Cost(cost.flops, _read(body), cost.bytes_written)
    body = region.attrs.graph("body")
    flops: Dim = 0
    for node in body.nodes:
        picked = _picked(node.results[0], body) if node.op == "decode" else None
        types = [o.type for o in node.operands], [r.type for r in node.results]
        whole = get(node.op).flops(types[0], node.attrs, types[1])
        flops = flops + (whole if picked is None else picked)
    return Cost(flops, _read(body), nbytes(out))


_PICKS = frozenset({"gather", "embedding", "view", "slice"})


def _read(body: Graph) -> Dim:
    total: Dim = 0
    for value in {entry.value.name: entry.value for entry in body.inputs}.values():
        total = total + _read_of(value, body)
    return total


def _read_of(value: Value, body: Graph) -> Dim:
    """Bytes of an input that a region reads: all of it, unless every reader picks a part."""
    picked = _picked(value, body)
    return value.type.nbytes if picked is None else picked * _bytes_each(value.type)


def _picked(value: Value, body: Graph) -> Dim | None:
    """How many numbers the readers of a value pick; None where one of them needs all."""
    total: Dim = 0
    pending = [value]
    while pending:
        read = pending.pop()
        if any(output.value.name == read.name for output in body.outputs):
            return None
        for node in body.nodes:
            if all(operand.name != read.name for operand in node.operands):
                continue
            if node.op == "decode":
                pending.append(node.results[0])
            elif node.op in _PICKS and node.operands[0].name == read.name:
                total = total + _numbers(r.type for r in node.results)
            else:
                return None
    return total


def _numbers(types: Iterable[Type]) -> Dim:
    """The numbers of several dense values together."""
    total: Dim = 0
    for type_ in types:
        total = total + (type_.numel if isinstance(type_, TensorType) else type_.part.numel)
    return total


def _bytes_each(type_: Type) -> int:
    """Stored bytes for each number, rounded up."""
    part = type_.part if isinstance(type_, CacheType) else type_
    count, size = part.numel, part.nbytes
    if isinstance(count, int) and isinstance(size, int) and count:
        return -(-size // count)
    return part.dtype.itemsize


def _kernels(lowering: GraphLowering) -> list[KernelRecord]:
    found: dict[str, tuple[Node, int]] = {}
    for name, region in lowering.launched:
        found[name] = (region, found.get(name, (region, 0))[1] + 1)
    return [
        _record(lowering.graph.name, name, region, calls) for name, (region, calls) in found.items()
    ]


def _record(graph: str, name: str, region: Node, calls: int) -> KernelRecord:
    cost = region_cost(region)
    body = region.attrs.graph("body").nodes if region.op == "fused" else (region,)
    return KernelRecord(
        graph,
        name,
        list(dict.fromkeys(n.op for n in body)),
        calls,
        _text(cost.flops),
        _text(cost.bytes),
        _dtype(body),
    )


def _dtype(body: Sequence[Node]) -> str:
    """What the products multiply, where there are any; else what is computed last."""
    for node in body:
        if node.op in ("matmul", "attention"):
            return node.operands[0].tensor.dtype.name
    last = body[-1].results[0].type
    return last.dtype.name if isinstance(last, TensorType) else last.part.dtype.name


def _size(program: Program) -> int:
    return sum(len(graph.nodes) for graph in program.graphs)


def _total(gains: Sequence[int]) -> int | None:
    return sum(gains) if gains else None


def _text(size: Dim) -> str:
    return str(size) if isinstance(size, int) else to_text(size)
