"""Target specifications: their text, their checks, their canonical form.

    cpu[:native|generic|<processor>][+feature...]      cuda:sm_90      hip:gfx942

`cpu` means `cpu:native`. `generic` is the plain baseline of the machine the compiler runs on:
x86-64 with SSE2 and neither AVX nor FMA, or aarch64 with NEON. Processor and feature names are
those of LLVM.
"""

from __future__ import annotations

import difflib
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tilewright.dsl.errors import UnknownTarget, UnknownTargetFeature
from tilewright.target.features import (
    ARM,
    BASELINE_CPU,
    CPUS,
    FLAGS,
    X86,
    closure,
    machine_of_cpu,
    ordered,
)

GPU_ARCHES: Final = {
    "cuda": ("sm_80", "sm_90", "sm_100", "sm_120"),
    "hip": ("gfx942", "gfx950"),
}
KINDS: Final = ("cpu", *GPU_ARCHES)

_SPEC: Final = re.compile(
    r"(?P<kind>[a-z]{1,16})(:(?P<arch>[a-z0-9][a-z0-9_.-]{0,31}))?(?P<features>(\+[a-z0-9.-]{1,31})*)",
    re.ASCII,
)
_MAX_LENGTH: Final = 1024


@dataclass(frozen=True, slots=True)
class Target:
    """A device to compile for, in canonical form: `parse_target(str(t)) == t`.

    `kind` is `cpu`, `cuda` or `hip`; `arch` is `native`, `generic`, an LLVM processor name or a GPU
    architecture; `features` adds instruction sets to a processor, without those implied already.

    Raises `UnknownTarget` and `UnknownTargetFeature`.
    """

    kind: str
    arch: str = "native"
    features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UnknownTarget(
                f"there is no target kind {self.kind!r}", fix=_hint(self.kind, KINDS)
            )
        if self.kind == "cpu":
            _check_processor(self.arch)
        elif self.arch not in GPU_ARCHES[self.kind]:
            known = GPU_ARCHES[self.kind]
            raise UnknownTarget(
                f"{self.kind} has no architecture {self.arch!r}", fix=_hint(self.arch, known)
            )
        object.__setattr__(self, "features", self._canonical_features())

    def _canonical_features(self) -> tuple[str, ...]:
        if self.kind != "cpu" and self.features:
            raise UnknownTargetFeature(
                f"{self.kind}:{self.arch} takes no features",
                fix="drop everything from the first '+'",
            )
        machine = machine_of(self) if self.kind == "cpu" else X86
        for name in self.features:
            if name not in FLAGS[machine]:
                raise UnknownTargetFeature(
                    f"{machine} has no feature {name!r}", fix=_hint(name, FLAGS[machine])
                )
        asked = frozenset(self.features) - closure(self._own_features())
        implied = {n for name in asked for n in closure(frozenset({name})) - {name}}
        return ordered(asked - implied, machine)

    def _own_features(self) -> frozenset[str]:
        if self.kind != "cpu" or self.arch == "native":
            return frozenset()
        machine = machine_of(self)
        name = BASELINE_CPU[machine] if self.arch == "generic" else self.arch
        return CPUS[machine][name]

    def __str__(self) -> str:
        return "+".join((f"{self.kind}:{self.arch}", *self.features))


def parse_target(text: str) -> Target:
    """The target that `text` names. Raises `UnknownTarget` and `UnknownTargetFeature`."""
    text = str(text)  # whatever a caller gives, it is no target unless it reads as one
    match = _SPEC.fullmatch(text) if len(text) <= _MAX_LENGTH else None
    if match is None:
        raise UnknownTarget(
            f"{text[:80]!r} is not a target",
            fix="write cpu, cpu:generic, cpu:znver4+avx512bf16, cuda:sm_90 or hip:gfx942",
        )
    kind, arch = match["kind"], match["arch"]
    if arch is None:
        if kind in GPU_ARCHES:
            example = GPU_ARCHES[kind][-1]
            raise UnknownTarget(f"{kind} needs an architecture", fix=f"write {kind}:{example}")
        arch = "native"
    return Target(kind, arch, tuple(filter(None, match["features"].split("+"))))


def host_machine() -> str:
    """`x86_64` or `aarch64`. Raises `UnknownTarget` on any other machine."""
    name = platform.machine().lower()
    machine = {"x86_64": X86, "amd64": X86, "aarch64": ARM, "arm64": ARM}.get(name)
    if machine is None:
        raise UnknownTarget(f"this machine is a {name!r}", fix="compile on x86_64 or aarch64")
    return machine


def machine_of(target: Target) -> str:
    """The instruction set family of a cpu target: `x86_64` or `aarch64`."""
    if target.arch in ("native", "generic"):
        return host_machine()
    machine = machine_of_cpu(target.arch)
    if machine is None:
        raise UnknownTarget(f"{target} is not a cpu target", fix="pass a cpu target")
    return machine


def known_targets() -> tuple[str, ...]:
    """Every target without features, in canonical text, for listings."""
    cpus = sorted(name for names in CPUS.values() for name in names)
    gpus = (f"{kind}:{arch}" for kind, arches in GPU_ARCHES.items() for arch in arches)
    return ("cpu:native", "cpu:generic", *(f"cpu:{name}" for name in cpus), *gpus)


def _check_processor(name: str) -> None:
    if name in ("native", "generic") or machine_of_cpu(name) is not None:
        return
    known = ("native", "generic", *(cpu for names in CPUS.values() for cpu in names))
    raise UnknownTarget(f"there is no processor {name!r}", fix=_hint(name, known))


def _hint(word: str, known: Iterable[str]) -> str:
    names = tuple(known)
    near = [name for name in names if len(word) > 2 and word in name][:3]
    near = near or difflib.get_close_matches(word, names, n=3)
    if near:
        return f"did you mean {' or '.join(near)}?"
    shown = ", ".join(names[:8])
    return f"known: {shown}" + (" ... (see `tilewright list targets`)" if len(names) > 8 else "")
