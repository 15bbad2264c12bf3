"""What can be tuned in a program: schedules of its kernels, and choices of its passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Literal

from tilewright.autotune.amount import amount_of
from tilewright.autotune.job import Case, Configuration, Tuned
from tilewright.autotune.records import RecordKey, planned, tools
from tilewright.autotune.sizes import checked_sizes, largest_sizes, typical_sizes
from tilewright.autotune.traits import Traits, traits_of
from tilewright.codegen.compiler import Options
from tilewright.codegen.explanation import region_cost
from tilewright.codegen.kernels import as_graph, stem
from tilewright.codegen.space import OneOf, Point, Space, class_limit
from tilewright.dsl.dims import evaluate, of_symbol
from tilewright.dsl.errors import NothingToTune
from tilewright.dsl.graph import Graph, Node, Value, symbol_input
from tilewright.dsl.hashing import structural_hash
from tilewright.dsl.ident import Ident
from tilewright.dsl.program import Program, collect
from tilewright.dsl.symbols import graph_symbols
from tilewright.dsl.text import print_program
from tilewright.dsl.types import CacheType, TensorType
from tilewright.hostcpu import usable_threads
from tilewright.passes.base import PassContext
from tilewright.passes.claim import changes_answers
from tilewright.passes.plan import Choice, Choices
from tilewright.target.cpu import isa_of, resolve

_RIDGE = 8
"""Operations for each byte from memory, which a processor does without waiting: few do more."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Something with a space: what is measured, and what a point of the space makes of it."""

    name: str
    key: RecordKey
    space: Space
    case: Case
    candidate: Callable[[Point], Configuration]
    weight: float = 1.0
    """Its part in the model's time, roughly, beside those of the others."""
    traits: Traits = field(default_factory=dict[str, float])
    """What records of similar kernels are found by, see `traits_of`; none of a choice."""


def kernel_subjects(program: Program, options: Options, pattern: str = "*") -> list[Subject]:
    """One for each kernel of a matching name and each of its shape classes, the heaviest first.

    Raises NothingToTune.
    """
    from tilewright.codegen.tvm import torch_hidden

    with torch_hidden():
        from tilewright.codegen.tvm.backend import TvmBackend

    target = resolve(options.target)
    backend = TvmBackend(isa_of(target))
    context = PassContext(
        target, choices=Choices(options.plan), check=options.check, backend=backend
    )
    final = options.pipeline.run(program, context)
    met: dict[str, list[Node]] = {}
    for node in (node for graph in final.graphs for node in graph.nodes):
        met.setdefault(structural_hash(as_graph(node)), []).append(node)
    spaces = {region: backend.spaces(same[0]) for region, same in met.items()}
    nodes = {r: same[0] for r, same in met.items() if spaces[r] and not _writes_state(same[0])}
    weight = {region: len(met[region]) * _traffic(node) for region, node in nodes.items()}
    names = {region: f"{stem(node)}_{region[:12]}" for region, node in nodes.items()}
    if not nodes:
        raise NothingToTune(f"no kernel of {program.name} has a space on {target}")
    wanted = [region for region, name in names.items() if fnmatchcase(name, pattern)]
    if not wanted:
        raise NothingToTune(
            f"the pattern {pattern[:80]!r} matches no kernel of {program.name} with a space",
            fix=f"these have one: {', '.join(sorted(names.values()))}",
        )
    found: list[Subject] = []
    for region in sorted(wanted, key=lambda region: -weight[region]):
        above = 0
        for shapes, space in spaces[region].items():
            entry = _Entry(region, shapes, above, class_limit(shapes))
            subject = _kernel(names[region], nodes[region], entry, space, str(target))
            found.append(replace(subject, weight=weight[region] / len(spaces[region])))
            above = entry.most or 0
    return found


def plan_subject(
    program: Program, options: Options, pattern: str, graph: str, given: Mapping[str, int]
) -> Subject:
    """One option for all choices whose ids match a pattern; graph and sizes say what is timed.

    Sizes that are not given are typical ones. Raises NothingToTune where no such choice is met,
    they have different options, the graph keeps state, or a pass approximates; and
    SymbolRangeError.
    """
    from tilewright.codegen.tvm import torch_hidden

    with torch_hidden():
        from tilewright.codegen.tvm.backend import TvmBackend

    timed = program.graph(graph)
    if timed.by_role("state"):
        raise NothingToTune(
            f"graph {graph} keeps state, and is not timed alone", fix="name a graph without state"
        )
    other = [step.name for step in options.pipeline.passes if changes_answers(step.preserves)]
    if other:
        raise NothingToTune(
            f"{', '.join(other)} changes what is computed: candidates would be held to what the "
            "program means without it",
            fix="tune choices without that pass; kernels are tuned with it",
        )
    sizes = typical_sizes(timed, given)
    target = resolve(options.target)
    context = PassContext(
        target,
        choices=Choices(options.plan),
        check=options.check,
        backend=TvmBackend(isa_of(target)),
    )
    options.pipeline.run(program, context)
    met = list(context.choices.met.values())
    values, taken = _options_of([c for c in met if fnmatchcase(c.id, pattern)], pattern, met)
    baseline = dict(options.plan.entries)
    case = Case(
        program=print_program(program),
        graph=graph,
        passes=str(options.pipeline),
        target=str(target),
        baseline=Configuration(baseline),
        sizes=sizes,
        checked=checked_sizes(timed, sizes, lambda sizes: True),
        threads=usable_threads(),
    )
    shapes = ",".join(f"{name}={size}" for name, size in sorted(sizes.items()))
    key = RecordKey("plan", planned(program, options), f"{graph}[{shapes}]", str(target), tools())

    def candidate(point: Point) -> Configuration:
        return Configuration({**baseline, **{name: str(value) for name, value in point.items()}})

    return Subject(pattern, key, Space("plan", (OneOf(pattern, values, taken),)), case, candidate)


def _options_of(
    matching: Sequence[Choice], pattern: str, met: Sequence[Choice]
) -> tuple[tuple[str, ...], str]:
    """The options that all these choices have, and the one that is taken untuned."""
    kinds = {(c.options, c.taken) for c in matching}
    if len(kinds) == 1:
        return kinds.pop()
    if kinds:
        fix = "name fewer of them: " + ", ".join(sorted(c.id for c in matching)[:8])
    else:
        passes = sorted({c.id.partition(":")[0] for c in met})
        fix = f"it has those of: {', '.join(f'{name}:*' for name in passes) or 'no pass'}"
    raise NothingToTune(
        f"the pattern {pattern[:80]!r} matches {len(matching)} choices of the program, "
        f"with {len(kinds)} sets of options",
        fix=fix,
    )


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of a region's schedule table: its shape class, and which numbers of rows that is."""

    region: str
    shapes: str
    above: int
    most: int | None

    def covers(self, rows: int) -> bool:
        return self.above < rows and (self.most is None or rows <= self.most)


def _kernel(name: str, node: Node, entry: _Entry, space: Space, target: str) -> Subject:
    program = region_program(node)
    (graph,) = program.graphs
    amount = amount_of(node)
    most = amount.timed if entry.most is None else entry.most
    sizes = largest_sizes(graph, lambda trial: amount.at(trial) <= most, amount.least)
    case = Case(
        program=print_program(program),
        graph=graph.name,
        passes="",
        target=target,
        baseline=Configuration(),
        sizes=sizes,
        checked=checked_sizes(graph, sizes, lambda trial: entry.covers(amount.at(trial))),
        threads=usable_threads(),
        cold=_is_bound_by_memory(node, sizes),
        shapes=entry.shapes,
    )

    def candidate(point: Point) -> Configuration:
        return Configuration(schedules=[Tuned(entry.region, entry.shapes, dict(point))])

    key = RecordKey("schedule", entry.region, entry.shapes, target, tools())
    traits = traits_of(node, sizes, case.threads)
    return Subject(name, key, space, case, candidate, traits=traits)


def _is_bound_by_memory(node: Node, sizes: Mapping[str, int]) -> bool:
    """Whether what a kernel waits for is its weights, which a model's other kernels drive out of
    the caches between two calls.
    """
    weights = sum(evaluate(o.type.nbytes, sizes) for o in node.operands if not _is_given(o))
    return weights * _RIDGE > evaluate(region_cost(node).flops, sizes)


def region_program(node: Node) -> Program:
    """A region alone as a program: encoded operands are parameters, caches are state, the rest is
    given.

    Symbols that no input's shape binds are inputs themselves.
    """
    alone = as_graph(node)
    inputs = [replace(i, role=_role(i.value)) for i in alone.inputs]
    bound = {d for i in inputs if i.role == "input" for d in i.value.tensor.shape}
    for symbol in graph_symbols(alone):
        if of_symbol(symbol) not in bound:
            inputs.append(symbol_input(Ident(f"{symbol.name}_value"), symbol))
    graph = Graph(alone.name, tuple(inputs), alone.nodes, alone.outputs)
    return collect("region", [graph])


def _role(value: Value) -> Literal["input", "param", "state"]:
    if isinstance(value.type, CacheType):
        return "state"
    return "input" if _is_given(value) else "param"


def _is_given(value: Value) -> bool:
    return not isinstance(value.type, TensorType) or value.type.is_dense


def _writes_state(node: Node) -> bool:
    """True for a region that changes a cache: two calls of it would not be the same."""
    return any(isinstance(result.type, CacheType) for result in node.results)


def _traffic(node: Node) -> int:
    """Bytes that a kernel moves at the sizes of a prompt."""
    (graph,) = region_program(node).graphs
    return evaluate(region_cost(node).bytes, typical_sizes(graph, {}))
