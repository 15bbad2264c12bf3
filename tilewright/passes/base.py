"""A pass is a checked claim: a frozen dataclass in a file of its own.

Its fields are its options; the Python object, the command line's text and the log line are one
thing (`repr` and `parse_pass` in pipeline.py). Its docstring states `before -> after` and the side
condition.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import ClassVar, Literal, Protocol

from tilewright.dsl.encoding import Tiled
from tilewright.dsl.graph import Graph, Node, Value
from tilewright.dsl.ident import Ident
from tilewright.dsl.placement import Mesh
from tilewright.dsl.program import Program
from tilewright.dsl.types import TensorType
from tilewright.passes.claim import Claim
from tilewright.passes.log import DecisionLog
from tilewright.passes.plan import Choices
from tilewright.target.spec import Target

Stage = Literal["import", "canonical", "semantic", "localize", "layout", "fuse", "plan"]
STAGES: tuple[Stage, ...] = (
    "import",
    "canonical",
    "semantic",
    "localize",
    "layout",
    "fuse",
    "plan",
)
"""The order of the stages. `localize` stands before `layout` and `fuse`: what is stored (prepared
parameters, tiles of weights) is then decided over the shapes that a rank really has, and no pass
but `localize` needs to know both a region and a mesh. The four rewrites of communication work in
the global view, so they are semantic passes.
"""
Check = Literal["off", "local", "full"]


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Nodes of the graph and what stands for them.

    Every value of `before` that is used outside must be defined by `after` under the same name and
    type, or named in `forward` with the value that takes its place. `after` is put where the last
    node of `before` stood, or where the first stood if `early` (its operands must exist there).
    """

    before: tuple[Node, ...]
    after: tuple[Node, ...] = ()
    forward: Mapping[Ident, Value] = field(default_factory=dict[Ident, Value])
    reason: str = ""
    gain_bytes: int | None = None
    early: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """The rewrite would match here but for a side condition that failed."""

    reason: str


class Backend(Protocol):
    """What passes may ask of a backend."""

    @property
    def name(self) -> str:
        """The backend's name."""
        ...

    def accepts(self, region: Node) -> Refusal | None:
        """None where a region can be lowered, else why not."""
        ...

    def weight_tiles(self, weight: TensorType) -> Tiled | None:
        """The tiles in which a matmul kernel streams such a weight; None: row by row."""
        ...

    def streams_short(self, weight: TensorType) -> bool:
        """Whether a matmul kernel streams such a weight faster in 12 bits an element (`SHORT`)."""
        ...


@dataclass
class PassContext:
    """What a compilation carries from pass to pass."""

    target: Target
    mesh: Mesh = field(default_factory=Mesh)
    rank: int = 0
    """The rank of the mesh that is compiled for; `localize` alone asks."""
    choices: Choices = field(default_factory=Choices)
    log: DecisionLog = field(default_factory=DecisionLog)
    check: Check = "local"
    prepared: dict[str, Graph] = field(default_factory=dict[str, Graph])
    """Parameters made at compile time, by path: graphs over the imported parameters."""
    backend: Backend | None = None
    """Who will lower the regions; passes ask it what it prefers. None: the reference."""

    def choose(self, choice_id: str, options: Sequence[str], default: str) -> str:
        """The plan's option, or the default. See Choices.choose."""
        return self.choices.choose(choice_id, options, default)


class Pass(ABC):
    """A rewrite of programs. Subclasses are frozen dataclasses."""

    name: ClassVar[str]
    stage: ClassVar[Stage]
    preserves: ClassVar[Claim]
    cleans_up: ClassVar[bool] = False
    """True where the pass may also run in later stages, after passes that leave loose ends."""

    @abstractmethod
    def run(self, program: Program, ctx: PassContext) -> Program:
        """The rewritten program; the argument is never changed."""

    def options(self) -> dict[str, object]:
        """The options that differ from their defaults."""
        return {
            f.name: getattr(self, f.name)
            for f in fields(self)  # pyright: ignore[reportArgumentType]  # subclasses are dataclasses
            if getattr(self, f.name) != f.default
        }

    def __str__(self) -> str:
        options = ",".join(f"{k}={_text(v)}" for k, v in self.options().items())
        return f"{self.name}{{{options}}}" if options else self.name


class GraphPass(Pass):
    """A pass that treats every graph on its own."""

    @abstractmethod
    def run_graph(self, graph: Graph, ctx: PassContext) -> Graph:
        """The rewritten graph."""

    def run(self, program: Program, ctx: PassContext) -> Program:
        """Every graph rewritten; tables collected anew."""
        graphs = [self.run_graph(graph, ctx) for graph in program.graphs]
        same = all(new is old for new, old in zip(graphs, program.graphs, strict=True))
        return program if same else program.with_graphs(graphs)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
