"""The page: one file with everything in it, that asks no network for anything.

Texts are escaped by the template, figures stand as JSON that no tag can end, and a policy lets the
browser run the two scripts of ours by their hashes, and fetch nothing.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import msgspec

from tilewright.cli.report.content import KERNEL_HEADS, SUMMARY_HEADS, Content
from tilewright.dsl.errors import MissingPackage

if TYPE_CHECKING:
    from jinja2 import Environment


def render(content: Content) -> bytes:
    """The page in UTF-8. Raises MissingPackage without Jinja and Plotly."""
    try:
        from markupsafe import Markup

        environment = _environment()
        plotly = (files("plotly") / "package_data" / "plotly.min.js").read_text("utf-8")
    except ModuleNotFoundError as error:
        raise MissingPackage(
            f"a report needs {error.name}", fix="pip install 'tilewright[report]'"
        ) from error
    draw = _own("draw.js")
    text = environment.from_string(_own("page.html")).render(
        content=content,
        summary_heads=SUMMARY_HEADS,
        kernel_heads=KERNEL_HEADS,
        policy=_policy(plotly, draw),
        style=Markup(_own("page.css")),
        plotly=Markup(plotly),
        draw=Markup(draw),
        figures=Markup(embedded(content.figures)),
    )
    return text.encode("utf-8", "backslashreplace")


def embedded(value: Any) -> str:
    """JSON that stands in a script element: no text in it can end that, or begin a comment."""
    text = msgspec.json.encode(value).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _environment() -> Environment:
    from jinja2 import Environment, StrictUndefined

    return Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def _own(name: str) -> str:
    return (files("tilewright.cli.report") / name).read_text("utf-8")


def _policy(*scripts: str) -> str:
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
