"""Quality against the mean latency of a query: student, teacher, and the thresholds between, as an SVG string."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lodesmith.reports import curves, svg
from lodesmith.reports.text import rate, value

__all__ = ["hybrid_plot"]

Point = tuple[float, float]

_SPARSE = 9


def hybrid_plot(
    lines: Mapping[str, Sequence[Point]], ends: Mapping[str, Point], *, measure: str, width: int = 640
) -> str:
    """A line for each way to choose the queries that the teacher gets; further up and left is better.

    Both axes are linear, so that choosing at random lies on a straight line between student and teacher.

    Args:
        lines: name → (milliseconds a query, measure), one point a threshold.
        ends: the student's and the teacher's points, drawn as larger dots with their names.
        measure: what was measured.
        width: in pixels.
    """
    points = [*ends.values(), *(point for line in lines.values() for point in line)]
    styles = {name: curves._style(number) for number, name in enumerate(lines)}
    heights: dict[str, float | None] = {name: line[len(line) // 2][1] if line else None for name, line in lines.items()}
    frame = curves._Frame.of([y for _, y in points], heights, width)
    slow = max(x for x, _ in points)
    at = svg.scale(0.0, slow * 1.04, frame.left, frame.right - 6)
    parts = frame.axis(measure)
    for tick in svg.ticks(0.0, slow * 1.04, _SPARSE if frame.wide else 6):
        parts.append(svg.label(at(tick), frame.bottom + 16, f"{tick:g}", "axis", "middle"))
    for name, line in lines.items():
        drawn = [curves._trace(line, at, frame.up, styles[name], width=1.75)] if len(line) > 1 else []
        parts.append(svg.group([*drawn, *(curves._dot(at(x), frame.up(y), 3.2, styles[name]) for x, y in line)], name))
    for name, (x, y) in ends.items():
        right = at(x) + svg.text_width(name) + 12 > frame.right
        place, anchor = (at(x) - 9, "end") if right else (at(x) + 9, "start")
        below = frame.up(y) + (16 if y <= min(height for _, height in ends.values()) else -9)  # clear of their line
        mark = [svg.dot(at(x), frame.up(y), 5, "dot"), svg.label(place, below, name, "label strong", anchor)]
        parts.append(svg.group(mark, f"{name}: {value(y)} at {rate(x)} ms", class_="lead"))
    parts += frame.legend(styles)
    middle = (frame.left + frame.right) / 2
    parts.append(svg.label(middle, frame.bottom + 36, "milliseconds a query (mean)", "axis", "middle"))
    facts = "; ".join(f"{name} {value(y)} at {rate(x)} ms" for name, (x, y) in ends.items())
    facts += "".join(
        f"; {name} " + ", ".join(f"{value(y)} at {rate(x)} ms" for x, y in line) for name, line in lines.items()
    )
    return svg.figure(parts, (width, frame.end), f"{measure} against milliseconds a query", facts)
