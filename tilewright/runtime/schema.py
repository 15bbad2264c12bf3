"""The artifact's records: what `manifest.json` holds, as typed, strict structures.

Sizes, offsets and shapes are dimension texts over the program's symbols (`dsl.dims`). Everything a
kernel touches is a slot: an address that is computed once a call. `manifest_check` has the rules
that these records obey beyond their types.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from tilewright.runtime.native import ABI

SCHEMA_VERSION = 3
ABI_VERSION = ABI

Place = Literal["input", "output", "weight", "state", "arena"]
"""Where bytes live: the caller's arrays, the mapped weights, a session's state, scratch."""


class SymbolRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """A symbol: its inclusive range and what its values are multiples of."""

    name: str
    lo: int
    hi: int
    multiple_of: int = 1


class Port(Struct, frozen=True, forbid_unknown_fields=True):
    """An input or output of a graph as the caller sees it: a dense array in row-major order."""

    name: str
    dtype: str
    shape: list[str]


class StateRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """A state: component arrays that live as long as a session, zero at its start.

    `tokens_axis` is the axis of positions in each component (a cache), or None.
    """

    path: str
    components: list[Port]
    tokens_axis: int | None = None


class Slot(Struct, frozen=True, forbid_unknown_fields=True):
    """An address: the start of a named thing, plus an offset in bytes.

    `name` is the port's name (or a bound symbol's: its value as an i64), the weight's name (`path`
    or `path:component`), or the state's component (`path:component`); it is empty for the arena.
    """

    place: Place
    name: str
    offset: str = "0"


class SpanStep(Struct, frozen=True, forbid_unknown_fields=True, tag="span"):
    """One native call by the whole team: `symbol(rank, size, symbols, pointers)`.

    `library` is that of a section. `slots[i]` gives pointer i; `symbols` are dimension texts, whose
    values the function expects in this order.
    """

    library: str
    symbol: str
    symbols: list[str]
    slots: list[int]
    kernels: list[str]


class CopyStep(Struct, frozen=True, forbid_unknown_fields=True, tag="copy"):
    """Copies `size` bytes between two slots."""

    source: int
    target: int
    size: str


class ReferenceStep(Struct, frozen=True, forbid_unknown_fields=True, tag="reference"):
    """Runs a graph by its meaning (`--fallback reference`).

    `region` names a file in the artifact that holds the graph in text form. A slot is given for
    each component of each input and output, in order: `data` of a dense tensor, all components of
    an encoded one, `k` and `v` (or all of `k_...`, then all of `v_...`) of a cache. Inputs that
    bind a symbol take no slot.
    """

    region: str
    inputs: list[int]
    outputs: list[int]


class HostStep(Struct, frozen=True, forbid_unknown_fields=True, tag="host"):
    """Runs a function of `runtime.host_functions` on one dense array, through NumPy.

    `shape` and `dtype` are the array's; how the results look follows from the function. A slot is
    given for each result, in order.
    """

    function: str
    dtype: str
    shape: list[str]
    source: int
    targets: list[int]


class CollectiveStep(Struct, frozen=True, forbid_unknown_fields=True, tag="collective"):
    """Posts, or waits for, one collective over a mesh axis; `handle` ties a wait to its post.

    `count` elements are read at `source` on each rank; `reduce` is empty where nothing is reduced.
    """

    phase: Literal["post", "wait"]
    handle: int
    op: str
    axis: str
    reduce: str
    dtype: str
    source: int
    target: int
    count: str


Step = SpanStep | CopyStep | ReferenceStep | HostStep | CollectiveStep


class GraphPlan(Struct, frozen=True, forbid_unknown_fields=True):
    """How one graph of the program runs.

    Several plans may have one name, over the libraries of different sections: the first that this
    machine can run is the one that counts.
    """

    name: str
    inputs: list[Port]
    bound: list[str]
    """Symbols that are given as scalar inputs of the same name; they are among `symbols`."""
    outputs: list[Port]
    states: list[str]
    symbols: list[str]
    """Every symbol that the graph binds or mentions."""
    slots: list[Slot]
    steps: list[Step]
    arena: str
    """Bytes of scratch, as a formula."""
    arena_bound: int
    """Bytes of scratch at the symbols' upper bounds."""
    requires: list[str] = []
    """Dimension texts that must not be negative, checked each call: `2048 - past - seq`."""


class WeightRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """A stored component: a flat array in `weights.safetensors`, padded to 64 bytes."""

    name: str
    dtype: str
    shape: list[int]


class Section(Struct, frozen=True, forbid_unknown_fields=True):
    """The compiled code of one target, and the flags of /proc/cpuinfo that it needs."""

    target: str
    features: list[str]
    library: str
    abi: int


class Certificate(Struct, frozen=True, forbid_unknown_fields=True):
    """A rewrite that fired, the claim it was held to and how often."""

    rule: str
    claim: str
    count: int


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole artifact."""

    schema: int
    program: str
    """Hash of the text of graph.tw."""
    files: dict[str, str]
    """The digest (`digest.digest`) of every other file, by path inside the artifact."""
    tools: dict[str, str]
    symbols: list[SymbolRecord]
    states: list[StateRecord]
    weights: list[WeightRecord]
    graphs: list[GraphPlan]
    sections: list[Section]
    mesh: list[tuple[str, int]] = []
    rank: int | None = None
    """The rank that the artifact is for; None: for every rank alike."""
    certificates: list[Certificate] = []
    errors: dict[str, float] = {}
    """Measured errors of approximating rewrites and of kernels, by name."""
    requires: list[str] = []
    """Extras that running needs, such as `reference`."""
    tokenizer: str | None = None
    metadata: dict[str, str] = {}
    digest: str = ""
    """SHA-256 of this record's canonical JSON with this field empty."""
