"""What a kernel is, in a few numbers, by which records of similar kernels are found."""

from __future__ import annotations

from collections.abc import Mapping
from math import log2

import msgspec

from tilewright.dsl.dims import Dim, evaluate, product
from tilewright.dsl.graph import Node, Value
from tilewright.dsl.types import Shape, TensorType

Traits = Mapping[str, float]
_ANCHORS = ("matmul", "grouped_matmul", "attention")


def traits_of(region: Node, sizes: Mapping[str, int], threads: int) -> dict[str, float]:
    """Sizes of the operation that a region is built around, and bits of a number, as powers of 2.

    Kernels are alike as far as these are; those with other names of traits are not compared.
    """
    from tilewright.codegen.tvm.family import body_of

    body = body_of(region)
    anchor = next((n for n in body.nodes if n.op in _ANCHORS), body.nodes[-1])
    found = {"threads": threads, "bits": _bits(anchor.operands)}
    shapes = [o.tensor.shape for o in anchor.operands if _is_array(o)]
    match anchor.op:
        case "matmul":
            (m, k), n = shapes[0][-2:], anchor.result.tensor.shape[-1]
            found |= _evaluated({"m": m, "k": k, "n": n}, sizes)
            found["batch"] = _count(anchor.result.tensor.shape[:-2], sizes)
        case "grouped_matmul":
            (m, k), groups, n = shapes[0], shapes[1][0], anchor.result.tensor.shape[-1]
            found |= _evaluated({"m": m, "k": k, "n": n, "groups": groups}, sizes)
        case "attention":
            q, key, value = shapes[:3]
            found |= _evaluated({"queries": q[1], "keys": key[1], "heads": q[2]}, sizes)
            found |= _evaluated({"head_dim": q[3], "value_dim": value[3]}, sizes)
        case _:
            shape = max(shapes, key=lambda s: _count(s, sizes), default=())
            found["columns"] = _count(shape[-1:], sizes)
            found["rows"] = _count(shape[:-1], sizes)
    return {name: log2(max(1, value)) for name, value in found.items()}


def distance(a: Traits, b: Traits) -> float | None:
    """How many doublings lie between two kernels; None where they are not comparable."""
    if a.keys() != b.keys():
        return None
    return sum(abs(a[name] - b[name]) for name in a)


def read_traits(text: str) -> dict[str, float]:
    """Traits as they are kept. Raises msgspec.DecodeError."""
    return msgspec.json.decode(text, type=dict[str, float])


def _bits(operands: tuple[Value, ...]) -> int:
    """Of a number of the widest operand."""
    return max((o.tensor.dtype.bits for o in operands if _is_array(o)), default=32)


def _is_array(value: Value) -> bool:
    return isinstance(value.type, TensorType)


def _evaluated(dims: Mapping[str, Dim], sizes: Mapping[str, int]) -> dict[str, int]:
    return {name: evaluate(dim, sizes) for name, dim in dims.items()}


def _count(shape: Shape, sizes: Mapping[str, int]) -> int:
    return evaluate(product(shape), sizes)
