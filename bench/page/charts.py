"""Pure. Draws measurements as SVG: one against its bar, and one over several runs.

Colours are classes of the page's style sheet, so that a drawing fits light and dark pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from bench.page.runs import Bar, Measurement, Run

WIDTH = 260
HEIGHT = 22
# Where the bar is: all drawings have it at one place, so that those below it are seen at once.
_BAR_AT = 150.0
_HISTORY_WIDTH = 180
_HISTORY_HEIGHT = 44
_MARGIN = 5.0


@dataclass(frozen=True, slots=True)
class Point:
    """A measurement of one of several runs."""

    run: Run
    measurement: Measurement


def number(value: float) -> str:
    """Format with three significant digits, or all digits of larger numbers before the point."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def bound(bar: Bar) -> str:
    """Return the bar as text."""
    return f"{'≤' if bar.at_most else '≥'} {bar.value:g}"


def against_bar(measurement: Measurement) -> str:
    """Draw the median and the span of the rounds against the bar, or against 1, the peer itself."""
    reference = measurement.bar.value if measurement.bar else 1.0
    scale = _BAR_AT / reference if reference > 0 else 0.0

    def x(value: float) -> float:
        return min(WIDTH - 4.0, max(2.0, value * scale))

    low, middle, high = x(measurement.low), x(measurement.median), x(measurement.high)
    state = "" if measurement.bar is None else " met" if measurement.met else " missed"
    said = f"{number(measurement.median)}, rounds from {number(measurement.low)} to {number(measurement.high)}"
    if measurement.bar:
        said += f", bar {bound(measurement.bar)}"
    beyond = measurement.median * scale > WIDTH - 4.0
    return (
        f'<svg class="strip" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
        f"<title>{escape(said)}</title>"
        f'<line class="axis" x1="0" y1="11" x2="{WIDTH}" y2="11"/>'
        f'<line class="span{state}" x1="{low:.1f}" y1="11" x2="{high:.1f}" y2="11"/>'
        + (
            f'<path class="point{state}" d="M{middle - 6:.1f} 5 l8 6 l-8 6 z"/>'
            if beyond
            else f'<circle class="point{state}" cx="{middle:.1f}" cy="11" r="5"/>'
        )
        + f'<line class="{"bar" if measurement.bar else "parity"}" x1="{_BAR_AT}" y1="1" x2="{_BAR_AT}" y2="21"/>'
        + "</svg>"
    )


def over_runs(points: Sequence[Point]) -> str:
    """Draw a measurement over runs, oldest first: the medians as a line, the rounds as a band, the newest bar.

    Points of runs with short rounds are hollow.
    """
    bar = points[-1].measurement.bar
    top = max([each.measurement.high for each in points] + ([bar.value] if bar else [])) or 1.0
    step = (_HISTORY_WIDTH - 2 * _MARGIN) / (len(points) - 1 or 1)

    def at(position: int, value: float) -> tuple[float, float]:
        height = _HISTORY_HEIGHT - 2 * _MARGIN
        return _MARGIN + position * step, _HISTORY_HEIGHT - _MARGIN - max(0.0, value) / top * height

    def path(values: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in values)

    highs = [at(position, each.measurement.high) for position, each in enumerate(points)]
    lows = [at(position, each.measurement.low) for position, each in enumerate(points)]
    medians = [at(position, each.measurement.median) for position, each in enumerate(points)]
    parts = [
        f'<svg class="history" width="{_HISTORY_WIDTH}" height="{_HISTORY_HEIGHT}" '
        f'viewBox="0 0 {_HISTORY_WIDTH} {_HISTORY_HEIGHT}" role="img">'
        f"<title>{len(points)} runs</title>",
        f'<polygon class="band" points="{path([*highs, *reversed(lows)])}"/>',
        f'<polyline class="line" points="{path(medians)}"/>',
    ]
    if bar:
        _, y = at(0, bar.value)
        parts.append(f'<line class="bar" x1="0" y1="{y:.1f}" x2="{_HISTORY_WIDTH}" y2="{y:.1f}"/>')
    for (x, y), each in zip(medians, points, strict=True):
        short = each.run.seconds < 1
        found = each.measurement
        said = (
            f"{each.run.started:%Y-%m-%d %H:%M}: {number(found.median)} "
            f"({number(found.low)} to {number(found.high)}){', short rounds' if short else ''}"
        )
        parts.append(
            f'<circle class="{"hollow" if short else "dot"}" cx="{x:.1f}" cy="{y:.1f}" r="3">'
            f"<title>{escape(said)}</title></circle>"
        )
    return "".join(parts) + "</svg>"
