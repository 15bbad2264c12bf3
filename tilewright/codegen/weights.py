"""Stored weights: parameters as the source has them, or prepared, in component arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from tilewright.dsl.codec import decode_components, encode_array, is_short, row_blocks, tile
from tilewright.dsl.dtypes import ALL, DType, bf16
from tilewright.dsl.encoding import Dense, Encoding, Tiled, components
from tilewright.dsl.errors import WeightFormatMismatch, WeightShapeMismatch
from tilewright.dsl.graph import Graph, Node, Output, Value
from tilewright.dsl.ident import Ident
from tilewright.dsl.meaning import evaluate
from tilewright.dsl.op import get
from tilewright.dsl.program import Program
from tilewright.dsl.types import TensorType, Type
from tilewright.runtime.schema import WeightRecord

Array = NDArray[Any]


class Reader(Protocol):
    """Gives the imported parameters by path."""

    def read(self, name: str) -> Array:
        """One parameter as an array of any float format."""
        ...


class StoredWeights(Mapping[str, Array]):
    """The component arrays of a program's parameters, each made when it is looked up.

    Parameters are converted to the program's formats; prepared ones are computed from them by the
    reference, except that mere movement is done on the bytes.
    """

    def __init__(self, program: Program, prepared: Mapping[str, Graph], reader: Reader) -> None:
        self._prepared = prepared
        self._reader = reader
        self._types: dict[str, tuple[str, str, TensorType]] = {}
        self._last: tuple[str, dict[str, Array]] = ("", {})
        for declared in program.params:
            assert isinstance(declared.type, TensorType)
            for part, type_ in components(declared.type).items():
                name = declared.path if part == "data" else f"{declared.path}:{part}"
                # A dense component named `data` of an encoded weight keeps the plain name too.
                self._types[name] = (declared.path, part, type_)
        self._params: dict[str, Type] = {d.path: d.type for d in program.params}

    def records(self) -> list[WeightRecord]:
        """What is stored, in order."""
        return [
            WeightRecord(name, type_.dtype.name, [int(str(d)) for d in type_.shape])
            for name, (_, _, type_) in self._types.items()
        ]

    def errors(self) -> dict[str, float]:
        """How far each lossily encoded weight is from what it was made from, in the L2 norm.

        By `relative_l2:` and the path of its first imported parameter.
        """
        found: dict[str, float] = {}
        for path, type_ in self._params.items():
            recipe = self._prepared.get(path)
            if recipe is None or not isinstance(type_, TensorType) or not _is_lossy(type_.encoding):
                continue
            dense = self._evaluated(_before_encode(recipe))
            # What is stored short is not read, and its preparation not run, once more.
            short = is_short(type_.encoding) and dense.dtype == bf16.numpy
            parts = _encoded(dense, type_) if short else self._made(path)
            found[f"relative_l2:{self._source(recipe)}"] = _lost(dense, parts, type_)
        return found

    def _source(self, recipe: Graph) -> str:
        """The first imported parameter that a preparation reads."""
        path = recipe.inputs[0].path
        while path in self._prepared:
            path = self._prepared[path].inputs[0].path
        return path

    def __getitem__(self, name: str) -> Array:
        path, part, _ = self._types[name]
        if self._last[0] != path:
            self._last = (path, self._made(path))
        return self._last[1][part]

    def __iter__(self) -> Iterator[str]:
        return iter(self._types)

    def __len__(self) -> int:
        return len(self._types)

    def _made(self, path: str) -> dict[str, Array]:
        recipe = self._prepared.get(path)
        found = self._imported(path) if recipe is None else self._evaluated(recipe)
        if isinstance(found, dict):
            return cast("dict[str, Array]", found)
        type_ = self._params[path]
        assert isinstance(type_, TensorType)
        return {"data": found} if type_.is_dense else encode_array(found, type_)

    def _imported(self, path: str) -> Array:
        type_ = self._params[path]
        assert isinstance(type_, TensorType)
        return read_as(self._reader, path, type_)

    def _evaluated(self, recipe: Graph) -> Any:
        inputs: dict[str, Any] = {}
        for entry in recipe.inputs:
            nested = self._prepared.get(entry.path)
            inputs[entry.path] = (
                read_as(self._reader, entry.path, entry.value.tensor)
                if nested is None
                else self._evaluated(nested)
            )
        if all(_moves(node) for node in recipe.nodes):
            return _moved(recipe, inputs)
        return evaluate(recipe, inputs)["out"]


def read_as(reader: Reader, path: str, type_: TensorType) -> Array:
    """An imported parameter in the program's format.

    Raises WeightShapeMismatch and WeightFormatMismatch.
    """
    found = reader.read(path)
    wanted = tuple(int(str(d)) for d in type_.shape)
    if found.shape != wanted:
        raise WeightShapeMismatch(
            f"the weight {path} has shape {list(found.shape)}, expected {list(wanted)}"
        )
    return found if found.dtype == type_.dtype.numpy else _converted(found, path, type_.dtype)


def _converted(found: Array, path: str, dtype: DType) -> Array:
    """Numbers in another format: rounded to a float, but never cut off, wrapped or overflown."""
    kind = "f" if found.dtype in _SHORT_FLOATS else found.dtype.kind
    if kind not in _ACCEPTED[dtype.kind]:
        raise WeightFormatMismatch(
            f"the weight {path} holds {found.dtype}, the model needs {dtype}",
            fix="convert it, rounded as you want it to be",
        )
    with np.errstate(over="ignore", invalid="ignore"):
        made = found.astype(dtype.numpy)
    if dtype.is_float:
        fits = np.array_equal(np.isfinite(made), np.isfinite(found))
    else:
        fits = np.array_equal(made.astype(found.dtype), found)
    if not fits:
        raise WeightFormatMismatch(
            f"the weight {path} holds numbers that are too large for {dtype}",
            fix="compile with a wider number format",
        )
    return made


_SHORT_FLOATS: Final = frozenset(d.numpy for d in ALL if d.is_float and d.numpy.kind == "V")
_ACCEPTED: Final = {"float": "fiub", "int": "iub", "uint": "iub", "bool": "b"}
"""Kinds of NumPy's numbers that become numbers of ours without loss, rounding to floats aside."""


_MOVES = frozenset(
    {"concat", "reshape", "part", "permute_dims", "row", "slice", "stack", "encode", "copy"}
)


def _moves(node: Node) -> bool:
    if node.op == "encode":
        encoding = node.attrs.encoding("encoding")
        if is_short(encoding):
            return node.operands[0].tensor.dtype == bf16
        return isinstance(encoding, Tiled) and isinstance(encoding.values, Dense)
    return node.op in _MOVES


def _moved(recipe: Graph, inputs: Mapping[str, Any]) -> Any:
    """The recipe on the stored bytes: these steps need no wider numbers."""
    env: dict[Ident, Any] = {i.value.name: inputs[i.path] for i in recipe.inputs}
    for node in recipe.nodes:
        operands = [env[o.name] for o in node.operands]
        if node.op == "encode":
            found = (_encoded(operands[0], node.result.tensor),)
        else:
            types = [r.type for r in node.results]
            found = get(node.op).meaning(np, operands, node.attrs, types)
        env.update(zip((r.name for r in node.results), found, strict=True))
    return env[_out(recipe).name]


def _encoded(x: Array, type_: TensorType) -> dict[str, Array]:
    if is_short(type_.encoding):
        parts = encode_array(x, type_)
    else:
        (stored,) = components(type_).values()
        parts = {"data": tile(x, stored)}
    return {name: np.ascontiguousarray(part) for name, part in parts.items()}


def _lost(dense: Array, parts: Mapping[str, Array], type_: TensorType) -> float:
    """What decoding does not give back, in the L2 norm relative to what was encoded."""
    lost = 0.0
    for rows, block, block_type in row_blocks(parts, type_):
        wanted, found = dense[rows], decode_components(block, block_type)
        if not np.array_equal(wanted, found):
            lost += _squares(found.astype(np.float64) - wanted.astype(np.float64))
    if lost == 0.0:
        return 0.0
    total = sum(_squares(dense[at].astype(np.float64)) for at, _, _ in row_blocks(parts, type_))
    return math.sqrt(lost) / max(math.sqrt(total), 1e-30)


def _squares(x: Array) -> float:
    return float(np.sum(x * x))


def _is_lossy(encoding: Encoding) -> bool:
    """False where decoding gives back every element."""
    match encoding:
        case Tiled():
            return _is_lossy(encoding.values)
        case Dense():
            return False
        case _:
            return True


def _before_encode(recipe: Graph) -> Graph:
    """The part of a preparation that makes what its last step encodes."""
    (dense,) = recipe.nodes[-1].operands
    return Graph(recipe.name, recipe.inputs, recipe.nodes[:-1], (Output("out", dense),))


def _out(recipe: Graph) -> Value:
    return recipe.outputs[0].value
