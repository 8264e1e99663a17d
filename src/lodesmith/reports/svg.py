"""The few SVG elements that the plots are made of, as strings; every text goes through `escape` once."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence

from lodesmith.core.hashing import text_key
from lodesmith.reports.text import isolated, one_line

FONT = 12
"""Height of a label in user units; figures are drawn about one unit a pixel."""

_NARROW = " iIl.,:;|!'()[]{}jtfr-"
_WIDE = "mwMWQO@%&<>=+~"
_BOLD = 1.12


def escape(text: str) -> str:
    """Text for an element or a quoted attribute."""
    return html.escape(text, quote=True)


def text_width(text: str, *, bold: bool = False) -> float:
    """A cautious estimate of a label's width in user units: fonts differ, labels must not collide in any of them."""
    return FONT * (_BOLD if bold else 1) * sum(_ems(character) for character in text)


def _ems(character: str) -> float:
    if ord(character) > 0x2000:
        return 1.05
    if character in _NARROW:
        return 0.4
    if character in _WIDE:
        return 0.98
    return 0.72 if character.isupper() else 0.64


def fitted(text: str, room: float, *, bold: bool = False) -> str:
    """The label cut to `room` user units, with an ellipsis where something went."""
    text = one_line(text)
    kept = text[:200]
    while text_width(kept, bold=bold) > room and len(kept) > 2:
        kept = kept[:-2].rstrip() + "…"
    return kept


def attributes(**values: object) -> str:
    """`class_="x", stroke_width=1` as ` class="x" stroke-width="1"`; numbers are rounded to a tenth of a unit."""
    parts = []
    for name, item in values.items():
        shown = f"{item:.1f}".removesuffix(".0") if isinstance(item, float) else str(item)
        parts.append(f' {name.rstrip("_").replace("_", "-")}="{escape(shown)}"')
    return "".join(parts)


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """The place of a number between `start` (that of `low`) and `end` (that of `high`), in user units."""
    return lambda number: start + (number - low) / (high - low) * (end - start)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """A straight line."""
    return f"<line{attributes(x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=class_)}/>"


def dot(x: float, y: float, radius: float, class_: str) -> str:
    """A filled circle."""
    return f"<circle{attributes(cx=float(x), cy=float(y), r=float(radius), class_=class_)}/>"


def label(x: float, y: float, text: str, class_: str = "label", anchor: str = "start") -> str:
    """A text whose writing direction does not reach its neighbours."""
    place = attributes(x=float(x), y=float(y), class_=class_, text_anchor=anchor)
    return f"<text{place}>{escape(isolated(text))}</text>"


def group(parts: Sequence[str], title: str = "", **values: object) -> str:
    """A group; `title` is what a pointer over it shows."""
    hint = f"<title>{escape(one_line(title))}</title>" if title else ""
    return f"<g{attributes(**values)}>{hint}{''.join(parts)}</g>"


def figure(parts: Sequence[str], area: tuple[float, float], title: str, description: str, **data: object) -> str:
    """The whole drawing: scales with its box, has a name and a description for those who cannot see it.

    Args:
        parts: elements.
        area: width and height in user units.
        title: its name.
        description: the figures in words.
        data: further attributes, such as `data_left=44`.
    """
    title, description = one_line(title), one_line(description)
    key = text_key(f"{area}|{title}|{description}|{''.join(parts)}")[:10]
    width, height = math.ceil(area[0]), math.ceil(area[1])
    head = attributes(
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
        aria_labelledby=f"t{key} d{key}",
        class_="plot",
        **data,
    )
    names = f'<title id="t{key}">{escape(title)}</title><desc id="d{key}">{escape(description)}</desc>'
    return f"<svg{head}>{names}{''.join(parts)}</svg>"


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers inside [low, high], at most `most`, at steps of 1, 2 or 5 times a power of ten."""
    span = max(high - low, 1e-9)
    step = 10.0 ** math.floor(math.log10(span / most))
    step = next(step * factor for factor in (1, 2, 5, 10, 20) if span / (step * factor) <= most - 1)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers for a logarithmic axis: powers of ten, with 2 and 5 between where the span is short."""
    start, end = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1,) if math.log10(high / low) > 2.5 else (1, 2, 5)
    marks = [factor * 10.0**power for power in range(start, end + 1) for factor in factors]
    return [mark for mark in marks if low * 0.999 <= mark <= high * 1.001]
