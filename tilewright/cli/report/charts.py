"""The three charts of a subject: its trials, what matters in its space, and its candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import log10
from typing import TYPE_CHECKING, Any, Final

from tilewright.autotune.records import failure_class
from tilewright.cli.report.drawing import (
    BLUE,
    GRAY,
    GREEN,
    INK,
    ORANGE,
    RED,
    Figure,
    axis,
    figure,
    lines,
    plain,
)
from tilewright.cli.report.subjects import point_words

if TYPE_CHECKING:
    from tilewright.autotune.history import Candidate
    from tilewright.codegen.space import Value

RATIO: Final = "time over the default's"
_LABEL: Final = 24
"""Characters of a value or name that an axis shows."""
_BANDS: Final = (
    ("at least 3 % faster", 0.97, BLUE),
    ("like the default", 1.03, GREEN),
    ("up to 1.25x its time", 1.25, ORANGE),
    ("slower", float("inf"), GRAY),
)
"""Candidates by their ratio, and the colour of each band."""


def history_chart(candidates: Sequence[Candidate]) -> Figure:
    """Each candidate's time over the default's, in the order of the trials, and the best so far."""
    tried = list(enumerate(candidates, 1))
    timed = [(i, c, c.ratio) for i, c in tried if c.ratio is not None]
    failed = [(i, c) for i, c in tried if c.ratio is None]
    won = [(i, c, ratio) for i, c, ratio in timed if c.won]
    top = max((ratio for _, _, ratio in timed), default=1.0) * 1.1
    best = list(accumulate((ratio for _, _, ratio in timed), min, initial=1.0))[1:]
    traces = [
        _points(timed, "candidate", {"color": GRAY, "size": 7}),
        {
            "type": "scatter",
            "name": "best so far",
            "x": [i for i, _, _ in timed],
            "y": best,
            "mode": "lines",
            "line": {"shape": "hv", "color": BLUE, "width": 2},
            "hoverinfo": "skip",
        },
        _points(won, "winner", {"color": BLUE, "size": 15, "symbol": "star"}),
        _points(
            [(i, c, top) for i, c in failed],
            "failed",
            {"color": RED, "size": 8, "symbol": "x-thin", "line": {"color": RED, "width": 2}},
        ),
    ]
    return figure(
        [trace for trace in traces if trace["x"]],
        "Trials",
        330,
        xaxis=axis("candidate, in the order of the trials", rangemode="tozero"),
        yaxis=_ratios(min(best, default=1.0), top),
        shapes=[_level(1.0)],
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom"},
    )


def _points(
    placed: Sequence[tuple[int, Candidate, float]], name: str, marker: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [i for i, _, _ in placed],
        "y": [y for _, _, y in placed],
        "text": [_told(i, c) for i, c, _ in placed],
        "hoverinfo": "text",
        "marker": marker,
    }


_TICKS: Final = (
    0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10,
    20, 50, 100,
)  # fmt: skip


def _ratios(low: float, high: float) -> dict[str, Any]:
    """A logarithmic axis of ratios; ticks that would stand too close are left out."""
    low, high = min(low, 1.0) / 1.1, max(high, 1.0) * 1.1
    gap, shown = log10(high / low) / 12, [1.0]
    for tick in sorted(_TICKS, key=lambda tick: abs(log10(tick))):
        if all(abs(log10(tick / other)) >= gap for other in shown):
            shown.append(tick)
    return axis(
        RATIO,
        type="log",
        range=[log10(low), log10(high)],
        tickvals=shown,
        ticktext=[f"{tick:g}" for tick in shown],
    )


def _level(ratio: float) -> dict[str, Any]:
    """The default's own time."""
    line = {"color": INK, "width": 1, "dash": "dot"}
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": ratio, "y1": ratio} | {
        "line": line
    }


def _told(number: int, candidate: Candidate) -> str:
    if candidate.ratio is None:
        reason = (candidate.failure or "no time")[:160]
        return lines(f"{number}: {failure_class(reason)}", reason, point_words(candidate.point))
    seconds = "" if candidate.seconds is None else f"{candidate.seconds * 1e6:,.4g} us a call"
    return lines(
        f"{number}: {candidate.ratio:.3f} of the default's time",
        seconds,
        point_words(candidate.point),
    )


def importance_chart(shares: Mapping[str, float]) -> Figure:
    """A bar for each dimension, the most important above."""
    names = list(shares)[::-1]
    return figure(
        [
            {
                "type": "bar",
                "orientation": "h",
                "x": [shares[name] for name in names],
                "y": [plain(name[:_LABEL]) for name in names],
                "marker": {"color": BLUE},
                "hovertemplate": "%{x:.0%}<extra></extra>",
            }
        ],
        "What sets the best apart",
        330,
        xaxis=axis("share (PED-ANOVA)", tickformat=".0%", rangemode="tozero"),
        yaxis=axis("", type="category"),
        showlegend=False,
    )


def parallel_chart(
    candidates: Sequence[Candidate], values: Mapping[str, Sequence[Value]]
) -> Figure:
    """A line for each candidate of a space through its value on every dimension, by its time.

    Lines are drawn apart where they share a value, each at a height of its own.
    """
    names = list(values)
    # The fastest is on top.
    slowest = sorted(candidates, key=lambda c: (c.ratio is not None, -(c.ratio or 0)))
    count = max(len(slowest), 1)
    bands: dict[str, dict[str, Any]] = {}
    for order, candidate in enumerate(slowest):
        name, color, width = _band(candidate)
        band = bands.setdefault(name, _lines(name, color, width))
        apart = 0.5 * (order / count - 0.5)
        for at, dimension in enumerate(names):
            among = values[dimension]
            height = among.index(candidate.point[dimension]) + 0.5 + apart
            band["x"].append(at)
            band["y"].append(height / len(among))
            band["text"].append(lines(_short(candidate), point_words(candidate.point)))
        for part in ("x", "y", "text"):
            band[part].append(None)
    return figure(
        list(reversed(bands.values())),
        "Candidates, dimension by dimension",
        360,
        xaxis=axis(
            "",
            tickvals=[*range(len(names))],
            ticktext=[plain(name[:_LABEL]) for name in names],
            side="top",
            range=[-0.35, len(names) - 0.65],
            gridcolor=INK,
        ),
        yaxis={"visible": False, "range": [0, 1], "fixedrange": True},
        annotations=[mark for at, name in enumerate(names) for mark in _ticks(at, values[name])],
        margin={"l": 20, "r": 20, "t": 90, "b": 50},
        legend={"orientation": "h", "x": 0, "y": -0.02, "yanchor": "top", "traceorder": "normal"},
    )


def _band(candidate: Candidate) -> tuple[str, str, float]:
    """Name, colour and width of a candidate's line."""
    if candidate.ratio is None:
        return "failed", RED, 1
    if candidate.won:
        return "winner", INK, 4
    for name, most, color in _BANDS:
        if candidate.ratio <= most:
            return name, color, 1.3
    raise AssertionError(candidate.ratio)


def _lines(name: str, color: str, width: float) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": [],
        "y": [],
        "text": [],
        "hoverinfo": "text",
        "opacity": 1.0 if name == "winner" else 0.6,
        "line": {"color": color, "width": width},
    }


def _ticks(at: int, among: Sequence[Value]) -> list[dict[str, Any]]:
    """The values of a dimension beside its axis."""
    return [
        {
            "x": at,
            "y": (index + 0.5) / len(among),
            "text": plain(str(value)[:_LABEL]),
            "showarrow": False,
            "xanchor": "left",
            "xshift": 4,
            "bgcolor": "rgba(255,255,255,0.85)",
            "font": {"size": 11},
        }
        for index, value in enumerate(among)
    ]


def _short(candidate: Candidate) -> str:
    if candidate.ratio is None:
        return failure_class(candidate.failure or "no time")
    return f"{candidate.ratio:.3f} of the default's time"
