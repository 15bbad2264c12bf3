"""What users of the language do wrong: an error of ours, with the line of their file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from tilewright.dsl.errors import (
    DimError,
    DTypeError,
    InvalidModelFunction,
    InvalidName,
    InvalidOperand,
    InvalidOutput,
    InvalidType,
    ProgramError,
    ShapeError,
    TilewrightError,
)
from tilewright.dsl.meaning import evaluate

rows = tw.dim("rows", 1, 64)
wrong: Any = None
Body = Callable[[Any], Any]
ARRAY = np.ones(4, np.float32)


def traced(body: Body, type_: tw.TensorType | None = None) -> tw.Program:
    def f(x: tw.Tensor) -> Any:
        return body(x)

    return tw.program("p", tw.graph(x=type_ or tw.f32[rows, 4])(f)).program


MISTAKES: list[tuple[Body, type[TilewrightError]]] = [
    (lambda x: None, InvalidOutput),
    (lambda x: [x], InvalidOutput),
    (lambda x: 3, InvalidOutput),
    (lambda x: (x, None), InvalidOutput),
    (lambda x: {"y": ARRAY}, InvalidOutput),
    (lambda x: {"y y": x}, InvalidName),
    (lambda x: {3: x}, InvalidName),
    (lambda x: x + None, InvalidOperand),
    (lambda x: x + "a", InvalidOperand),
    (lambda x: x + ARRAY, InvalidOperand),
    (lambda x: ARRAY + x, InvalidOperand),
    (lambda x: np.exp(x), InvalidOperand),
    (lambda x: np.sum(x), InvalidOperand),
    (lambda x: np.asarray(x), InvalidOperand),
    (lambda x: tw.softmax(wrong), InvalidOperand),
    (lambda x: tw.maximum(wrong, x), InvalidOperand),
    (lambda x: tw.where(wrong, 1.0, 2.0), InvalidOperand),
    (lambda x: sum(x), InvalidOperand),
    (lambda x: x + 10**400, DTypeError),
    (lambda x: x if rows > 3 else -x, DimError),
    (lambda x: x + tw.param("a b", tw.f32[4]), InvalidName),
    (lambda x: x + tw.param(wrong, tw.f32[4]), InvalidName),
    (lambda x: x + tw.param("w", wrong), InvalidType),
    (lambda x: x + tw.param("w", tw.f32[rows, 4]), InvalidType),
    (lambda x: tw.state("w", wrong), InvalidType),
    (lambda x: tw.constant([[1], [1, 2]]), DTypeError),
    (lambda x: x + x.T, ShapeError),
]


@pytest.mark.parametrize(("body", "mistake"), MISTAKES)
def test_mistakes_in_a_function(body: Body, mistake: type[TilewrightError]) -> None:
    with pytest.raises(mistake) as found:
        traced(body)
    line = body.__code__.co_firstlineno
    assert (found.value.where or "").startswith(f"{__file__}:")
    assert found.value.where == f"{__file__}:{line}" or mistake in (InvalidOutput, InvalidName)


@pytest.mark.parametrize("size", [3.5, "4", None, True, [3], slice(3)])
def test_dimensions_that_are_none(size: Any) -> None:
    with pytest.raises(DimError, match="integer"):
        _ = tw.f32[size, 4]


def test_dimensions_have_a_limit() -> None:
    three: Any = np.int64(3)
    assert tw.f32[three].shape == (3,)
    with pytest.raises(ShapeError, match="too large"):
        _ = tw.f32[2**40]


@pytest.mark.parametrize("type_", [3, "f32", tw.f32, None, rows * 0])
def test_arguments_without_a_type(type_: Any) -> None:
    with pytest.raises(InvalidType):
        tw.graph(x=type_)


def test_decorators_that_do_not_fit() -> None:
    doubled: Any = rows * 2
    with pytest.raises(ProgramError, match="two dimensions are called rows"):
        tw.graph(x=tw.f32[rows, 4], y=tw.f32[tw.dim("rows", 1, 32), 4])
    with pytest.raises(ProgramError, match="symbol of that name"):
        tw.graph(rows=doubled)
    with pytest.raises(InvalidModelFunction, match="@graph"):
        tw.graph(traced)
    bodies: tuple[Any, ...] = (lambda: wrong, traced, 3, None)
    for body in bodies:
        with pytest.raises(InvalidModelFunction):
            tw.graph(x=tw.f32[4])(body)


def test_programs_of_something_else() -> None:
    with pytest.raises(ProgramError, match="no graph"):
        tw.program("p")
    with pytest.raises(InvalidModelFunction):
        tw.program("p", wrong)


def test_equality_is_an_operation() -> None:
    """It was Python's own, and False for all tensors: a mask that silently held for nothing."""
    graph = traced(lambda x: {"same": x == 1.0, "other": x != 1.0}, tw.f32[3]).graphs[0]
    found = evaluate(graph, {"x": np.array([0, 1, 2], np.float32)})
    assert found["same"].tolist() == [False, True, False]
    assert found["other"].tolist() == [True, False, True]


@pytest.mark.parametrize("order", ["<", ">", "="])
def test_literals_of_any_byte_order(order: str) -> None:
    literal = np.arange(6).reshape(2, 3).T.astype(f"{order}f4")
    graph = traced(lambda x: x + tw.constant(literal), tw.f32[3, 2]).graphs[0]
    found = evaluate(graph, {"x": np.zeros((3, 2), np.float32)})
    assert np.array_equal(found["out"], literal)
