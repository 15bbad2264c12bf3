"""Which nodes become one kernel."""

import pytest

from tests.passes.rewriting import ROWS, rewritten
from tilewright.dsl.builder import graph
from tilewright.dsl.dtypes import f32
from tilewright.dsl.graph import Graph
from tilewright.dsl.ops.elementwise import exp
from tilewright.dsl.tensor import Tensor
from tilewright.passes.cse import Cse
from tilewright.passes.fuse_regions import FuseRegions


def regions(found: Graph) -> list[list[str]]:
    """The operations of each kernel."""
    bodies = [node.attrs.graph("body") for node in found.nodes]
    return [[node.op for node in body.nodes] for body in bodies]


def bend(x: Tensor) -> Tensor:
    """Six literals, which equal bends share after CSE."""
    return ((((x * 2.0 + 3.0) * 5.0 + 7.0) * 11.0) + 13.0) * x


def test_literals_that_other_kernels_share_are_no_results() -> None:
    @graph(x=ROWS, y=f32[5, 7])
    def both(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return bend(x), bend(y)

    found = rewritten(both, Cse(), FuseRegions())
    assert [sorted(set(region)) for region in regions(found)] == [["add", "full", "mul"]] * 2
    assert [region.count("full") for region in regions(found)] == [6, 6]


@pytest.mark.parametrize("shared", [False, True])
def test_a_column_sum_takes_its_producer_in(shared: bool) -> None:
    """Unless others read it; a literal they share does not count."""

    @graph(x=ROWS, y=ROWS)
    def total(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        doubled = x * 2.0
        return doubled.sum(0), exp(doubled if shared else y * 2.0)

    first, *_ = regions(rewritten(total, Cse(), FuseRegions()))
    assert ("sum" in first) == (not shared)
