"""Which parts of an artifact this machine can run, and the native code of those."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tilewright.dsl.errors import UnsupportedMachine
from tilewright.hostcpu import cpu_flags
from tilewright.runtime.native import ABI, request_amx
from tilewright.runtime.schema import GraphPlan, Manifest, Section, SpanStep


def refusal(section: Section) -> str | None:
    """Why this machine cannot run a section; None if it can. Asks for AMX where it is needed."""
    if section.target.partition(":")[0] != "cpu":
        return "only sections for processors run here"
    if section.abi != ABI:
        return f"its calling convention is {section.abi}, this version has {ABI}"
    missing = [flag for flag in section.features if flag not in cpu_flags()]
    if missing:
        return f"the processor lacks {', '.join(missing)}"
    if any(flag.startswith("amx") for flag in section.features) and not request_amx():
        return "the operating system does not let this process use AMX"
    return None


def runnable_plans(manifest: Manifest) -> dict[str, GraphPlan]:
    """The first plan of each graph that this machine can run.

    Raises UnsupportedMachine, with the reason for every section, where a graph has none.
    """
    refusals = {section.library: refusal(section) for section in manifest.sections}
    found: dict[str, GraphPlan] = {}
    for plan in manifest.graphs:
        if all(refusals[library] is None for library in libraries(plan)):
            found.setdefault(plan.name, plan)
    for plan in manifest.graphs:
        if plan.name not in found:
            raise _unsupported(plan.name, manifest.sections, refusals)
    return found


def libraries(plan: GraphPlan) -> list[str]:
    """The libraries whose spans a plan calls, each once."""
    return list(dict.fromkeys(s.library for s in plan.steps if isinstance(s, SpanStep)))


def _unsupported(
    graph: str, sections: Sequence[Section], refusals: Mapping[str, str | None]
) -> UnsupportedMachine:
    reasons = [f"{s.target}: {why}" for s in sections if (why := refusals[s.library]) is not None]
    return UnsupportedMachine(
        f"graph {graph} was not compiled for this machine ({'; '.join(reasons)})",
        fix="compile the model again here, or for everywhere with --target cpu:generic",
    )
