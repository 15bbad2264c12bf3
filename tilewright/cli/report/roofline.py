"""The roofline: what this machine can do, and where each kernel stands below it.

Source: Williams, Waterman, Patterson, "Roofline", CACM 52(4), 2009.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log10, sqrt
from typing import Any, Final

from tilewright.cli.report.drawing import BLUE, GRAY, INK, ORANGE, Figure, figure, lines, log_axis
from tilewright.cli.report.kernels import Standing

_GIGA: Final = 1e9
_KINDS: Final = (
    (False, "traced", "default", {"color": GRAY, "symbol": "circle"}),
    (True, "traced", "tuned", {"color": BLUE, "symbol": "circle"}),
    (False, "scaled", "default, by the ratio on record", {"color": GRAY, "symbol": "circle-open"}),
    (True, "scaled", "tuned, by the ratio on record", {"color": BLUE, "symbol": "circle-open"}),
    (None, "predicted", "prediction, not run", {"color": ORANGE, "symbol": "diamond-open"}),
)

_SIDES: Final = {False: "bottom center", True: "top center", None: "bottom right"}
"""Where a number stands, so that those of a default and of what tuning made of it stay apart."""


def roofline_chart(standings: Sequence[Standing], bandwidth: float) -> Figure:
    """Performance over arithmetic intensity, both logarithmic, under the roof of each format.

    bandwidth: bytes a second from memory. Kernels without arithmetic stand at the left edge, as far
    below the roof as their bytes a second are below the bandwidth.
    """
    peaks = {standing.dtype: standing.peak for standing in standings}
    ridge = max(peaks.values()) / bandwidth
    left, right = _range(standings, ridge)
    dots = [(s, *_place(s, left)) for s in standings]
    low = min((y for _, _, y in dots), default=1.0)
    traces = [_roof(dtype, peak, bandwidth, left, right) for dtype, peak in peaks.items()]
    traces += [_steps(dots), *(_dots(dots, *kind) for kind in _KINDS)]
    marks = [_peak_mark(dtype, peak, right) for dtype, peak in peaks.items()]
    return figure(
        [trace for trace in traces if trace["x"]],
        "Where each kernel stands",
        560,
        xaxis=log_axis("arithmetic intensity (FLOP/byte)", left, right),
        yaxis=log_axis("performance (GFLOP/s)", low / 2, max(peaks.values()) / _GIGA * 2),
        annotations=[*marks, _bandwidth_mark(bandwidth, ridge, left, low)],
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom"},
    )


def _range(standings: Sequence[Standing], ridge: float) -> tuple[float, float]:
    """Intensities that are shown: all kernels, and the ridge of the highest roof."""
    found = [s.flops / s.bytes for s in standings if s.flops and s.bytes]
    return min([*found, ridge]) / 3, max([*found, ridge]) * 3


def _place(standing: Standing, left: float) -> tuple[float, float]:
    """FLOP/byte and GFLOP/s."""
    if not standing.flops or not standing.bytes:
        return left * 1.15, standing.bytes / standing.seconds * left * 1.15 / _GIGA
    return standing.flops / standing.bytes, standing.flops / standing.seconds / _GIGA


def _roof(dtype: str, peak: float, bandwidth: float, left: float, right: float) -> dict[str, Any]:
    ridge = peak / bandwidth
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [left, ridge, right],
        "y": [left * bandwidth / _GIGA, peak / _GIGA, peak / _GIGA],
        "line": {"color": INK, "width": 2},
        "hoverinfo": "skip",
        "showlegend": False,
        "name": f"roof of {dtype}",
    }


def _dots(
    placed: Sequence[tuple[Standing, float, float]],
    tuned: bool | None,
    origin: str,
    name: str,
    marker: dict[str, Any],
) -> dict[str, Any]:
    these = [p for p in placed if p[0].origin == origin and tuned in (None, p[0].tuned)]
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": name,
        "x": [x for _, x, _ in these],
        "y": [y for _, _, y in these],
        "text": [str(s.number) for s, _, _ in these],
        "textposition": _SIDES[tuned],
        "textfont": {"size": 11, "color": marker["color"]},
        "hovertext": [_told(s, y) for s, _, y in these],
        "hoverinfo": "text",
        "marker": {"size": 11, "line": {"width": 2, "color": marker["color"]}} | marker,
    }


def _steps(placed: Sequence[tuple[Standing, float, float]]) -> dict[str, Any]:
    """A line from each kernel's default to what tuning has made of it."""
    found: dict[int, list[tuple[float, float]]] = {}
    for standing, x, y in placed:
        found.setdefault(standing.number, []).append((x, y))
    pairs = [pair for pair in found.values() if len(pair) == 2]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [x for pair in pairs for x in (pair[0][0], pair[1][0], None)],
        "y": [y for pair in pairs for y in (pair[0][1], pair[1][1], None)],
        "line": {"color": BLUE, "width": 1},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _told(standing: Standing, rate: float) -> str:
    return lines(
        f"{standing.number}: {standing.kernel} in {standing.graph} at {standing.at}",
        " ".join(standing.ops),
        f"{standing.calls} calls of {standing.seconds * 1e6:,.4g} us ({standing.origin})",
        f"{rate:,.4g} GFLOP/s, {standing.least / standing.seconds:.0%} of the roof",
        f"bound by {standing.bound}",
    )


def _peak_mark(dtype: str, peak: float, right: float) -> dict[str, Any]:
    return _mark(right / 1.1, peak / _GIGA, f"{dtype} peak {peak / _GIGA:,.4g} GFLOP/s", "right")


def _bandwidth_mark(bandwidth: float, ridge: float, left: float, low: float) -> dict[str, Any]:
    """To the left of the slope, in the middle of what is seen of it."""
    at = sqrt(ridge * max(left, low / (bandwidth / _GIGA)))
    text = f"memory {bandwidth / _GIGA:,.3g} GB/s "
    return _mark(at, at * bandwidth / _GIGA, text, "right")


def _mark(x: float, y: float, text: str, anchor: str) -> dict[str, Any]:
    """A label above a line; annotations take logarithms on logarithmic axes."""
    return {
        "x": log10(x),
        "y": log10(y),
        "text": text,
        "showarrow": False,
        "xanchor": anchor,
        "yanchor": "bottom",
        "font": {"size": 12, "color": INK},
    }
