"""`tilewright doctor`: what is installed, what the machine can do, which settings are in force."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tilewright.cli.shell import Json, Traceback
from tilewright.cli.talk import Talk, amount

if TYPE_CHECKING:
    from tilewright.target.roofline import Roofline

_PACKAGES = {
    "numpy": "always",
    "apache-tvm": "compiling for cpus",
    "apache-tvm-ffi": "compiling for cpus",
    "triton": "compiling for gpus",
    "torch": "compiling for gpus, process groups",
    "optuna": "tuning",
    "gguf": "importing GGUF files",
    "safetensors": "importing models",
    "tokenizers": "prompts",
}


def doctor(
    measure: Annotated[bool, typer.Option("--measure", help="Measure the machine now.")] = False,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Show versions, the target, the machine's limits and the settings with their origin."""
    from tilewright.cli.settings import settings_here
    from tilewright.hostcpu import usable_threads
    from tilewright.settings import cache_folder
    from tilewright.target.cpu import resolve
    from tilewright.target.host import host
    from tilewright.target.roofline import recorded_roofline, roofline
    from tilewright.target.spec import parse_target
    from tilewright.version import __version__

    talk = Talk(json)
    settings = settings_here()
    if measure:
        with talk.working("measuring this machine"):
            limits: Roofline | None = roofline(fresh=True)
    else:
        limits = recorded_roofline()
    here = host()
    found: dict[str, Any] = {
        "tilewright": __version__,
        "python": sys.version.split()[0],
        "packages": {name: _version(name) for name in _PACKAGES},
        "processor": here.model,
        "target": str(resolve(parse_target(settings.target))),
        "threads": usable_threads(),
        "linker": _linker(),
        "cache": str(cache_folder(settings)),
        "roofline": None if limits is None else _rates(limits),
        "settings": [
            dict(zip(("name", "value", "origin"), r, strict=True)) for r in settings.rows()
        ],
        "unknown_variables": list(settings.unknown),
    }
    _show(talk, found, limits)
    talk.result(found)


def _show(talk: Talk, found: dict[str, Any], limits: Roofline | None) -> None:
    plain = ("tilewright", "python", "processor", "target", "threads", "linker", "cache")
    talk.table("", ("", ""), [(name, str(found[name] or "none")) for name in plain])
    packages: dict[str, str | None] = found["packages"]
    rows = [(n, packages[n] or "not installed", use) for n, use in _PACKAGES.items()]
    talk.table("Packages", ("package", "version", "needed for"), rows)
    if limits is None:
        talk.line("This machine has not been measured yet: tilewright doctor --measure")
    else:
        units = [(n, _rate(n, one), _rate(n, every)) for n, (one, every) in limits.rates.items()]
        heads = ("unit", "one thread", f"{limits.threads} threads")
        talk.table(f"Limits ({limits.source})", heads, units)
    settings = [(r["name"], r["value"], r["origin"]) for r in found["settings"]]
    talk.table("Settings", ("variable", "value", "origin"), settings)
    for name in found["unknown_variables"]:
        talk.say(f"there is no setting {name}: it has no effect")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _linker() -> str | None:
    """The command that would link; asking imports nothing heavy."""
    from tilewright.codegen.tvm.link import linker
    from tilewright.dsl.errors import LinkerMissing

    try:
        return " ".join(linker())
    except LinkerMissing:
        return None


def _rates(limits: Roofline) -> dict[str, Any]:
    rates = {name: list(pair) for name, pair in limits.rates.items()}
    return {"source": limits.source, "threads": limits.threads, "rates": rates}


def _rate(unit: str, value: float) -> str:
    return amount(value, "B/s" if unit == "stream_read" else "FLOP/s")
