"""Graphs from plain functions of tensors, for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

from tilewright.dsl.builder import TracedFunction
from tilewright.dsl.graph import Graph
from tilewright.dsl.ident import ident
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.types import TensorType


@overload
def traced(body: Callable[[], Any], /) -> Graph: ...
@overload
def traced(body: Callable[[Tensor], Any], x: TensorType, /) -> Graph: ...
@overload
def traced(body: Callable[[Tensor, Tensor], Any], x: TensorType, y: TensorType, /) -> Graph: ...
@overload
def traced(body: Callable[..., Any], /, *types: TensorType) -> Graph: ...
def traced(body: Callable[..., Any], /, *types: TensorType) -> Graph:
    """The graph of a function of tensors; its inputs are x0, x1 ..."""

    def by_name(**xs: Tensor) -> Any:
        return body(*xs.values())

    signature = tuple((f"x{i}", type_) for i, type_ in enumerate(types))
    return TracedFunction(ident("test"), by_name, signature).graph()
