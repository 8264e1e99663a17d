"""Pictures of late interaction: where on a page, or at which words of a text, each token of a query finds its match."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from string import Template
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lodesmith.reports.markup import Markup, foreign, join, tag, text
from lodesmith.reports.text import value

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Matched", "overlay", "render", "shrunk"]

_WIDTH, _HEIGHT = 360, 1080
"""Pixels of a page's picture, at most."""


@dataclass(frozen=True)
class Matched:
    """A document that a query found.

    Args:
        document: its id.
        score: MaxSim.
        relevant: whether it is judged so; None where nothing is known of the query.
        tokens: of the query, as they are spelled.
        similarities: float32 [tokens, m], to the document's tokens.
        words: these m tokens, as they are spelled.
        page: of a page, its image, as pillow has it.
        places: of a page, int64 [p], which of `words` are its patches.
        boxes: float64 [p, 4] of the patches, see `encoders._page_layout.Layout`.
    """

    document: str
    score: float
    relevant: bool | None
    tokens: Sequence[str]
    similarities: NDArray[np.float32]
    words: Sequence[str]
    page: Image | None = None
    places: NDArray[np.int64] | None = None
    boxes: NDArray[np.float64] | None = None


def shrunk(page: Image) -> Image:
    """A page as large as its picture is to be."""
    share = min(_WIDTH / page.width, _HEIGHT / page.height)
    return page.convert("RGB").resize((max(1, round(page.width * share)), max(1, round(page.height * share))))


def overlay(page: Image, boxes: NDArray[np.float64], values: NDArray[np.floating]) -> bytes:
    """A page under a red that is the stronger the higher a patch's value is among the page's: PNG.

    Args:
        page: the image.
        boxes: float64 [p, 4], of the patches; those that overlap are averaged.
        values: [p].
    """
    from PIL import Image

    under = np.asarray(page.convert("RGB"), np.float64)
    height, width = under.shape[:2]
    sums, counts = np.zeros((height, width)), np.zeros((height, width))
    for (left, top, right, bottom), number in zip(boxes, values, strict=True):
        place = slice(round(top * height), round(bottom * height)), slice(round(left * width), round(right * width))
        sums[place] += float(number)
        counts[place] += 1
    heat = sums / np.maximum(counts, 1)
    low, high = float(heat[counts > 0].min(initial=np.inf)), float(heat.max(initial=-np.inf))
    share = np.where(counts > 0, (heat - low) / max(high - low, 1e-9), 0.0)[:, :, None] * 0.75
    shown = under * (1 - share) + np.asarray([220, 30, 30]) * share
    out = io.BytesIO()
    Image.fromarray(shown.round().astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def render(title: str, query: str, found: Sequence[Matched]) -> str:
    """The page as HTML, without a network: each document with the matches of each of the query's tokens.

    Args:
        title: what was asked of what.
        query: its text.
        found: best first.
    """
    css = "".join((resources.files("lodesmith.reports") / name).read_text(encoding="utf-8") for name in ("report.css",))
    own = """
.matches { display: flex; flex-wrap: wrap; gap: 1rem } .matches figure { margin: 0; max-width: 100% }
.matches img { max-width: 100%; height: auto; border: 1px solid #8884 }
.words { line-height: 2; overflow-wrap: anywhere }
.words span { padding: .1em .2em; border-radius: .2em }"""
    body = [tag("h1", text(title)), tag("p", "Query: ", foreign(query)), *map(_document, found)]
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>$title</title>\n'
        "<style>$style</style>\n</head>\n<body>\n<main>\n$body\n</main>\n</body>\n</html>\n"
    )
    return Template(page).substitute(title=text(title), style=css + own, body=join(body, "\n"))


def _document(match: Matched) -> Markup:
    known = {True: ", judged relevant", False: ", not judged relevant", None: ""}[match.relevant]
    head = tag("h2", foreign(match.document), f": {value(match.score)}{known}")
    return tag("section", head, _pictures(match) if match.page is not None else _words(match), _best(match))


def _pictures(match: Matched) -> Markup:
    """The page once for each token of the query."""
    assert match.page is not None
    assert match.boxes is not None
    assert match.places is not None
    figures, page = [], shrunk(match.page)
    for token, row in zip(match.tokens, match.similarities[:, match.places], strict=True):
        encoded = base64.b64encode(overlay(page, match.boxes, row)).decode()
        picture = tag("img", src=f"data:image/png;base64,{encoded}", alt=f"where {token} matches", loading="lazy")
        caption = tag("figcaption", foreign(token), f": at most {value(float(row.max(initial=-1)))}")
        figures.append(tag("figure", Markup(str(picture).removesuffix("</img>")), caption))
    return tag("div", *figures, class_="matches")


def _words(match: Matched) -> Markup:
    """The text, each token the stronger the more of the query's tokens' best similarity falls on it."""
    strength = match.similarities.max(0) if len(match.similarities) else np.zeros(len(match.words))
    low, high = float(strength.min(initial=np.inf)), float(strength.max(initial=-np.inf))
    spans = []
    for place, (word, number) in enumerate(zip(match.words, strength.tolist(), strict=True)):
        asked = match.tokens[int(match.similarities[:, place].argmax())] if len(match.tokens) else ""
        share = (number - low) / max(high - low, 1e-9)
        style = f"background: rgb(220 30 30 / {0.75 * share**2:.2f})"
        spans.append(tag("span", word.removeprefix("##"), style=style, title=f"{asked}: {value(number)}"))
    return tag("p", join(spans, " "), class_="words")


def _best(match: Matched) -> Markup:
    """The best match of each token, as a table: the terms of the score."""
    if not len(match.tokens) or not match.similarities.shape[1]:
        return Markup("")
    rows = []
    for token, own in zip(match.tokens, match.similarities, strict=True):
        place = int(own.argmax())
        where = match.words[place]
        rows.append(
            tag("tr", tag("td", foreign(token)), tag("td", foreign(where)), tag("td", value(float(own[place]))))
        )
    head = tag("tr", *(tag("th", name) for name in ("query's token", "its best match", "similarity")))
    return tag("details", tag("summary", "The terms of the score"), tag("table", head, *rows))
