"""a = f(x); b = f(x) -> a = f(x);  y = f(x) that no output needs -> nothing."""

from dataclasses import dataclass
from typing import ClassVar

import pytest

from tests.passes.rewriting import assert_caught, context, decisions, names, of_x, rewritten
from tilewright.dsl.builder import active, graph, state
from tilewright.dsl.dtypes import f32, u32
from tilewright.dsl.errors import CompilerBug
from tilewright.dsl.graph import Graph, Node
from tilewright.dsl.ops.elementwise import exp
from tilewright.dsl.program import collect
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.types import CacheType
from tilewright.passes import cse
from tilewright.passes.base import GraphPass, PassContext, Stage
from tilewright.passes.claim import EXACT, Claim
from tilewright.passes.cse import Cse
from tilewright.passes.dce import Dce
from tilewright.passes.pipeline import Pipeline


def test_equal_nodes_are_computed_once() -> None:
    """a = f(x); b = f(x) -> a = f(x), b replaced by a"""
    found = rewritten(of_x(lambda x: (exp(x) * 2.0 + exp(x) * 2.0, exp(x))), Cse())
    assert names(found) == ["exp", "full", "mul", "add"]


def test_other_attributes_are_another_node() -> None:
    assert names(rewritten(of_x(lambda x: (x.sum(0), x.sum(1)), f32[3, 3]), Cse())) == ["sum"] * 2


def test_random_bits_of_one_key_merge() -> None:
    def bits(key: Tensor) -> Tensor:
        one, two, other = (
            active().tensor("random_bits", key, shape=(4,), stream=s) for s in (1, 1, 2)
        )
        return one + two + other

    found = rewritten(of_x(bits, u32[2]), Cse())
    assert names(found) == ["random_bits", "random_bits", "add", "add"]


def test_copies_stay_apart() -> None:
    found = rewritten(of_x(lambda x: tuple(active().tensor("copy", x) for _ in range(2))), Cse())
    assert names(found) == ["copy", "copy"]


CACHE = CacheType(1, 8, 1, 2, f32)


@graph(k=f32[1, 2, 1, 2])
def appends(k: Tensor) -> Tensor:
    """A graph whose state is appended to, and whose views of it are equal."""
    cache = state("cache", CACHE).append(k, k, at=0)
    one, two = cache.view(2)[0], cache.view(2)[0]
    unused = exp(k)
    assert unused.shape == k.shape
    return one + two


def test_operations_on_states_stay() -> None:
    assert names(rewritten(appends, Cse())) == ["append", "view", "view", "exp", "add"]


def test_dead_nodes_are_removed() -> None:
    """y = f(x) -> nothing, if no output needs it"""

    def dead(x: Tensor) -> Tensor:
        assert exp(exp(x)).shape == x.shape
        return -x

    ctx = context()
    assert names(rewritten(of_x(dead), Dce(), ctx=ctx)) == ["neg"]
    assert [d.reason for d in decisions(ctx, Dce())] == ["no output needs it"] * 2


def test_successor_of_a_state_is_no_dead_code() -> None:
    @graph(k=f32[1, 2, 1, 2])
    def only_appends(k: Tensor) -> Tensor:
        state("cache", CACHE).append(k, k, at=0)
        return -k

    found = rewritten(only_appends, Dce())
    assert names(found) == ["append", "neg"]
    assert [o.replaces for o in found.outputs] == [None, "cache"]


def test_untouched_program_is_the_same_object() -> None:
    program = collect("p", [of_x(lambda x: -x).graph()])
    assert Pipeline((Cse(), Dce())).run(program, context()) is program


def test_planted_blindness_for_attributes_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(node: Node) -> str:
        return node.op

    monkeypatch.setattr(cse, "_key", blind)
    assert_caught(of_x(lambda x: (x.sum(0), x.sum(1)), f32[3, 3]), Cse())


def test_planted_removal_of_a_live_node_is_caught() -> None:
    @dataclass(frozen=True, slots=True)
    class Careless(GraphPass):
        """Drops the first node, whoever reads it."""

        name: ClassVar[str] = "careless"
        stage: ClassVar[Stage] = "canonical"
        preserves: ClassVar[Claim] = EXACT

        def run_graph(self, graph: Graph, ctx: PassContext) -> Graph:
            return Graph(graph.name, graph.inputs, graph.nodes[1:], graph.outputs)

    program = collect("p", [of_x(lambda x: -exp(x)).graph()])
    with pytest.raises(CompilerBug, match="careless leaves an invalid program"):
        Pipeline((Careless(),)).run(program, context())
