"""Figures as Plotly's JavaScript takes them: plain data, in one style."""

from __future__ import annotations

import html
from math import floor, log10
from typing import Any, Final

Figure = dict[str, Any]

INK: Final = "#1f2933"
GRID: Final = "#e4e7eb"
GRAY: Final = "#8a94a6"
BLUE: Final = "#2563eb"
GREEN: Final = "#059669"
ORANGE: Final = "#d97706"
RED: Final = "#dc2626"


def plain(text: object) -> str:
    """A text as itself: Plotly takes `<b>` and `&lt;` in labels for markup."""
    return html.escape(str(text), quote=False)


def figure(traces: list[dict[str, Any]], title: str, height: int, **layout: Any) -> Figure:
    """Traces with a title, in our fonts and colours. `title` is ours, never a record's."""
    return {
        "data": traces,
        "layout": {
            "title": {"text": title, "x": 0, "xref": "paper", "font": {"size": 15}},
            "font": {"family": "system-ui, sans-serif", "size": 12, "color": INK},
            "paper_bgcolor": "white",
            "plot_bgcolor": "white",
            "height": height,
            "margin": {"l": 70, "r": 20, "t": 50, "b": 55},
            "hoverlabel": {"align": "left"},
            **layout,
        },
    }


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis with a thin grid. `title` is ours."""
    return {
        "title": {"text": title, "standoff": 8},
        "gridcolor": GRID,
        "zeroline": False,
        "linecolor": GRAY,
        "automargin": True,
        **more,
    }


def log_axis(title: str, low: float, high: float, **more: Any) -> dict[str, Any]:
    """A logarithmic axis from `low` to `high`, with 1, 2 and 5 of each power of ten, in full."""
    found = [
        digit * 10.0**power
        for power in range(floor(log10(low)), floor(log10(high)) + 1)
        for digit in (1, 2, 5)
    ]
    return axis(
        title,
        type="log",
        range=[log10(low), log10(high)],
        tickvals=found,
        ticktext=[f"{value:,.4g}" for value in found],
        **more,
    )


def lines(*texts: object) -> str:
    """What is shown under the pointer, a line each."""
    return "<br>".join(plain(text) for text in texts if text != "")
