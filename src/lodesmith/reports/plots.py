"""Three plots as SVG strings: intervals, quality against a cost, and differences query by query.

Drawn at about one unit a pixel, so that a label is as large as its font says: ask for the width that the page has.
Colours come from the page's CSS variables; `standalone` adds the style where there is no such page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from importlib import resources

from lodesmith.core.results import Estimate
from lodesmith.reports import svg
from lodesmith.reports.text import one_line, rate, signed, value

WIDE = 520
"""From this width on, names stand beside their intervals; below it, above them."""

LATENCY = ("milliseconds a query (median)", "ms")
"""A cost of quality and its unit."""

_MOST_BARS = 60
"""Up to this many queries each has a bar of its own; beyond, the bars close up into one outline."""

Box = tuple[float, float, float, float]


def standalone(plot: str) -> str:
    """The plot with its style inside, for use as an .svg file."""
    style = resources.files("lodesmith.reports").joinpath("plots.css").read_text(encoding="utf-8")
    return plot.replace("</desc>", f"</desc><style>{style}</style>", 1)


def interval_plot(
    estimates: Mapping[str, Estimate], *, measure: str, lead: str = "", reference: str = "", width: int = 640
) -> str:
    """Mean and 95 % interval of each system, in the order given.

    Args:
        lead: the system drawn in the accent colour.
        reference: the system whose mean a dashed line carries through all rows.
        width: in pixels.
    """
    names = list(estimates)
    wide = width >= WIDE
    left = (
        min(max((svg.text_width(one_line(n), bold=n == lead) for n in names), default=0) + 14, width * 0.36)
        if wide
        else 8.0
    )
    right = width - (166.0 if wide else 8.0)
    pitch, top = (30, 8) if wide else (46, 4)
    bottom = top + pitch * len(names)
    low, high = _span([e.low for e in estimates.values()], [e.high for e in estimates.values()])
    at = svg.scale(low, high, left, right)
    # Where names stand above their intervals, the lines leave the text out.
    spans = [(top, bottom)] if wide else [(top + pitch * row + 22, top + pitch * row + 40) for row in range(len(names))]
    parts = _x_axis(svg.ticks(low, high, 7 if wide else 6), at, spans, bottom, _tick)
    if reference in estimates:
        x = at(estimates[reference].mean)
        parts += [svg.line(x, start, x, end, "reference") for start, end in spans]
    for row, name in enumerate(names):
        y = top + pitch * row
        parts.append(_interval(name, estimates[name], at, y, (left if wide else 0, width), lead=name == lead))
    parts.append(svg.label((left + right) / 2, bottom + 34, f"{measure}, mean and 95 % interval", "axis", "middle"))
    facts = "; ".join(f"{name} {_range(estimate)}" for name, estimate in estimates.items())
    return svg.figure(parts, (width, bottom + 42), f"{measure} of each system with its 95 % interval", facts)


def _range(estimate: Estimate) -> str:
    return f"{value(estimate.mean)} [{value(estimate.low)}, {value(estimate.high)}]"


def _interval(
    name: str, estimate: Estimate, at: Callable[[float], float], y: float, place: tuple[float, float], *, lead: bool
) -> str:
    left, width = place
    text_y, mark_y = (y + 19, y + 15) if left else (y + 16, y + 31)
    room = left - 12 if left else width - 144
    parts = [
        svg.label(0, text_y, svg.fitted(name, room, bold=lead), "label strong" if lead else "label"),
        svg.label(width, text_y, _range(estimate), "value", "end"),
        svg.line(at(estimate.low), mark_y, at(estimate.high), mark_y, "whisker"),
        svg.dot(at(estimate.mean), mark_y, 4.5, "dot"),
    ]
    return svg.group(parts, f"{name}: {_range(estimate)}", class_="lead" if lead else "other")


def quality_cost_plot(
    points: Mapping[str, tuple[float, Estimate]],
    *,
    measure: str,
    cost: tuple[str, str] = LATENCY,
    lead: str = "",
    width: int = 640,
) -> str:
    """Quality against a cost, which runs on a logarithmic axis; further up and left is better.

    Args:
        points: system → (cost, estimate); systems without a positive finite cost are left out.
        measure: of quality.
        cost: what it is, and its unit; the median time of a query where not given.
        lead: the system drawn in the accent colour.
        width: in pixels.

    Returns:
        The drawing, or an empty string where no system has a cost.
    """
    points = {name: point for name, point in points.items() if math.isfinite(point[0]) and point[0] > 0}
    if not points:
        return ""
    left, right, top, bottom = 44.0, width - 10.0, 12.0, 250.0 if width < WIDE else 300.0
    # Room to the right of the slowest point, so that names fit beside their points.
    room = min(max(svg.text_width(one_line(name), bold=name == lead) for name in points) + 16, (right - left) * 0.36)
    fast, slow = _log_span([milliseconds for milliseconds, _ in points.values()], room / (right - left))
    low, high = _span([e.low for _, e in points.values()], [e.high for _, e in points.values()])
    log_at = svg.scale(math.log10(fast), math.log10(slow), left, right)
    up = svg.scale(low, high, bottom, top + 24)
    marks = [mark for mark in svg.log_ticks(fast, slow) if log_at(math.log10(mark)) <= right - 14]
    parts = _x_axis(marks, lambda x: log_at(math.log10(x)), [(top, bottom)], bottom, _plain_number)
    for tick in svg.ticks(low, high, 6):
        parts += [svg.line(left, up(tick), right, up(tick), "grid")]
        parts += [svg.label(left - 6, up(tick) + 4, _tick(tick), "axis", "end")]
    spots = {name: (log_at(math.log10(ms)), up(e.mean), up(e.low), up(e.high)) for name, (ms, e) in points.items()}
    for name, (x, y, y_low, y_high) in spots.items():
        hint = f"{name}: {_range(points[name][1])}, {rate(points[name][0])} {cost[1]}"
        drawn = [svg.line(x, y_low, x, y_high, "thin"), svg.dot(x, y, 5, "dot")]
        parts.append(svg.group(drawn, hint, class_="lead" if name == lead else "other"))
    parts += _place_labels(spots, (left, top, right, bottom), lead)
    parts.append(svg.label((left + right) / 2, bottom + 36, f"{cost[0]}, logarithmic", "axis", "middle"))
    facts = "; ".join(f"{n} {value(e.mean)} at {rate(own)} {cost[1]}" for n, (own, e) in points.items())
    return svg.figure(parts, (width, bottom + 44), f"{measure} against {cost[0]}", facts)


def _place_labels(spots: Mapping[str, tuple[float, float, float, float]], area: Box, lead: str) -> list[str]:
    """Names beside their points where nothing is in the way, else a little off, with a leader line."""
    taken: list[Box] = [(x - 7, y - 7, x + 7, y + 7) for x, y, _, _ in spots.values()]
    whiskers: list[Box] = [(x - 2, top, x + 2, bottom) for x, _, bottom, top in spots.values()]
    parts = []
    for name in sorted(spots, key=lambda each: (each != lead, spots[each][1])):
        x, y, _, _ = spots[name]
        bold = name == lead
        text = svg.fitted(name, (area[2] - area[0]) * 0.7, bold=bold)
        boxes = [box for box in _candidates(x, y, svg.text_width(text, bold=bold), area) if _inside(box, area)]
        free = [box for box in boxes if not _hits(box, taken)]
        clear = [box for box in free if not _hits(box, whiskers)]
        if not free:
            continue  # more points than room: the name stays in the point's tooltip, the description and the table
        box = (clear or free)[0]
        taken.append(box)
        if abs((box[1] + box[3]) / 2 - y) > 18:
            parts.append(svg.line(x, y, min(max(x, box[0]), box[2]), box[3] if box[3] < y else box[1], "leader"))
        # A label left of its point ends there, whatever the font's true width.
        middle = (box[0] + box[2]) / 2
        anchor = "end" if box[2] < x else "start" if box[0] > x else "middle"
        place = {"end": box[2] - 2, "start": box[0] + 2, "middle": middle}[anchor]
        parts.append(svg.label(place, box[3] - 4, text, "label strong" if bold else "label", anchor))
    return parts


def _candidates(x: float, y: float, width: float, area: Box) -> list[Box]:
    """Boxes for a label of this width, the best first: beside its point, then ever further above and below."""
    width, height = width + 4, svg.FONT + 4
    sides = (x + 9, x - 9 - width)
    near = [(side, y + step) for step in (-8, -18, 2, -28, 12) for side in sides]
    near += [(x - width / 2, y - 26), (x - width / 2, y + 10)]
    far = [
        (min(max(side, area[0]), area[2] - width), y + step)
        for reach in range(36, 240, 12)
        for step in (-reach, reach)
        for side in (x + 4, x - 4 - width, x - width / 2)
    ]
    return [(a, b, a + width, b + height) for a, b in near + far]


def _inside(box: Box, area: Box) -> bool:
    return box[0] >= area[0] and box[1] >= area[1] and box[2] <= area[2] and box[3] <= area[3]


def _hits(box: Box, others: Sequence[Box]) -> bool:
    return any(box[0] < o[2] and o[0] < box[2] and box[1] < o[3] and o[1] < box[3] for o in others)


def difference_plot(differences: Sequence[float], *, a: str, b: str, measure: str, width: int = 640) -> str:
    """The difference a − b of every query, largest first: how often and how far each of the two is ahead.

    Args:
        differences: one a query, in any order.
        a: the system that positive differences favour.
        b: the other one.
        measure: what is compared.
        width: in pixels.
    """
    bars = sorted(differences, reverse=True)
    left, right, top = 44.0, width - 2.0, 44.0
    bottom = top + (180.0 if width < WIDE else 220.0)
    low, high = min([0.0, *bars]), max([0.0, *bars])
    low, high = (low - 0.02, high + 0.02) if high > low else (-1.0, 1.0)
    up = svg.scale(low, high, bottom, top)
    parts = []
    for tick in svg.ticks(low, high, 6):
        parts.append(svg.line(left, up(tick), right, up(tick), "grid" if tick else "base"))
        parts.append(svg.label(left - 6, up(tick) + 4, _signed_tick(tick), "axis", "end"))
    parts += _bars(bars, up, left, right)
    won, lost = sum(d > 0 for d in bars), sum(d < 0 for d in bars)
    equal = len(bars) - won - lost
    if bars:
        parts += _mean_line(sum(bars) / len(bars), up, left, right)
    room = right - left - svg.text_width(f" better on {len(bars):,}", bold=True)
    heads = [f"{svg.fitted(name, room, bold=True)} better on {n:,}" for name, n in ((a, won), (b, lost))]
    alone = sum(svg.text_width(head, bold=True) for head in heads) + 20 > right - left
    parts.append(svg.label(left, 13 if alone else 32, heads[0], "won"))
    parts.append(svg.label(right, 32, heads[1], "lost", "end"))
    caption = f"{len(bars):,} queries, {equal:,} of them equal"
    parts.append(svg.label((left + right) / 2, bottom + 20, caption, "axis", "middle"))
    facts = f"{a} is better on {won} queries, {b} on {lost}, equal on {equal}"
    title = f"{measure} of {a} minus {b}, query by query"
    return svg.figure(parts, (width, bottom + 28), title, facts, data_left=left, data_right=right)


def _mean_line(mean: float, up: Callable[[float], float], left: float, right: float) -> list[str]:
    # Bars fall from left to right: above the line the right end is free, below it the left end.
    x, y, anchor = (right, up(mean) - 5, "end") if mean >= 0 else (left + 4, up(mean) + 14, "start")
    line = svg.line(left, up(mean), right, up(mean), "reference")
    return [line, svg.label(x, y, f"mean {signed(mean)}", "axis", anchor)]


def _bars(bars: Sequence[float], up: Callable[[float], float], left: float, right: float) -> list[str]:
    most = int(right - left)
    if len(bars) > most:
        bars = [bars[int((i + 0.5) * len(bars) / most)] for i in range(most)]
    pitch = (right - left) / max(len(bars), 1)
    gap = min(pitch * 0.25, 3) if len(bars) <= _MOST_BARS else 0.0
    places = [(left + i * pitch, difference) for i, difference in enumerate(bars)]
    sides = {"won": [p for p in places if p[1] > 0], "lost": [p for p in places if p[1] < 0]}
    return [f'<path class="{name}" d="{_outline(side, up, pitch, gap)}"/>' for name, side in sides.items() if side]


def _outline(places: Sequence[tuple[float, float]], up: Callable[[float], float], pitch: float, gap: float) -> str:
    zero = f"{up(0):.1f}"
    path, height = f"M{places[0][0]:.1f} {zero}", ""
    for x, difference in places:
        now = f"{up(difference):.1f}"
        if gap:
            path += f"M{x + gap / 2:.1f} {zero}V{now}H{x + pitch - gap / 2:.1f}V{zero}z"
        elif now != height:
            path += f"H{x:.1f}V{now}" if height else f"V{now}"
        height = now
    return path if gap else f"{path}H{places[-1][0] + pitch:.1f}V{zero}z"


def _x_axis(
    marks: Sequence[float],
    at: Callable[[float], float],
    spans: Sequence[tuple[float, float]],
    bottom: float,
    value_of: Callable[[float], str],
) -> list[str]:
    """Grid lines over the given vertical spans, and their figures below `bottom`."""
    parts = []
    for mark in marks:
        parts += [svg.line(at(mark), start, at(mark), end, "grid") for start, end in spans]
        parts.append(svg.label(at(mark), bottom + 16, value_of(mark), "axis", "middle"))
    return parts


def _tick(number: float) -> str:
    return f"{number:.3f}".rstrip("0").rstrip(".") if number else "0"


def _plain_number(number: float) -> str:
    return f"{number:,.0f}" if number >= 1 else f"{number:g}"


def _signed_tick(number: float) -> str:
    return ("+" if number > 0 else "−" if number < 0 else "") + _tick(abs(number))


def _span(lows: Sequence[float], highs: Sequence[float]) -> tuple[float, float]:
    low, high = min(lows, default=0.0), max(highs, default=1.0)
    pad = max((high - low) * 0.06, 0.005)
    return (low - pad if low - pad > 0 or low < 0 else 0.0), high + pad


def _log_span(times: Sequence[float], room: float) -> tuple[float, float]:
    """From a little below the least to so far above the greatest that `room`, a share of the axis, stays free there."""
    low = min(times) / max((max(times) / min(times)) ** 0.08, 1.6)
    return low, low * (max(times) / low) ** (1 / (1 - room))
