"""The rules of a manifest that types cannot say: whatever it names exists, and dimensions parse.

Both sides obey them: what we would refuse to load is never written.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from tilewright.dsl.dtypes import BY_NAME
from tilewright.dsl.errors import (
    ArtifactVersion,
    DimError,
    InvalidManifest,
    InvalidName,
    UnsafePath,
)
from tilewright.dsl.ident import ident, path
from tilewright.runtime.dim_table import DimTable, symbol_table
from tilewright.runtime.host_functions import HOST_DTYPES, HOST_FUNCTIONS
from tilewright.runtime.schema import (
    CollectiveStep,
    CopyStep,
    GraphPlan,
    HostStep,
    Manifest,
    Port,
    ReferenceStep,
    SpanStep,
    StateRecord,
    Step,
)
from tilewright.runtime.weights import WEIGHTS_FILE

MANIFEST_FILE: Final = "manifest.json"
EXTRAS: Final = frozenset({"mesh", "reference", "run"})
"""What an artifact may ask for in `requires`."""

_SEGMENT: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}", re.ASCII)
_MAX_DEPTH: Final = 8


def check_path(name: str) -> None:
    """Raises UnsafePath unless `name` is a plain relative path that stays inside its folder."""
    parts = name.split("/")
    plain = all(_SEGMENT.fullmatch(part) is not None for part in parts)
    if not plain or len(parts) > _MAX_DEPTH or name == MANIFEST_FILE:
        raise UnsafePath(
            f"{name[:80]!r} is no path of a file inside an artifact",
            fix="do not use this artifact: nothing of ours writes such a name",
        )


def check_manifest(manifest: Manifest) -> None:
    """Raises InvalidManifest, UnsafePath or ArtifactVersion for the first rule that is broken."""
    for name in manifest.files:
        check_path(name)
    for extra in manifest.requires:
        if extra not in EXTRAS:
            raise ArtifactVersion(
                f"the artifact needs {extra[:80]!r}, which this version does not know",
                fix="install the version that made it, or compile the model again",
            )
    try:
        _check_tables(manifest)
        for plan in manifest.graphs:
            _check_graph(manifest, plan)
    except (DimError, InvalidName) as mistake:
        raise InvalidManifest(mistake.message, fix=mistake.fix) from mistake


def _check_tables(manifest: Manifest) -> None:
    _unique("symbol", [s.name for s in manifest.symbols])
    _unique("state", [path(s.path) for s in manifest.states])
    _unique("weights", [w.name for w in manifest.weights])
    for record in manifest.weights:
        _check_dtype(record.name, record.dtype)
        if record.name.startswith("__") or min(record.shape, default=0) < 0:
            raise InvalidManifest(f"{record.name[:80]!r} has a name or shape that no weights have")
    if (WEIGHTS_FILE in manifest.files) != bool(manifest.weights):
        raise InvalidManifest(f"the weights of the manifest and {WEIGHTS_FILE} belong together")
    _check_listed(manifest, [section.library for section in manifest.sections])
    _check_listed(manifest, [] if manifest.tokenizer is None else [manifest.tokenizer])
    dims = DimTable(symbol_table(manifest.symbols), [s.name for s in manifest.symbols])
    for state in manifest.states:
        _check_state(state, dims)
    for axis, size in manifest.mesh:
        if size < 1:
            raise InvalidManifest(f"mesh axis {ident(axis)} has {size} ranks")
    ranks = math.prod(size for _, size in manifest.mesh)
    if manifest.rank is not None and not 0 <= manifest.rank < ranks:
        raise InvalidManifest(f"a mesh of {ranks} ranks has no rank {manifest.rank}")


def _check_state(state: StateRecord, dims: DimTable) -> None:
    _check_ports(state.components, dims)
    axis = state.tokens_axis
    for port in state.components:
        if axis is not None and not 0 <= axis < len(port.shape):
            raise InvalidManifest(f"{port.name} of state {state.path} has no axis {axis}")


def _check_graph(manifest: Manifest, plan: GraphPlan) -> None:
    ident(plan.name)
    known = symbol_table(manifest.symbols)
    _check_known("symbol", plan.symbols, known)
    _check_known(f"symbol of {plan.name}:", plan.bound, plan.symbols)
    _check_known("state", plan.states, {s.path for s in manifest.states})
    names = [p.name for p in plan.inputs] + plan.bound
    _unique("input", names)
    _unique("output", [p.name for p in plan.outputs])
    dims = DimTable(known, plan.symbols)
    _check_ports([*plan.inputs, *plan.outputs], dims)
    dims.numbers([plan.arena, *plan.requires, *(slot.offset for slot in plan.slots)])
    places = {
        "input": {*names},
        "output": {p.name for p in plan.outputs},
        "weight": {w.name for w in manifest.weights},
        "state": {p.name for s in manifest.states if s.path in plan.states for p in s.components},
        "arena": {""},
    }
    for slot in plan.slots:
        _check_known(slot.place, [slot.name], places[slot.place])
    for step in plan.steps:
        _check_step(manifest, step, len(plan.slots), dims)


def _check_step(manifest: Manifest, step: Step, slots: int, dims: DimTable) -> None:
    match step:
        case SpanStep():
            used = step.slots
            dims.numbers(step.symbols)
            _check_known("library", [step.library], {s.library for s in manifest.sections})
        case CopyStep():
            used = [step.source, step.target]
            dims.number(step.size)
        case ReferenceStep():
            used = [*step.inputs, *step.outputs]
            _check_listed(manifest, [step.region])
        case HostStep():
            used = [step.source, *step.targets]
            dims.numbers(step.shape)
            _check_host(step)
        case CollectiveStep():
            used = [step.source, step.target]
            dims.number(step.count)
            _check_dtype(step.op, step.dtype)
            _check_known("mesh axis", [step.axis], {axis for axis, _ in manifest.mesh})
    if any(not 0 <= index < slots for index in used):
        raise InvalidManifest(f"a step uses a slot beyond the {slots} of its graph")


def _check_host(step: HostStep) -> None:
    _check_known("host function", [step.function], HOST_FUNCTIONS)
    _check_known("dtype of a host step:", [step.dtype], HOST_DTYPES)
    function = HOST_FUNCTIONS[step.function]
    if len(step.shape) < function.rank or len(step.targets) != function.results:
        raise InvalidManifest(
            f"a host step gives {step.function} an array of rank {len(step.shape)} and has "
            f"{len(step.targets)} results"
        )


def _check_ports(ports: Sequence[Port], dims: DimTable) -> None:
    for port in ports:
        _check_dtype(port.name, port.dtype)
        dims.numbers(port.shape)


def _check_dtype(name: str, dtype: str) -> None:
    _check_known(f"dtype of {name[:80]}:", [dtype], BY_NAME)


def _check_listed(manifest: Manifest, names: Iterable[str]) -> None:
    _check_known("file", names, manifest.files)


def _check_known(what: str, names: Iterable[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise InvalidManifest(f"the manifest names {what} {name[:80]!r}, which does not exist")


def _unique(what: str, names: Sequence[str]) -> None:
    if len(set(names)) != len(names):
        raise InvalidManifest(f"the manifest gives one name to two of its {what}s")
