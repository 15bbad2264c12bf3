"""What can be tuned in a program: schedules of its kernels, and choices of its passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from tilewright.autotune.job import Configuration, Job, Tuned
from tilewright.autotune.records import RecordKey, tools
from tilewright.codegen.compiler import Options
from tilewright.codegen.kernels import as_graph
from tilewright.codegen.space import REST, OneOf, Point, Space
from tilewright.dsl.cost import most_bytes
from tilewright.dsl.dims import Dim, evaluate, of_symbol
from tilewright.dsl.errors import NothingToTune
from tilewright.dsl.graph import Graph, Node, Value, symbol_input
from tilewright.dsl.hashing import structural_hash, text_hash
from tilewright.dsl.ident import Ident
from tilewright.dsl.program import Program, collect
from tilewright.dsl.symbols import graph_symbols
from tilewright.dsl.text import print_program
from tilewright.dsl.types import TensorType
from tilewright.hostcpu import usable_threads
from tilewright.passes.base import PassContext
from tilewright.passes.plan import Choices
from tilewright.target.cpu import isa_of, resolve

ROUNDS = 9
"""How many times each side of a comparison is timed."""
_ROWS = 128
"""Rows at which the last entry of a schedule table is timed."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Something with a space: `job` compares a point with the default."""

    name: str
    key: RecordKey
    space: Space
    job: Callable[[Point, int], Job]


def kernel_subjects(program: Program, options: Options) -> list[Subject]:
    """One for each kernel with a space and each of its shape classes, the heaviest first.

    Raises NothingToTune.
    """
    from tilewright.codegen.tvm import torch_hidden

    with torch_hidden():
        from tilewright.codegen.tvm.backend import TvmBackend, row_count

    target = resolve(options.target)
    backend = TvmBackend(isa_of(target))
    context = PassContext(
        target, choices=Choices(options.plan), check=options.check, backend=backend
    )
    final = options.pipeline.run(program, context)
    found: dict[str, list[Subject]] = {}
    weight: dict[str, int] = {}
    for node in (node for graph in final.graphs for node in graph.nodes):
        spaces = backend.spaces(node)
        if not spaces:
            continue
        region = structural_hash(as_graph(node))
        weight[region] = weight.get(region, 0) + _bytes(node)
        if region not in found:
            rows = row_count(node)
            found[region] = [
                _kernel(node, region, shapes, space, _sizes(node, rows, shapes), str(target))
                for shapes, space in spaces.items()
            ]
    if not found:
        raise NothingToTune(f"no kernel of {program.name} has a space on {target}")
    order = sorted(found, key=lambda region: -weight[region])
    return [subject for region in order for subject in found[region]]


def plan_subject(
    program: Program, options: Options, pattern: str, graph: str, sizes: Mapping[str, int]
) -> Subject:
    """One option for all choices whose ids match a pattern; graph and sizes say what is timed.

    Raises NothingToTune where no such choice is met, they have different options, or the graph
    keeps state.
    """
    from tilewright.codegen.tvm import torch_hidden

    with torch_hidden():
        from tilewright.codegen.tvm.backend import TvmBackend

    if program.graph(graph).by_role("state"):
        raise NothingToTune(
            f"graph {graph} keeps state, and is not timed alone", fix="name a graph without state"
        )
    target = resolve(options.target)
    context = PassContext(target, check=options.check, backend=TvmBackend(isa_of(target)))
    options.pipeline.run(program, context)
    met = [c for c in context.choices.met.values() if fnmatchcase(c.id, pattern)]
    kinds = {(c.options, c.default) for c in met}
    if len(kinds) != 1:
        raise NothingToTune(
            f"the pattern {pattern!r} matches {len(met)} choices of {program.name}, "
            f"with {len(kinds)} sets of options"
        )
    ((values, default),) = kinds
    shapes = ",".join(f"{name}={size}" for name, size in sorted(sizes.items()))
    key = RecordKey("plan", text_hash(program), f"{graph}[{shapes}]", str(target), tools())
    text = print_program(program)

    def job(point: Point, rounds: int) -> Job:
        candidate = Configuration({name: str(value) for name, value in point.items()})
        return Job(
            text,
            graph,
            "program",
            str(target),
            dict(sizes),
            Configuration(),
            candidate,
            rounds,
            usable_threads(),
        )

    return Subject(pattern, key, Space("plan", (OneOf(pattern, values, default),)), job)


def _kernel(
    node: Node, region: str, shapes: str, space: Space, sizes: Mapping[str, int], target: str
) -> Subject:
    text = print_program(region_program(node))

    def job(point: Point, rounds: int) -> Job:
        candidate = Configuration(schedules=[Tuned(region, shapes, dict(point))])
        return Job(
            text,
            "region",
            "region",
            target,
            sizes,
            Configuration(),
            candidate,
            rounds,
            usable_threads(),
        )

    name = f"{node.attrs.str('family')}_{region[:12]}"
    key = RecordKey("schedule", region, shapes, target, tools())
    return Subject(name, key, space, job)


def region_program(node: Node) -> Program:
    """A region alone as a program: encoded operands are parameters, the rest is given.

    Symbols that no input's shape binds are inputs themselves.
    """
    alone = as_graph(node)
    inputs = [replace(i, role="input" if _is_given(i.value) else "param") for i in alone.inputs]
    bound = {d for i in inputs if i.role == "input" for d in i.value.tensor.shape}
    for symbol in graph_symbols(alone):
        if of_symbol(symbol) not in bound:
            inputs.append(symbol_input(Ident(f"{symbol.name}_value"), symbol))
    graph = Graph(alone.name, tuple(inputs), alone.nodes, alone.outputs)
    return collect("region", [graph])


def _is_given(value: Value) -> bool:
    return not isinstance(value.type, TensorType) or value.type.is_dense


def _bytes(node: Node) -> int:
    return sum(most_bytes(o.type) for o in node.operands if not _is_given(o))


def typical_sizes(graph: Graph) -> dict[str, int]:
    """Symbol values at which a whole graph is timed: each as large as a prompt, or at its end."""
    return _symbol_sizes(graph, lambda sizes: max(sizes.values(), default=0), _ROWS)


def _sizes(node: Node, rows: Dim, shapes: str) -> dict[str, int]:
    """Symbol values that make as many rows as are typical of a shape class."""
    wanted = _ROWS if shapes == REST else int(shapes.removeprefix("le"))
    if isinstance(rows, int):
        return _symbol_sizes(as_graph(node), lambda sizes: rows, max(wanted, rows))
    return _symbol_sizes(as_graph(node), lambda sizes: evaluate(rows, sizes), wanted)


def _symbol_sizes(
    graph: Graph, measure: Callable[[dict[str, int]], int], wanted: int
) -> dict[str, int]:
    """The largest symbol values, grown in turn, whose measure is at most `wanted`."""
    symbols = graph_symbols(graph)
    units: dict[str, int] = {s.name: s.multiple_of for s in symbols}
    last: dict[str, int] = {s.name: s.hi // s.multiple_of * s.multiple_of for s in symbols}
    found: dict[str, int] = {s.name: -(-s.lo // s.multiple_of) * s.multiple_of for s in symbols}
    for trial in _growing(found, units, last):
        if measure(trial) > wanted:
            break
        found = trial
    return found


def _growing(
    start: Mapping[str, int], units: Mapping[str, int], last: Mapping[str, int]
) -> Iterator[dict[str, int]]:
    """The sizes, then with one after another doubled, until all are at their largest."""
    found = dict(start)
    yield dict(found)
    while any(found[name] < last[name] for name in found):
        for name in sorted(found):
            grown = max(found[name] * 2, units[name])
            found[name] = min(grown, last[name])
            yield dict(found)
