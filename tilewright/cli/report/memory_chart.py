"""The chart of a subject's memory: bytes against time, and what no other one beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tilewright.cli.report.charts import RATIO
from tilewright.cli.report.drawing import BLUE, GRAY, Figure, axis, figure, lines
from tilewright.cli.report.subjects import point_words
from tilewright.cli.talk import amount

if TYPE_CHECKING:
    from tilewright.autotune.pareto import Contender


def memory_chart(found: Sequence[Contender], front: Sequence[Contender]) -> Figure:
    """All candidates with known bytes, and the Pareto set among them as steps."""
    others = [c for c in found if c not in front]
    marked = {
        "mode": "lines+markers",
        "line": {"shape": "hv", "color": BLUE, "width": 2},
        "marker": {"color": BLUE, "size": 10},
    }
    traces = [
        _trace(others, "candidate", {"mode": "markers", "marker": {"color": GRAY, "size": 7}}),
        _trace(front, "no other beats it in both", marked),
    ]
    return figure(
        [trace for trace in traces if trace["x"]],
        "Memory and time",
        330,
        xaxis=axis(RATIO),
        yaxis=axis("bytes", rangemode="tozero"),
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom"},
    )


def _trace(found: Sequence[Contender], name: str, look: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "name": name,
        "x": [c.ratio for c in found],
        "y": [c.bytes for c in found],
        "text": [_told(c) for c in found],
        "hoverinfo": "text",
        **look,
    }


def _told(found: Contender) -> str:
    point = "the default" if found.point is None else point_words(found.point)
    return lines(f"{found.ratio:.3f} of the default's time", amount(found.bytes, "B"), point)
