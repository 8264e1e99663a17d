"""Figures and foreign text as short, safe strings: what every renderer of this room shares."""

from __future__ import annotations

import math
import re
import unicodedata

NONE = "–"
"""Stands where a figure does not apply or was not measured."""

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_DIRECTION = re.compile("[\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]")
_BYTES = ("B", "kB", "MB", "GB", "TB")


def clean(text: str) -> str:
    """The text without what no file or screen can carry: control characters and lone surrogates become U+FFFD."""
    return _UNSAFE.sub("\ufffd", text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """`clean` on one line and without marks of writing direction, which would reorder a table's other cells."""
    return " ".join(_DIRECTION.sub("", clean(text)).split())


def isolated(text: str) -> str:
    """`one_line`, wrapped so that right-to-left letters do not reorder the sentence around it."""
    text = one_line(text)
    return text if text.isascii() else f"\u2068{text}\u2069"


def clip(text: str, length: int) -> str:
    """The text, or its first words and an ellipsis where it is longer than `length` characters."""
    text = clean(text).strip()
    if len(text) <= length:
        return text
    cut = text[: length - 1]
    word = cut.rsplit(None, 1)[0]
    return (word if len(word) > length // 2 else cut).rstrip() + "…"


def columns(text: str) -> int:
    """How many columns of a terminal the text takes: wide characters take two, combining marks none."""
    return sum(_columns(character) for character in text)


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fit(text: str, width: int) -> str:
    """The text cut to `width` columns of a terminal, with an ellipsis where something went."""
    if columns(text) <= width:
        return text
    kept, used = "", 1
    for character in text:
        used += _columns(character)
        if used > width:
            break
        kept += character
    return kept.rstrip() + "…"


def value(number: float | None) -> str:
    """A measure with three decimals: `0.712`."""
    return NONE if number is None or not math.isfinite(number) else f"{number:.3f}"


def signed(number: float | None) -> str:
    """A difference with its sign: `+0.085`, `−0.012`, `0.000` where it rounds to nothing."""
    if number is None or not math.isfinite(number):
        return NONE
    text = f"{abs(number):.3f}"
    return text if float(text) == 0 else ("+" if number > 0 else "−") + text


def probability(p: float) -> str:
    """A p-value as `p = 0.031` or `p < 0.001`. It is never rounded across 0.05, so that it agrees with its verdict."""
    if p < 0.001:
        return "p < 0.001"
    text = f"{p:.3f}"
    return f"p = {p:.5f}" if text == "0.050" and p != 0.05 else f"p = {text}"


def size(number: float | None) -> str:
    """Bytes in decimal units: `30.7 MB`."""
    if number is None:
        return NONE
    step = 0
    while abs(number) >= 999.5 and step < len(_BYTES) - 1:
        number /= 1000
        step += 1
    return f"{_short(number) if step else f'{number:.0f}'} {_BYTES[step]}"


def count(number: float | None) -> str:
    """A count of parameters: `0`, `197 k`, `22.7 M`, `7.24 G`."""
    if number is None:
        return NONE
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(number) >= limit * 0.9995:
            return _short(number / limit) + unit
    return f"{number:.0f}"


def rate(number: float | None) -> str:
    """A figure a second, three digits and thousands apart: `12,300`, `1.24`."""
    if number is None or not math.isfinite(number):
        return NONE
    if number >= 999.5:
        return f"{float(f'{number:.3g}'):,.0f}"
    return _short(number)


def _short(number: float) -> str:
    number = float(f"{number:.3g}")
    if number == 0:
        return "0"
    digits = 2 - math.floor(math.log10(abs(number)))
    return f"{number:.{min(max(digits, 0), 6)}f}" if abs(number) < 99.95 else f"{number:.0f}"
