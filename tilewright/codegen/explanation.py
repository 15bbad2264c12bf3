"""How an artifact came about, as records that are stored in it: what `tilewright explain` shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields

from msgspec import Struct

from tilewright.codegen.phase_cost import phase_cost
from tilewright.codegen.region_cost import region_cost
from tilewright.codegen.steps import GraphLowering
from tilewright.dsl.dims import Dim, to_text
from tilewright.dsl.graph import Graph, Node
from tilewright.dsl.program import Program
from tilewright.dsl.types import TensorType
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


class GraphRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """What a call of a graph costs in all, as formulas; see `phase_cost.PhaseCost`."""

    graph: str
    flops: str
    weights: str
    cache: str
    activations: str
    weights_held: str
    cache_held: str


class Explanation(Struct, frozen=True, forbid_unknown_fields=True):
    """All of it."""

    stages: list[StageRecord]
    decisions: list[DecisionRecord]
    choices: list[ChoiceRecord]
    kernels: list[KernelRecord]
    graphs: list[GraphRecord]


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
        [_totals(lowering.graph) for lowering in lowered],
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


def _totals(graph: Graph) -> GraphRecord:
    cost = phase_cost(graph)
    return GraphRecord(graph.name, *(_text(getattr(cost, f.name)) for f in fields(cost)))


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
        if node.op in ("matmul", "grouped_matmul", "attention"):
            return node.operands[0].tensor.dtype.name
    last = body[-1].results[0].type
    return last.dtype.name if isinstance(last, TensorType) else last.part.dtype.name


def _size(program: Program) -> int:
    return sum(len(graph.nodes) for graph in program.graphs)


def _total(gains: Sequence[int]) -> int | None:
    return sum(gains) if gains else None


def _text(size: Dim) -> str:
    return str(size) if isinstance(size, int) else to_text(size)
