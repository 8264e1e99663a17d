"""Three plots of a geometry as SVG strings: the spectrum, the cosines of pairs, and the map of the first two axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from lodesmith.reports import svg
from lodesmith.reports.text import value

Point = tuple[float, float]
Scale = Callable[[float], float]

_LEFT = 44.0
_TOP = 30.0
_LOWEST = 1e-2
"""Singular values below this share of an even one are drawn at the foot."""


def spectrum_plot(singular: Sequence[float], *, width: int = 640) -> str:
    """Normalised singular values against their rank, as multiples of an even spectrum's, on a logarithmic axis.

    Args:
        singular: largest first, with sum 1.
        width: in pixels.
    """
    count, bottom = len(singular), 250.0
    shares = [max(share * count, _LOWEST) for share in singular]
    low, high = min([0.5, *shares]), max([2.0, *shares]) * 1.1
    across = svg.scale(1, max(count, 2), _LEFT, width - 10.0)
    log_up = svg.scale(math.log10(low), math.log10(high), bottom, _TOP)
    parts = _x_axis([1, *(t for t in svg.ticks(2, count, 6) if t > count / 20)], across, bottom, lambda x: f"{x:,.0f}")
    for tick in svg.log_ticks(low, high):
        parts += _y_line(log_up(math.log10(tick)), f"{tick:g}", width, "base" if tick == 1 else "grid")
    line = "M" + "L".join(f"{across(i + 1):.1f} {log_up(math.log10(share)):.1f}" for i, share in enumerate(shares))
    parts.append(svg.group([f'<path class="whisker" fill="none" d="{line}"/>'], class_="lead"))
    parts.append(svg.label(_LEFT, 13, "singular value, as a multiple of an even one", "axis"))
    parts.append(svg.label((_LEFT + width) / 2, bottom + 36, "principal axis", "axis", "middle"))
    facts = f"{count} values from {shares[0]:.3g} to {shares[-1]:.3g} times that of an even spectrum"
    return svg.figure(parts, (width, bottom + 44), "Spectrum of the centred vectors", facts)


def cosine_plot(random: Sequence[float], positive: Sequence[float] = (), *, width: int = 640) -> str:
    """Shares of cosines in equal bins from −1 to 1: random pairs behind, positive pairs before them.

    Args:
        random: shares, with sum 1.
        positive: the same; empty where there are none.
        width: in pixels.
    """
    bottom, bins = 250.0, len(random)
    used = [i for i in range(bins) if random[i] > 0 or (positive and positive[i] > 0)]
    low, high = min(used, default=0) / bins * 2 - 1, (max(used, default=bins - 1) + 1) / bins * 2 - 1
    low, high = max(-1.0, min(low, 0.0) - 0.03), min(1.0, max(high, 0.0) + 0.03)
    tallest = max([*random, *positive])
    across, up = svg.scale(low, high, _LEFT, width - 10.0), svg.scale(0, tallest * 1.06 or 1.0, bottom, _TOP)
    parts = _x_axis(svg.ticks(low, high, 8), across, bottom, _plain)
    for tick in svg.ticks(0, tallest, 5):
        parts += _y_line(up(tick), f"{tick * 100:.3g} %", width, "grid" if tick else "base")
    both = [(random, "dot", "random pairs", "label"), (positive, "won", "positive pairs", "won")]
    at = _LEFT
    for shares, fill, name, text in both:
        if shares:
            parts.append(f'<path class="{fill}" fill-opacity="0.75" d="{_steps(shares, across, up)}"/>')
            parts.append(svg.label(at, 13, name, text))
            at += svg.text_width(name, bold=text == "won") + 18
    parts.append(svg.label((_LEFT + width) / 2, bottom + 36, "cosine", "axis", "middle"))
    facts = f"random pairs have a mean of {value(_mean(random))}"
    facts += f", positive pairs of {value(_mean(positive))}" if positive else ""
    return svg.figure(parts, (width, bottom + 44), "Cosines of pairs", facts)


def map_plot(documents: Sequence[Point], queries: Sequence[Point] = (), *, width: int = 640) -> str:
    """Points on two axes of equal scale: documents, and queries in the accent colour.

    Args:
        documents: at least one.
        queries: none or more.
        width: in pixels.
    """
    points = [*documents, *queries]
    (left, right), (foot, head) = (_limits([p[i] for p in points]) for i in (0, 1))
    pixels = (width - _LEFT - 10.0) / (right - left)
    height = min(max((head - foot) * pixels, 160.0), 520.0)
    pixels = min(pixels, height / (head - foot))
    bottom = _TOP + height
    middle = (_LEFT + width - 10.0) / 2
    across: Scale = lambda x: middle + (x - (left + right) / 2) * pixels  # noqa: E731
    up: Scale = lambda y: bottom - height / 2 - (y - (foot + head) / 2) * pixels  # noqa: E731
    parts = _x_axis(svg.ticks(left, right, 9), across, bottom, _plain)
    for tick in svg.ticks(foot, head, 9):
        parts += _y_line(up(tick), _plain(tick), width, "grid")
    parts.append(svg.group([_dots(documents, across, up, 2.5)], class_="other", opacity="0.6"))
    parts.append(svg.label(_LEFT, 13, f"{len(documents):,} documents", "label"))
    if queries:
        parts.append(svg.group([_dots(queries, across, up, 3.5)], class_="lead", opacity="0.8"))
        start = _LEFT + svg.text_width(f"{len(documents):,} documents") + 18
        parts.append(svg.label(start, 13, f"{len(queries):,} queries", "won"))
    facts = f"{len(documents)} documents and {len(queries)} queries on the first two principal axes of the documents"
    return svg.figure(parts, (width, bottom + 24), "Map of the vectors", facts)


def _dots(points: Sequence[Point], across: Scale, up: Scale, size: float) -> str:
    """Many points as one path of strokes without length, which round caps make visible."""
    path = "".join(f"M{across(x):.1f} {up(y):.1f}h0" for x, y in points)
    return f'<path class="whisker" style="stroke-width:{size}px" d="{path}"/>'


def _steps(shares: Sequence[float], across: Scale, up: Scale) -> str:
    """The outline of a histogram whose bins lie side by side from −1 to 1, without its empty ends."""
    full = [i for i, share in enumerate(shares) if share > 0]
    edge = [across(2 * i / len(shares) - 1) for i in range(len(shares) + 1)]
    path = f"M{edge[full[0]]:.1f} {up(0):.1f}"
    for i in range(full[0], full[-1] + 1):
        path += f"V{up(shares[i]):.1f}H{edge[i + 1]:.1f}"
    return f"{path}V{up(0):.1f}z"


def _mean(shares: Sequence[float]) -> float:
    return sum(share * ((2 * i + 1) / len(shares) - 1) for i, share in enumerate(shares))


def _limits(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = (high - low) * 0.04 or 0.5
    return low - pad, high + pad


def _x_axis(marks: Sequence[float], across: Scale, bottom: float, text: Callable[[float], str]) -> list[str]:
    parts = []
    for mark in marks:
        parts.append(svg.line(across(mark), _TOP, across(mark), bottom, "grid"))
        parts.append(svg.label(across(mark), bottom + 16, text(mark), "axis", "middle"))
    return parts


def _y_line(y: float, text: str, width: int, class_: str) -> list[str]:
    return [svg.line(_LEFT, y, width - 10.0, y, class_), svg.label(_LEFT - 6, y + 4, text, "axis", "end")]


def _plain(number: float) -> str:
    return f"{number:.3g}".replace("-", "−")
