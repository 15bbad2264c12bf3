"""A loaded artifact: its graphs as functions of NumPy arrays."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from tilewright.dsl.errors import InvalidSession, TokenizerMissing, UnknownGraph
from tilewright.hostcpu import usable_threads
from tilewright.runtime.artifact import Artifact, open_artifact
from tilewright.runtime.binding import check_mapping
from tilewright.runtime.buffers import Array
from tilewright.runtime.dim_table import symbol_table
from tilewright.runtime.executor import GraphExecutor, Workspace
from tilewright.runtime.native import NativeLibrary
from tilewright.runtime.process_group import ProcessGroup, TorchProcessGroup
from tilewright.runtime.schema import GraphPlan, Manifest, Port, SymbolRecord
from tilewright.runtime.sections import runnable_plans
from tilewright.runtime.session import PAST, TOKENS, Session, state_symbols
from tilewright.runtime.team import ThreadTeam, check_size
from tilewright.runtime.timeline import Timeline
from tilewright.settings import load_settings

if TYPE_CHECKING:
    from tilewright.runtime.tokenizer import Tokenizer

_NOTHING: Final[Mapping[str, int]] = {}


@dataclass(frozen=True, slots=True)
class Signature:
    """What a graph takes and gives: arrays, integers by name, and the states that it changes."""

    inputs: tuple[Port, ...]
    scalars: tuple[SymbolRecord, ...]
    outputs: tuple[Port, ...]
    states: tuple[str, ...]


def load(
    folder: Path | str, threads: int | None = None, group: ProcessGroup | None = None
) -> Model:
    """Check an artifact and make it ready to run.

    threads: how many threads run kernels; by default `TILEWRIGHT_THREADS`, else all usable ones.
    group: the processes of a mesh artifact; by default those that `torchrun` started.

    Raises what `open_artifact` raises, UnsupportedMachine, NativeLibraryError, InvalidSetting,
    TeamError and ProcessGroupError.
    """
    if threads is not None:
        check_size(threads)
    settings = load_settings({"threads": None if threads is None else str(threads)})
    artifact = open_artifact(folder, huge_pages=settings.weights == "huge")
    threads = settings.threads or usable_threads()
    check_size(threads)
    axes = artifact.manifest.mesh
    if group is None and math.prod(size for _, size in axes) > 1:
        group = TorchProcessGroup(axes, rank=artifact.manifest.rank)
    return Model(artifact, threads, group)


class Model:
    """The graphs of an artifact, ready to be called; safe to use from several threads, in turn."""

    def __init__(self, artifact: Artifact, threads: int, group: ProcessGroup | None) -> None:
        self.artifact = artifact
        self.threads = threads
        self._symbols = symbol_table(artifact.manifest.symbols)
        self._plans = runnable_plans(artifact.manifest)
        self._workspace = Workspace()
        self._fixed = state_symbols(artifact.manifest.states, self._symbols)
        code = _Code(artifact, threads, group)
        self._close = weakref.finalize(self, _close_teams, code.teams)
        self._executors = {
            name: GraphExecutor(plan, self._symbols, self._fixed, code, self._workspace)
            for name, plan in self._plans.items()
        }

    @property
    def manifest(self) -> Manifest:
        """The artifact's records."""
        return self.artifact.manifest

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the compiler noted about the model: `kind`, `context`, `eos` ..."""
        return self.artifact.manifest.metadata

    @property
    def graphs(self) -> tuple[str, ...]:
        """Names of the graphs."""
        return tuple(self._plans)

    @property
    def arena_bytes(self) -> int:
        """Bytes of scratch memory that the largest call so far has taken."""
        return self._workspace.arena.size

    def plan(self, graph: str) -> GraphPlan:
        """How a graph runs here. Raises UnknownGraph."""
        found = self._plans.get(str(graph))
        if found is None:
            raise UnknownGraph(
                f"the artifact has no graph {str(graph)[:80]!r}",
                fix=f"its graphs are: {', '.join(self.graphs)}",
            )
        return found

    def signature(self, graph: str) -> Signature:
        """What a graph takes and gives. Raises UnknownGraph."""
        plan = self.plan(graph)
        records = {record.name: record for record in self.manifest.symbols}
        return Signature(
            tuple(plan.inputs),
            tuple(records[name] for name in plan.bound),
            tuple(plan.outputs),
            tuple(plan.states),
        )

    def run(
        self,
        graph: str,
        inputs: Mapping[str, Any],
        session: Session | None = None,
        *,
        poison: bool = False,
        timeline: Timeline | None = None,
    ) -> dict[str, Array]:
        """Run a graph; the outputs, by name, are arrays that nobody else holds.

        Their memory is used for later outputs once the caller has let go of them and of all views;
        a model keeps up to `output_pool.POOL_BYTES` of it.

        inputs: an array for each port of the signature and an integer for each scalar. They are
            never written, and copied where they are strided, unaligned or of the other byte order.
        session: the state, for graphs that keep one. It provides `past` if that is not given, and
            counts the positions that the graph's `tokens` fill.
        poison: fill outputs and scratch with NaN first, and guard outputs, for tests of kernels.
        timeline: gets the time of the call, of its steps and of each kernel on each thread.

        Raises UnknownGraph, MissingInput, UnknownInput, DTypeError, ShapeError, SymbolRangeError,
        InvalidSession, OutOfMemory, and KernelOverrun with `poison`.
        """
        if timeline is None:
            return self._run(graph, inputs, session, poison, None)
        with timeline.call():
            return self._run(graph, inputs, session, poison, timeline)

    def _run(
        self,
        graph: str,
        inputs: Mapping[str, Any],
        session: Session | None,
        poison: bool,
        timeline: Timeline | None,
    ) -> dict[str, Array]:
        plan = self.plan(graph)
        run = self._executors[graph].run
        if session is None:
            if plan.states:
                raise InvalidSession(
                    f"graph {graph} keeps state", fix="pass session=model.session()"
                )
            return run(inputs, _NOTHING, _NOTHING, poison=poison, timeline=timeline)
        if getattr(session, "model", None) is not self:
            raise InvalidSession("the session belongs to another model", fix="model.session()")
        state, sizes = session.addresses, session.sizes
        if not plan.states or PAST not in plan.bound:
            return run(inputs, state, sizes, poison=poison, timeline=timeline)
        check_mapping(inputs)
        given = {PAST: session.position, **inputs}
        if given[PAST] != session.position:
            raise InvalidSession(
                f"past is {given[PAST]}, but the session holds {session.position} positions",
                fix="leave past out, or roll the session back first",
            )
        count = session.checked(_token_count(inputs.get(TOKENS)))
        outputs = run(given, state, sizes, poison=poison, timeline=timeline)
        session.advance(count)
        return outputs

    def session(self, **sizes: int) -> Session:
        """New state, all zero; `sizes` gives the symbols that state shapes mention, if any.

        Raises InvalidSession for a missing or unknown one, and SymbolRangeError.
        """
        return Session(self, self.manifest.states, self._symbols, sizes)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer kept in the artifact. Raises TokenizerMissing and MissingPackage."""
        from tilewright.runtime.tokenizer import Tokenizer

        name = self.manifest.tokenizer
        if name is None:
            raise TokenizerMissing(
                "the artifact holds no tokenizer", fix="pass token ids instead of text"
            )
        return Tokenizer(self.artifact.text(name))

    def close(self) -> None:
        """End the threads; the model cannot run native code any more. Closing twice is no fault."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Code:
    """The artifact's code and weights, as executors ask for them."""

    def __init__(self, artifact: Artifact, threads: int, group: ProcessGroup | None) -> None:
        self._artifact = artifact
        self._threads = threads
        self.weights = artifact.weights
        self.group = group
        self.mesh = dict(artifact.manifest.mesh)
        self.teams: dict[str, ThreadTeam] = {}

    def team(self, library: str) -> ThreadTeam:
        if library not in self.teams:
            native = NativeLibrary(self._artifact.path(library))
            self.teams[library] = ThreadTeam(native, self._threads)
        return self.teams[library]

    def text(self, name: str) -> str:
        return self._artifact.text(name)


def _close_teams(teams: dict[str, ThreadTeam]) -> None:
    for team in teams.values():
        team.close()


def _token_count(tokens: Any) -> int:
    """How many positions the tokens [batch, count] fill; 0 for what binding will refuse."""
    shape = getattr(tokens, "shape", ())
    return int(shape[1]) if len(shape) == 2 else 0
