"""The fused region: a node whose attribute is a body graph. One IR, one verifier, one printer."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.dsl.attrs import Attrs, AttrSpec
from tilewright.dsl.composite import Composite
from tilewright.dsl.dtypes import f32
from tilewright.dsl.errors import CompilerBug, GraphError
from tilewright.dsl.graph import Graph, Input, Node, Output, Value
from tilewright.dsl.ident import Ident
from tilewright.dsl.op import Sample, error, register, sample
from tilewright.dsl.placement import Mesh
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.types import Type

FAMILIES = ("loop", "matmul", "grouped", "attention", "gather", "scatter", "collective")


@register
class Fused(Composite):
    """One kernel's worth of operations. Operands are the body's inputs, in order.

    `family` names the kind of kernel that its anchor asks for; the backend decides how.
    """

    name = "fused"
    operands = ("xs*",)
    attrs = {"family": AttrSpec("str"), "body": AttrSpec("graph")}
    takes_encoded = True

    def body(self, *xs: Tensor, a: Attrs) -> Tensor:
        raise CompilerBug("a region carries its body")

    def expand(self, xs: Sequence[Type], a: Attrs, mesh: Mesh | None = None) -> Graph:
        return a.graph("body")

    def types(self, xs: Sequence[Type], a: Attrs) -> tuple[Type, ...]:
        body = a.graph("body")
        if a.str("family") not in FAMILIES:
            raise GraphError(f"there is no kernel family {a.str('family')!r}")
        wanted = [v.type for v in body.input_values]
        if list(xs) != wanted:
            listed = ", ".join(map(str, xs))
            raise GraphError(
                f"region {body.name} takes ({', '.join(map(str, wanted))}), got ({listed})"
            )
        return tuple(v.type for v in body.output_values)

    def samples(self) -> Sequence[Sample]:
        body = _negation()
        return [
            sample(f32[4], family="loop", body=body),
            error(GraphError, f32[5], family="loop", body=body),
            error(GraphError, f32[4], family="poetry", body=body),
        ]


def _negation() -> Graph:
    x, y = Value(Ident("x"), f32[4]), Value(Ident("y"), f32[4])
    return Graph(
        Ident("negation"),
        (Input(x, "input", "x"),),
        (Node("neg", (x,), (y,)),),
        (Output("y", y),),
    )
