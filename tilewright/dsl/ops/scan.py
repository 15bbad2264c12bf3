"""Scan: a body run a fixed number of times, each time on what the time before has left.

    c, y = body(c, x[0], f); c, y' = body(c, x[1], f); ... -> c, stack(y, y', ...)

(Blelloch, Prefix Sums and Their Applications, 1990; the form is that of JAX's `lax.scan`.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from tilewright.dsl.attrs import Attrs, AttrSpec
from tilewright.dsl.builder import GraphBuilder, active, building
from tilewright.dsl.composite import Composite
from tilewright.dsl.cost import Cost
from tilewright.dsl.dims import Dim, known_eq
from tilewright.dsl.dtypes import f32
from tilewright.dsl.errors import (
    ArityError,
    CompilerBug,
    DTypeError,
    EncodingError,
    ForeignTensor,
    GraphError,
    InvalidOutput,
    PlacementError,
    ShapeError,
    UnsupportedRegion,
)
from tilewright.dsl.graph import Graph
from tilewright.dsl.ident import ident
from tilewright.dsl.op import Sample, error, get, register, sample
from tilewright.dsl.ops.encoded import moved_parts
from tilewright.dsl.ops.unrolled import row_type, stacked_type, unrolled
from tilewright.dsl.placement import Mesh, Placement
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.types import CacheType, TensorType, Type

MAX_UNROLLED = 4096
"""Operations that one scan may become in kernels; a longer one has no lowering yet."""


@register
class Scan(Composite):
    """Operands: `carries` carried values, `stacked` arrays whose dimension 0 is the `trips` times,
    and any number of values that every time reads. The body's inputs are, in this order, the
    carried values, one row of each stacked array, and the rest; its outputs are the carried values
    for the next time, and what is stacked along a new dimension 0 of the results.

    The body is a pure function: parameters are passed to it, and it keeps no state. On a mesh a
    carried value lies where it lay before: the body's placements must come back to themselves.
    Dimension 0 of a stacked array is whole. What passes unroll is limited (`MAX_UNROLLED`).
    """

    name = "scan"
    operands = ("xs*",)
    attrs = {
        "body": AttrSpec("graph"),
        "trips": AttrSpec("int"),
        "carries": AttrSpec("int"),
        "stacked": AttrSpec("int", 0),
    }
    takes_encoded = True

    def body(self, *xs: Tensor, a: Attrs) -> Tensor:
        raise CompilerBug("a scan carries its body")

    def expand(self, xs: Sequence[Type], a: Attrs, mesh: Mesh | None = None) -> Graph:
        """The body as often as it runs, over rows of what is stacked."""
        return unrolled(a.graph("body"), xs, a.int("trips"), a.int("carries"), a.int("stacked"))

    def types(self, xs: Sequence[Type], a: Attrs) -> tuple[Type, ...]:
        body, carries = a.graph("body"), a.int("carries")
        _check_counts(xs, a)
        _check_pure(body)
        wanted = _body_inputs(xs, a)
        if [v.type for v in body.input_values] != wanted:
            given = ", ".join(map(str, wanted))
            takes = ", ".join(str(v.type) for v in body.input_values)
            raise ShapeError(f"scan: the body takes ({takes}) and would be given ({given})")
        if len(body.outputs) < max(carries, 1):
            raise ArityError(f"scan: {carries} values are carried, {len(body.outputs)} come back")
        for number, (x, made) in enumerate(zip(xs[:carries], body.output_values, strict=False)):
            _check_fixed_point(number, x, made.type)
        return tuple(_unplaced(t) for t in _results(a))

    def placements(
        self, xs: Sequence[Type], a: Attrs, out: Sequence[Type], mesh: Mesh
    ) -> Sequence[Placement]:
        return [t.placement for t in _results(a)]

    def evaluated(
        self,
        xs: Sequence[Type],
        a: Attrs,
        operands: Sequence[Any],
        run: Callable[[Graph, Sequence[Any]], list[Any]],
    ) -> list[Any]:
        """Time after time, without the unrolled graph."""
        carries, fixed = a.int("carries"), a.int("carries") + a.int("stacked")
        carried, rows = list(operands[:carries]), list[list[Any]]()
        for trip in range(a.int("trips")):
            sliced = [_row_of(x, trip) for x in operands[carries:fixed]]
            made = run(a.graph("body"), [*carried, *sliced, *operands[fixed:]])
            carried = made[:carries]
            rows.append(made[carries:])
        return [*carried, *(np.stack(column) for column in zip(*rows, strict=True))]

    def flops(self, xs: Sequence[Type], a: Attrs, out: Sequence[Type]) -> Dim:
        total: Dim = 0
        for node in a.graph("body").nodes:
            types = [v.type for v in node.operands], [v.type for v in node.results]
            total = total + get(node.op).flops(types[0], node.attrs, types[1])
        return a.int("trips") * total

    def cost(self, xs: Sequence[Type], a: Attrs, out: Sequence[Type]) -> Cost:
        """What is stacked is read once, all else every time; so are results written."""
        whole = super().cost(xs, a, out)
        carries, again = a.int("carries"), a.int("trips") - 1
        fixed = carries + a.int("stacked")
        read, written = whole.bytes_read, whole.bytes_written
        for x in (*xs[:carries], *xs[fixed:]):
            read = read + again * x.nbytes
        for x in xs[:carries]:
            written = written + again * x.nbytes
        return Cost(whole.flops, read, written)

    def localize(self, a: Attrs, out: Sequence[Type]) -> Attrs:
        """A scan that is left on a mesh was too long to unroll."""
        raise UnsupportedRegion(
            too_long(a), fix="on a mesh scans are unrolled: use fewer trips, of more work each"
        )

    def samples(self) -> Sequence[Sample]:
        def of(body: Graph, **other: Any) -> dict[str, Any]:
            return {"body": body, "trips": 4, "carries": 1, "stacked": 1, **other}

        state, rows = f32[3], f32[4, 3]
        decay, alone = _decay(state), _decay(state, stacked=False)
        return [
            sample(state, rows, state, **of(decay)),
            sample(state, state, f32[3], **of(alone, stacked=0)),
            error(ShapeError, state, f32[5, 3], state, **of(decay)),
            error(ShapeError, state, f32[4, 2], state, **of(decay)),
            error(ShapeError, state, rows, state, **of(decay, trips=0)),
            error(ArityError, state, rows, state, **of(decay, carries=4)),
            error(ArityError, *[state] * 3, **of(alone, carries=2, stacked=0)),
        ]


def too_long(a: Attrs) -> str:
    """Why a scan is not unrolled; empty where it is."""
    count = a.int("trips") * _count(a.graph("body"))
    if count <= MAX_UNROLLED:
        return ""
    return (
        f"a scan of {a.int('trips')} trips would become {count:,} operations, and kernels take "
        f"{MAX_UNROLLED:,}"
    )


def _count(body: Graph) -> int:
    """Operations of a body, with those of scans in it as often as they run."""
    scans = [node.attrs for node in body.nodes if node.op == Scan.name]
    inner = sum(a.int("trips") * _count(a.graph("body")) for a in scans)
    return inner + len(body.nodes) - len(scans)


def _check_counts(xs: Sequence[Type], a: Attrs) -> None:
    trips, carries, stacked = a.int("trips"), a.int("carries"), a.int("stacked")
    if trips < 1:
        raise ShapeError(f"scan: a body runs at least once, got trips={trips}")
    if min(carries, stacked) < 0 or carries + stacked > len(xs):
        raise ArityError(
            f"scan: of {len(xs)} operands {carries} cannot be carried and {stacked} stacked"
        )
    for index, x in enumerate(xs):
        if isinstance(x, CacheType):
            raise DTypeError(
                f"scan: operand {index} is a cache; a body keeps no state",
                fix="append in a Python loop over the layers, or carry a plain tensor",
            )


def _check_pure(body: Graph) -> None:
    for entry in body.inputs:
        if entry.role != "input":
            raise GraphError(
                f"scan: the body declares {entry.role} {entry.path}",
                fix="declare it outside, and pass a parameter in `fixed`",
            )


def _body_inputs(xs: Sequence[Type], a: Attrs) -> list[Type]:
    carries, fixed = a.int("carries"), a.int("carries") + a.int("stacked")
    rows = [_row_type(x, a.int("trips"), index) for index, x in enumerate(xs[carries:fixed])]
    return [*xs[:carries], *rows, *xs[fixed:]]


def _row_of(x: Any, trip: int) -> Any:
    return moved_parts(x, lambda part: part[trip])


def _row_type(x: Type, trips: int, index: int) -> Type:
    """The type of one row of a stacked array. Raises ShapeError, EncodingError, PlacementError."""
    assert isinstance(x, TensorType)
    if not x.rank or not known_eq(x.shape[0], trips):
        raise ShapeError(
            f"scan: stacked operand {index} is {x}, whose dimension 0 is not the {trips} trips"
        )
    return row_type(x)


def _check_fixed_point(number: int, before: Type, after: Type) -> None:
    if before == after:
        return
    message = (
        f"scan: carried value {number} goes into the body as {before} and comes out as {after}"
    )
    if _unplaced(before) == _unplaced(after):
        raise PlacementError(
            message, fix="bring it where it was inside the body, or start it where it ends"
        )
    if before.dtype != after.dtype:
        raise DTypeError(message, fix="cast it in the body, or before the scan")
    raise ShapeError(message)


def _results(a: Attrs) -> list[TensorType]:
    """Types of the results with their placements: carried values, then what is stacked."""
    carries, trips = a.int("carries"), a.int("trips")
    made = [v.tensor for v in a.graph("body").output_values]
    for index, y in enumerate(made[carries:]):
        if not y.is_dense:
            raise EncodingError(f"scan: stacked result {index} is stored as {y.encoding}")
    return [*made[:carries], *(stacked_type(y, trips) for y in made[carries:])]


def _unplaced(x: Type) -> Type:
    return x.with_placement(Placement()) if isinstance(x, TensorType) else x


def _decay(state: TensorType, *, stacked: bool = True) -> Graph:
    """h w + x, for samples; without stacked values x is carried along."""
    builder = GraphBuilder(ident("decay"))
    h, x, w = (cast("Tensor", builder.add_input("input", n, state)) for n in ("h", "x", "w"))
    with building(builder):
        after = h * w + x
    return builder.finish({"h": after} if not stacked else {"h": after, "y": after})


def scan(
    body: Callable[..., Tensor | tuple[Tensor, ...]],
    carry: Sequence[Tensor],
    xs: Sequence[Tensor] = (),
    *,
    fixed: Sequence[Tensor] = (),
    trips: int | None = None,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The carried values after the last time, and what every time returned besides, stacked.

    body: called once, as `body(*carry, *rows, *fixed)`; returns the carried values for the next
        time, then what is stacked. It sees no tensors but these.
    carry: keep type and placement from time to time.
    xs: [trips, ...] each; time t reads row t.
    trips: how often, where there are no `xs`.

    Raises ArityError, ShapeError, DTypeError, PlacementError, GraphError, EncodingError.
    """
    outer = active()
    operands = [*carry, *xs, *fixed]
    times = _trips(xs, trips)
    counts = {"trips": times, "carries": len(carry), "stacked": len(xs)}
    for operand in operands:
        outer.require_own("scan", operand)
    types = [operand.value.type for operand in operands]
    graph = _traced_body(body, _body_inputs(types, Attrs(counts)), outer.mesh)
    found = outer.tensors("scan", *operands, body=graph, **counts)
    return found[: len(carry)], found[len(carry) :]


def _trips(xs: Sequence[Tensor], trips: int | None) -> int:
    if trips is not None:
        return trips
    size = xs[0].shape[0] if xs and xs[0].shape else None
    if not isinstance(size, int):
        raise ShapeError(
            "scan: the number of trips must be a number"
            + ("" if size is None else f", and dimension 0 of what is stacked is {size}"),
            fix="give trips=..., or stack arrays of a fixed size",
        )
    return size


def _traced_body(body: Callable[..., Any], types: Sequence[Type], mesh: Mesh) -> Graph:
    builder = GraphBuilder(ident("body"), mesh)
    inputs = [builder.add_input("input", f"x{index}", t) for index, t in enumerate(types)]
    try:
        with building(builder):
            made = body(*inputs)
    except ForeignTensor as mistake:
        mistake.fix = "the body of a scan sees its arguments alone: pass the tensor in `fixed`"
        raise
    outputs = cast("tuple[object, ...]", made if isinstance(made, tuple) else (made,))
    named: dict[str, Tensor] = {}
    for index, output in enumerate(outputs):
        if not isinstance(output, Tensor):
            raise InvalidOutput(
                f"the body of a scan returns a value of type {type(output).__name__}",
                fix="return tensors: the carried values, then what is stacked",
            )
        builder.require_own("scan", output)
        named[f"y{index}"] = output
    return builder.finish(named)
