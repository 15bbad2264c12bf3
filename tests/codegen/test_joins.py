"""What is put together is made in its place, and copied only where it cannot be."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.codegen.tvm.running import Arrays
from tilewright.codegen.compiler import Compilation, Options, compile_program
from tilewright.codegen.ranks import compile_ranks
from tilewright.dsl.builder import TracedFunction, graph
from tilewright.dsl.dims import Dim, dim
from tilewright.dsl.dtypes import f32
from tilewright.dsl.errors import BrokenPlan
from tilewright.dsl.graph import Node, Value
from tilewright.dsl.ops.bundle import bundle, unbundle
from tilewright.dsl.ops.collective import reduce_scatter
from tilewright.dsl.ops.elementwise import exp, tanh
from tilewright.dsl.ops.linalg import qr
from tilewright.dsl.ops.row import row, stack
from tilewright.dsl.placement import Mesh, Partial, Placement
from tilewright.dsl.program import program
from tilewright.dsl.tensor import Tensor
from tilewright.passes import joins
from tilewright.runtime import load
from tilewright.runtime.schema import CollectiveStep, CopyStep, HostStep, SpanStep, Step
from tilewright.target.spec import parse_target

N = dim("n", 1, 9)


def made(of: TracedFunction, out: Path, backend: str = "tvm") -> Compilation:
    options = Options(parse_target("cpu"), backend=backend, check="full")
    return compile_program(program("p", of).program, Arrays({}), out, options)


def steps(found: Compilation, kind: type[Step]) -> list[Step]:
    return [s for s in found.manifest.graphs[0].steps if isinstance(s, kind)]


def drawn(*shapes: tuple[int, ...]) -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


@graph(x=f32[N, 5], y=f32[3])
def flat(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Parts that kernels make, zeros at the end, and a reader of the whole."""
    parts = [exp(x), tanh(y) * 2.0, tanh(y).sum(0)]
    whole = bundle(parts, multiple_of=8)
    one, two, three = unbundle(whole * 3.0, [p.shape for p in parts])
    return {"whole": whole, "one": one, "two": two, "three": three}


@pytest.mark.parametrize("backend", ["tvm", "reference"])
def test_parts_are_made_in_their_place(backend: str, tmp_path: Path) -> None:
    found = made(flat, tmp_path / "out", backend)
    assert not steps(found, CopyStep)
    if backend == "tvm":
        assert len(found.manifest.graphs[0].steps) == 1, "one span"
    with load(tmp_path / "out", threads=2) as model:
        for n in (1, 4, 9):
            x, y = drawn((n, 5), (3,))
            actual = model.run("flat", {"x": x, "y": y}, poison=True)
            wanted = [np.exp(x), np.tanh(y) * 2, np.tanh(y).sum()]
            line = np.concatenate([np.ravel(part) for part in wanted])
            np.testing.assert_allclose(actual["whole"][: line.size], line, rtol=1e-5)
            assert actual["whole"].size % 8 == 0
            assert not actual["whole"][line.size :].any()
            for name, part in zip(("one", "two", "three"), wanted, strict=True):
                np.testing.assert_allclose(actual[name], 3 * part, rtol=1e-5)


def test_kernels_of_several_parts_do_not_wait_for_one_another(tmp_path: Path) -> None:
    @graph(x=f32[4, 5], y=f32[3], z=f32[N])
    def g(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return bundle([exp(x), tanh(y), z * 2.0]) * 3.0

    (span,) = made(g, tmp_path / "out").lowered[0].spans
    assert [launch.barrier for launch in span.launches] == [False, False, False, True]


@graph(x=f32[4], y=f32[4])
def hard(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """What cannot be made in its place: inputs, a part that comes twice, a row, another's part."""
    a, b = exp(x), tanh(y)
    first = stack([a, x, a])
    second = bundle([a, row(first, 1), b])
    return {"first": first, "second": second, "b": b, "nested": bundle([second * 1.0, b])}


def test_what_lies_elsewhere_is_copied_by_kernels(tmp_path: Path) -> None:
    found = made(hard, tmp_path / "out")
    assert [type(s) for s in found.manifest.graphs[0].steps] == [SpanStep]
    assert list(found.context.log.of_rule("copy_views"))
    x, y = drawn((4,), (4,))
    a, b = np.exp(x), np.tanh(y)
    second = np.concatenate([a, x, b])
    wanted = {
        "first": np.stack([a, x, a]),
        "second": second,
        "b": b,
        "nested": np.concatenate([second, b]),
    }
    with load(tmp_path / "out", threads=2) as model:
        actual = model.run("hard", {"x": x, "y": y}, poison=True)
    for name, value in wanted.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-5, err_msg=name)


def test_parts_are_read_where_they_lie(tmp_path: Path) -> None:
    """A product reads its matrix out of the flat value, which a kernel has changed."""

    @graph(x=f32[3, 4], w=f32[4, 5], b=f32[5])
    def g(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        flat = bundle([w * 2.0, b * 2.0]) + 1.0
        weight, bias = unbundle(flat, [(4, 5), (5,)])
        return x @ weight + bias

    found = made(g, tmp_path / "out")
    (span,) = found.manifest.graphs[0].steps
    assert isinstance(span, SpanStep)
    assert sorted(name.split("_")[0] for name in span.kernels) == ["loop", "loop", "loop", "matmul"]
    x, w, b = drawn((3, 4), (4, 5), (5,))
    with load(tmp_path / "out", threads=2) as model:
        actual = model.run("g", {"x": x, "w": w, "b": b}, poison=True)["out"]
    np.testing.assert_allclose(actual, x @ (2 * w + 1) + 2 * b + 1, rtol=1e-4, atol=1e-5)


def test_parts_of_what_is_not_stored_are_computed(tmp_path: Path) -> None:
    @graph(x=f32[N, 5])
    def g(x: Tensor) -> Tensor:
        turned = x.permute_dims(1, 0).reshape(-1)
        (first,) = unbundle(turned, [(2, N)])
        return exp(first)

    made(g, tmp_path / "out")
    with load(tmp_path / "out") as model:
        for n in (1, 6):
            (x,) = drawn((n, 5))
            actual = model.run("g", {"x": x}, poison=True)["out"]
            np.testing.assert_allclose(actual, np.exp(x.T[:2]), rtol=1e-5)


def test_joins_in_joins_are_made_in_the_outer_one(tmp_path: Path) -> None:
    @graph(x=f32[2, 3])
    def g(x: Tensor) -> Tensor:
        inner = stack([exp(x), tanh(x)])
        return bundle([x * 2.0, inner, bundle([x + 1.0])])

    assert not steps(made(g, tmp_path / "out"), CopyStep)
    (x,) = drawn((2, 3))
    wanted = np.concatenate([p.ravel() for p in (x * 2, np.exp(x), np.tanh(x), x + 1)])
    with load(tmp_path / "out") as model:
        actual = model.run("g", {"x": x}, poison=True)["out"]
    np.testing.assert_allclose(actual, wanted, rtol=1e-5)


def test_host_steps_write_into_a_join(tmp_path: Path) -> None:
    @graph(x=f32[4, 3])
    def g(x: Tensor) -> Tensor:
        q, r = qr(x)
        return bundle([q, r])

    found = made(g, tmp_path / "out")
    assert [type(s) for s in found.manifest.graphs[0].steps] == [HostStep]
    (x,) = drawn((4, 3))
    with load(tmp_path / "out") as model:
        actual = model.run("g", {"x": x}, poison=True)["out"]
    q, r = actual[:12].reshape(4, 3), actual[12:].reshape(3, 3)
    np.testing.assert_allclose(q @ r, x, atol=1e-6)


def test_a_bundle_is_sent_from_where_its_parts_were_made(tmp_path: Path) -> None:
    terms = Placement.of(dp=Partial("sum"))

    @graph(x=f32[2, 3].with_placement(terms), y=f32[5].with_placement(terms))
    def g(x: Tensor, y: Tensor) -> Tensor:
        return reduce_scatter(bundle([x * 2.0, y * 3.0], multiple_of=2), "dp", 0)

    of = program("p", g, mesh=Mesh.of(dp=2)).program
    found, _ = compile_ranks(of, Arrays({}), tmp_path, Options(parse_target("cpu")))
    kinds = [type(step) for step in found.manifest.graphs[0].steps]
    assert kinds == [SpanStep, CollectiveStep, CollectiveStep]


def misplace(join: Node) -> list[tuple[Value, Dim]]:
    return [(operand, 4 * index) for index, operand in enumerate(join.operands)]


def test_parts_that_overlap_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joins, "joined_at", misplace)
    monkeypatch.setattr("tilewright.codegen.steps.joined_at", misplace)
    with pytest.raises(BrokenPlan):
        made(flat, tmp_path / "out")


def test_a_part_that_is_forgotten_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the pass steps copy; without both the parts are nowhere."""

    def keeps(walk: object, join: Node) -> Node:
        return join

    def nothing(join: Node) -> list[tuple[Value, Dim]]:
        return []

    monkeypatch.setattr("tilewright.passes.copy_views._Walk.joined", keeps)
    assert steps(made(hard, tmp_path / "out"), CopyStep)
    monkeypatch.setattr("tilewright.codegen.steps.joined_at", nothing)
    with pytest.raises(BrokenPlan):
        made(hard, tmp_path / "out")
