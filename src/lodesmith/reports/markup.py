"""HTML that is safe by construction: whatever is not `Markup` already is foreign text and gets escaped."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable
from typing import Any

from lodesmith.reports.text import clean

_VOID = {"br", "meta", "hr"}


class Markup(str):
    """A string that is HTML."""

    __slots__ = ()


def text(content: str) -> Markup:
    """Foreign text as HTML."""
    return content if isinstance(content, Markup) else Markup(html.escape(clean(content), quote=True))


def tag(element: str, *children: str, **attributes: str | bool) -> Markup:
    """An element. Attributes: `class_="x"`, `data_pair="1"`; True writes the bare name, False or "" nothing."""
    parts = []
    for name, content in attributes.items():
        written = name.rstrip("_").replace("_", "-")
        if content is True:
            parts.append(f" {written}")
        elif content:
            parts.append(f' {written}="{text(str(content))}"')
    head = f"<{element}{''.join(parts)}>"
    return Markup(head if element in _VOID else f"{head}{join(children)}</{element}>")


def join(children: Iterable[str], between: str = "") -> Markup:
    """Several pieces, one after another."""
    return Markup(text(between).join(text(child) for child in children))


def foreign(content: str, element: str = "bdi", **attributes: str | bool) -> Markup:
    """Text of the user's: in its own writing direction, which does not reach its neighbours."""
    return tag(element, content, dir="auto", **attributes)


def breakable(content: str) -> Markup:
    """A name as HTML that may break after `+`, `/`, `-`, `_` and `.`."""
    return Markup(re.sub(r"(?<=[\w+])([+/_.-])(?=\w)", r"\1<wbr>", text(content)))


def embedded(data: Any, key: str) -> Markup:
    """JSON inside the page: nothing in it can end the script element or a JavaScript line.

    Raises:
        ValueError: the data holds NaN or infinity.
    """
    body = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        body = body.replace(character, f"\\u{ord(character):04x}")
    return tag("script", Markup(body), type="application/json", id=key)
