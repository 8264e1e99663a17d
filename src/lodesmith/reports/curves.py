"""Plots of a sweep as SVG strings: validation curves of all runs, and a measure against a value that was varied.

Lines have colours of their own, chosen so that they stand out from white paper and from a dark page alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from lodesmith.reports import plots, svg
from lodesmith.reports.text import one_line, value

__all__ = ["Line", "curve_plot", "portable", "swept_plot"]

COLOURS = ("#2f7fd0", "#d1662a", "#2a9461", "#a35fd1", "#d14a5f", "#1c93a3", "#9a8318", "#c9559f")
"""Each has a contrast of at least 3.5 to white and to near-black; further lines repeat them with dashes."""
_QUIET = "#6e7781"
"""Text and axes that can be read on white (4.5) and on near-black (4.1)."""
_DASHES = ("", "6 3", "2 3")
_PITCH = 18.0
"""Between two lines of a legend."""
_SWATCH = 16.0

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A setting's curve.

    Args:
        mean: over its seeds, as (epochs, measure).
        seeds: the curve of each seed; drawn thin where there are several.
    """

    mean: Sequence[Point]
    seeds: Sequence[Sequence[Point]] = ()


def portable(plot: str) -> str:
    """The plot as an .svg file of its own that is legible on a light and on a dark page: no paper, middle tones."""
    shades = f"--ink:{_QUIET};--soft:{_QUIET};--mark:{_QUIET};--faint:{_QUIET}80;--rule:{_QUIET}40;--paper:transparent"
    return plots.standalone(plot).replace("<style>", f"<style>.plot{{{shades}}}", 1)


def curve_plot(lines: Mapping[str, Line], *, measure: str, width: int = 640) -> str:
    """Validation curves: a line for each setting, thin lines for its seeds. Settings are listed by where they end.

    Args:
        lines: setting → its curve; one without points is only listed.
        measure: what was validated.
        width: in pixels.

    Returns:
        The drawing, or an empty string where nothing was validated.
    """
    points = [point for line in lines.values() for own in (line.mean, *line.seeds) for point in own]
    if not points:
        return ""
    styles = {name: _style(number) for number, name in enumerate(lines)}
    heights = {name: line.mean[-1][1] if line.mean else None for name, line in lines.items()}
    frame = _Frame.of([y for _, y in points], heights, width)
    last = max(x for x, _ in points) or 1.0
    at = svg.scale(0.0, last, frame.left, frame.right - 6)
    parts = [*frame.axis(f"{measure} on the validation queries"), *_epochs(last, at, frame)]
    for name, line in lines.items():
        seeds = [_trace(own, at, frame.up, styles[name], width=1, opacity=0.55) for own in line.seeds if len(own) > 1]
        drawn = [_trace(line.mean, at, frame.up, styles[name], width=2.25)] if line.mean else []
        if line.mean:
            drawn.append(_dot(at(line.mean[-1][0]), frame.up(line.mean[-1][1]), 3.2, styles[name]))
        parts.append(svg.group([*(seeds if len(line.seeds) > 1 else []), *drawn], name))
    parts += frame.legend(styles)
    parts.append(svg.label((frame.left + frame.right) / 2, frame.bottom + 36, "epochs", "axis", "middle"))
    facts = "; ".join(f"{name} ends at {value(height)}" for name, height in heights.items() if height is not None)
    return svg.figure(parts, (width, frame.end), f"{measure} on the validation queries during training", facts)


def _epochs(last: float, at: Callable[[float], float], frame: _Frame) -> list[str]:
    parts = []
    for tick in svg.ticks(0, last, 9 if frame.wide else 6):
        if tick == int(tick):
            parts.append(svg.label(at(tick), frame.bottom + 16, f"{tick:.0f}", "axis", "middle"))
    return parts


def swept_plot(
    series: Mapping[str, Mapping[str, Sequence[float]]],
    values: Sequence[str],
    *,
    key: str,
    measure: str,
    references: Mapping[str, float] | None = None,
    width: int = 640,
) -> str:
    """A measure against the values of one varied setting, evenly spaced: means with their range over seeds.

    Args:
        series: name of the other settings → value → the measure, seed by seed. One series may have no name.
        values: the labels of the axis, in order.
        key: the setting's name.
        measure: what was measured.
        references: baseline → its mean; those far from all the settings are left out.
        width: in pixels.

    Returns:
        The drawing, or an empty string where nothing was measured.
    """
    seen = [x for line in series.values() for own in line.values() for x in own]
    if not seen:
        return ""
    kept = {name: mean for name, mean in (references or {}).items() if _near(mean, seen)}
    styles = {name: _style(number) for number, name in enumerate(series)}
    ends = {name: fmean(found[-1]) if (found := _means(line, values)) else None for name, line in series.items()}
    heights = {name: end for name, end in ends.items() if name} | {_told(n, mean): mean for n, mean in kept.items()}
    frame = _Frame.of([*seen, *kept.values()], heights, width)
    pitch = (frame.right - frame.left) / len(values)
    parts = frame.axis(measure)
    parts += [svg.line(frame.left, frame.up(mean), frame.right, frame.up(mean), "reference") for mean in kept.values()]
    for number, label in enumerate(values):
        text = svg.fitted(label, pitch - 6)
        parts.append(svg.label(frame.left + pitch * (number + 0.5), frame.bottom + 16, text, "axis", "middle"))
    step = min(14.0, pitch * 0.6 / len(series))
    for number, (name, line) in enumerate(series.items()):
        shift = (number - (len(series) - 1) / 2) * step
        places = {label: frame.left + pitch * (i + 0.5) + shift for i, label in enumerate(values)}
        parts.append(svg.group(_swept(line, values, places, frame.up, styles[name]), name))
    parts += frame.legend(styles)
    parts.append(svg.label((frame.left + frame.right) / 2, frame.bottom + 36, one_line(key), "axis", "middle"))
    facts = "; ".join(
        f"{name} {label}: {value(fmean(found))}".strip()
        for name, line in series.items()
        for label, found in line.items()
        if found
    )
    return svg.figure(parts, (width, frame.end), f"{measure} by {key}", facts)


def _told(name: str, mean: float) -> str:
    return f"{name} {value(mean)}"


def _near(mean: float, seen: Sequence[float]) -> bool:
    reach = max(1.5 * (max(seen) - min(seen)), 0.05)
    return min(seen) - reach <= mean <= max(seen) + reach


def _means(line: Mapping[str, Sequence[float]], values: Sequence[str]) -> list[Sequence[float]]:
    return [line[label] for label in values if line.get(label)]


def _swept(
    line: Mapping[str, Sequence[float]],
    values: Sequence[str],
    places: Mapping[str, float],
    up: Callable[[float], float],
    style: _Style,
) -> list[str]:
    """One series: seeds as small dots, their range as a bar, their means joined where the axis is one of numbers."""
    known = [label for label in values if line.get(label)]
    parts = []
    if len(known) > 1 and _ascending(values):
        means = [(places[label], fmean(line[label])) for label in known]
        parts.append(_trace(means, lambda x: x, up, style, width=1.5))
    for label in known:
        own, x = line[label], places[label]
        if len(own) > 1:
            parts.append(_stroke([(x, up(min(own))), (x, up(max(own)))], style.colour, 1.5, "", 0.7))
            parts += [_dot(x, up(each), 1.9, style) for each in own]
        parts.append(_dot(x, up(fmean(own)), 4.2, style))
    return parts


def _ascending(labels: Sequence[str]) -> bool:
    try:
        numbers = [float(label) for label in labels]
    except ValueError:
        return False
    return numbers == sorted(numbers) or numbers == sorted(numbers, reverse=True)


# ------------------------------------------------------------------------ the frame


@dataclass(frozen=True)
class _Style:
    colour: str
    dashes: str


def _style(number: int) -> _Style:
    return _Style(COLOURS[number % len(COLOURS)], _DASHES[number // len(COLOURS) % len(_DASHES)])


@dataclass(frozen=True)
class _Frame:
    """The plot's area, its vertical scale, and where the legend's lines go: beside it, or below where it is narrow."""

    left: float
    right: float
    bottom: float
    end: float
    span: Point
    labels: Mapping[str, Point]
    width: int

    TOP = 28.0

    @classmethod
    def of(cls, numbers: Sequence[float], heights: Mapping[str, float | None], width: int) -> _Frame:
        """Args: the values to be seen; name → the height at which its line of the legend would best stand; pixels."""
        wide = width >= plots.WIDE
        low, high = min(numbers), max(numbers)
        pad = max((high - low) * 0.06, 0.004)
        span = (max(low - pad, 0.0) if low >= 0 else low - pad, high + pad)
        room = min(max((svg.text_width(one_line(name)) for name in heights), default=0) + _SWATCH + 22, width * 0.42)
        right = width - (room if wide and heights else 8.0)
        bottom = cls.TOP + max(230.0 if wide else 200.0, _PITCH * len(heights) if wide else 0.0)
        end = bottom + (44 if wide else 48 + _PITCH * len(heights))
        order = sorted(heights, key=lambda name: -math.inf if (h := heights[name]) is None else h, reverse=True)
        if not wide:
            labels = {name: (8.0, bottom + 56 + _PITCH * i) for i, name in enumerate(order)}
        else:
            up = svg.scale(*span, bottom, cls.TOP)
            wanted = [bottom if (h := heights[name]) is None else up(h) for name in order]
            labels = {n: (right + 8, y) for n, y in zip(order, _spread(wanted, cls.TOP, bottom), strict=True)}
        return cls(44.0, right, bottom, end, span, labels, width)

    @property
    def wide(self) -> bool:
        """Whether the legend stands beside the plot."""
        return self.width >= plots.WIDE

    @property
    def up(self) -> Callable[[float], float]:
        """Value → height in the drawing."""
        return svg.scale(*self.span, self.bottom, self.TOP)

    def axis(self, title: str) -> list[str]:
        """Grid lines with their figures, and what they measure."""
        parts = [svg.label(2, 13, svg.fitted(title, self.right if self.wide else self.right - 8), "axis")]
        for tick in svg.ticks(*self.span, 8):
            parts.append(svg.line(self.left, self.up(tick), self.right, self.up(tick), "grid"))
            parts.append(
                svg.label(self.left - 6, self.up(tick) + 4, f"{tick:.3f}".rstrip("0").rstrip("."), "axis", "end")
            )
        return parts

    def legend(self, styles: Mapping[str, _Style]) -> list[str]:
        """A swatch and a name each; names without a style are the dashed references."""
        parts = []
        for name, (x, y) in self.labels.items():
            style = styles.get(name)
            if style is None:
                parts.append(svg.line(x, y, x + _SWATCH, y, "reference"))
            else:
                parts.append(_stroke([(x, y), (x + _SWATCH, y)], style.colour, 2.5, style.dashes))
            text = svg.fitted(name, self.width - x - _SWATCH - 6)
            parts.append(svg.label(x + _SWATCH + 6, y + 4, text, "label"))
        return parts


def _spread(wanted: Sequence[float], top: float, bottom: float) -> list[float]:
    """Heights near the wanted ones, in their order, at least a pitch apart and inside."""
    placed: list[float] = []
    for height in wanted:
        placed.append(max(height, placed[-1] + _PITCH if placed else top))
    floor = bottom
    for number in range(len(placed) - 1, -1, -1):
        placed[number] = min(placed[number], floor)
        floor = placed[number] - _PITCH
    return placed


def _trace(
    points: Sequence[Point],
    at: Callable[[float], float],
    up: Callable[[float], float],
    style: _Style,
    *,
    width: float,
    opacity: float = 1.0,
) -> str:
    return _stroke([(at(x), up(y)) for x, y in points], style.colour, width, style.dashes, opacity)


def _stroke(points: Sequence[Point], colour: str, width: float, dashes: str = "", opacity: float = 1.0) -> str:
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    look = svg.attributes(stroke=colour, stroke_width=f"{width:g}", stroke_opacity=f"{opacity:g}", fill="none")
    more = svg.attributes(stroke_dasharray=dashes) if dashes else ""
    return f'<polyline points="{places}"{look}{more} stroke-linejoin="round" stroke-linecap="round"/>'


def _dot(x: float, y: float, radius: float, style: _Style) -> str:
    return f"<circle{svg.attributes(cx=float(x), cy=float(y), r=float(radius), fill=style.colour)}/>"
