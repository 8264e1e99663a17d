"""A text file as an outline: its title, and sections of paragraphs under their headings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

__all__ = ["READERS", "Outline", "Section", "read_html", "read_markdown", "read_rst", "read_text"]


@dataclass(frozen=True)
class Section:
    """Paragraphs under a path of headings, outermost first; the path is empty before the first heading."""

    headings: tuple[str, ...]
    paragraphs: tuple[str, ...]


@dataclass(frozen=True)
class Outline:
    """A document's title ('' if it has none) and its sections in order, those without text left out."""

    title: str
    sections: tuple[Section, ...]


@dataclass
class _Builder:
    """Collects headings and paragraphs as they come."""

    title: str = ""
    _path: list[tuple[int, str]] = field(default_factory=list)
    _sections: list[tuple[tuple[str, ...], list[str]]] = field(default_factory=lambda: [((), [])])

    def heading(self, level: int, text: str) -> None:
        text = " ".join(text.split())
        if not text:
            return
        if not self.title and len(self._sections) == 1 and level == 1:
            self.title = text
        self._path = [(depth, name) for depth, name in self._path if depth < level] + [(level, text)]
        self._sections.append((tuple(name for _, name in self._path), []))

    def paragraph(self, text: str) -> None:
        if text.strip():
            self._sections[-1][1].append(text.strip("\n"))

    def outline(self) -> Outline:
        sections = [Section(path, tuple(paragraphs)) for path, paragraphs in self._sections if paragraphs]
        if self.title:
            sections = [Section(_under(s.headings, self.title), s.paragraphs) for s in sections]
        return Outline(self.title, tuple(sections))


def _under(headings: tuple[str, ...], title: str) -> tuple[str, ...]:
    """A path without the document's title at its head: every section has that above it."""
    return headings[1:] if headings[:1] == (title,) else headings


def read_text(text: str) -> Outline:
    """Plain text: empty lines end paragraphs; a short first line that stands alone is the title."""
    paragraphs = _blocks(text)
    builder = _Builder()
    if len(paragraphs) > 1 and _is_title(paragraphs[0]):
        builder.heading(1, paragraphs.pop(0))
    for paragraph in paragraphs:
        builder.paragraph(" ".join(paragraph.split()))
    return builder.outline()


def _blocks(text: str) -> list[str]:
    return [block for block in re.split(r"\n[ \t]*\n", text) if block.strip()]


def _is_title(paragraph: str) -> bool:
    line = paragraph.strip()
    return "\n" not in line and len(line.split()) <= 15 and not line.endswith((".", ",", ";"))


# Markdown

_FENCE = re.compile(r"^ {0,3}(```+|~~~+)")
_ATX = re.compile(r"^ {0,3}(#{1,6})[ \t]+(.*?)[ \t]*#*[ \t]*$")
_SETEXT = re.compile(r"^ {0,3}(=+|-{2,})[ \t]*$")
_FRONT = re.compile(r"\A---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*\n", re.DOTALL)
_FRONT_TITLE = re.compile(r"^title:[ \t]*[\"']?(.*?)[\"']?[ \t]*$", re.MULTILINE)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_IMAGE = re.compile(r"!\[([^\]]*)\]\([^)]*\)")
_MD_LINK = re.compile(r"\[([^\]]+)\](?:\([^)]*\)|\[[^\]]*\])")
_EMPHASIS = re.compile(r"(\*\*|__)(?=\S)(.+?)(?<=\S)\1")


def read_markdown(text: str) -> Outline:
    """Markdown: headings of both kinds, front matter's title, fenced code as one paragraph; link targets dropped."""
    builder = _Builder()
    if front := _FRONT.match(text):
        if title := _FRONT_TITLE.search(front.group(1)):
            builder.title = title.group(1).strip()
        text = text[front.end() :]
    block: list[str] = []
    fence = ""
    for line in _COMMENT.sub("", text).split("\n"):
        if fence:
            fence = "" if line.strip().startswith(fence) else fence
            block.append(line)
        elif opening := _FENCE.match(line):
            fence = opening.group(1)
            block.append(line)
        elif atx := _ATX.match(line):
            block = _end_markdown(builder, block)
            builder.heading(len(atx.group(1)), _plain_markdown(atx.group(2)))
        elif len(block) == 1 and (rule := _SETEXT.match(line)):
            builder.heading(1 if rule.group(1)[0] == "=" else 2, _plain_markdown(block.pop()))
        elif line.strip():
            block.append(line)
        else:
            block = _end_markdown(builder, block)
    _end_markdown(builder, block)
    return builder.outline()


def _end_markdown(builder: _Builder, block: list[str]) -> list[str]:
    code = bool(block) and _FENCE.match(block[0])
    lines = [line for line in block if not _FENCE.match(line)] if code else [_plain_markdown(line) for line in block]
    builder.paragraph("\n".join(lines))
    return []


def _plain_markdown(line: str) -> str:
    return _EMPHASIS.sub(r"\2", _MD_LINK.sub(r"\1", _IMAGE.sub(r"\1", line)))


# reStructuredText

_RULE = re.compile(r"^([!-/:-@\[-`{-~])\1{2,}\s*$")
_DIRECTIVE = re.compile(r"^\s*\.\.( |$)")
_OPTION = re.compile(r"^\s+:[\w-]+:( |$)")
_ROLE = re.compile(r":[\w:+-]+:`[~!]*([^`<]*?)(?:\s*<[^`>]*>)?`")
_RST_LINK = re.compile(r"`([^`<]+?)\s*<[^`>]*>`__?")
_NOTICE = re.compile(r"^\s*\.\. (note|warning|tip|important|hint|caution|seealso|admonition)::\s*(.*)$")


def read_rst(text: str) -> Outline:
    """reStructuredText: underlined (and overlined) titles, levels by their order of appearance; markup removed."""
    builder = _Builder()
    levels: list[str] = []
    for raw in _blocks(text):
        block = raw.strip("\n").split("\n")
        while title := _rst_title(block):
            style, name, used = title
            if style not in levels:
                levels.append(style)
            builder.heading(levels.index(style) + 1, _plain_rst(name))
            block = block[used:]
        builder.paragraph("\n".join(_rst_lines(block)))
    return builder.outline()


def _rst_title(block: list[str]) -> tuple[str, str, int] | None:
    """The style of a title, its text, and how many lines of the block it takes."""
    if len(block) >= 3 and (rule := _RULE.match(block[0])) and _RULE.match(block[2]) and block[1].strip():
        return rule.group(1) * 2, block[1].strip(), 3
    if len(block) < 2 or not (rule := _RULE.match(block[1])) or _RULE.match(block[0]):
        return None
    name = block[0].strip()
    return (rule.group(1), name, 2) if name and len(block[1].strip()) >= 0.8 * len(name) else None


def _rst_lines(block: list[str]) -> Iterator[str]:
    for line in block:
        if notice := _NOTICE.match(line):
            line = notice.group(2)  # noqa: PLW2901 - what stands behind the mark is text
        elif _DIRECTIVE.match(line) or _OPTION.match(line) or _RULE.match(line):
            continue
        if line.strip():
            yield _plain_rst(line)


def _plain_rst(line: str) -> str:
    return _RST_LINK.sub(r"\1", _ROLE.sub(r"\1", line)).replace("``", "`")


# HTML

_SILENT = {"script", "style", "nav", "noscript", "template", "svg", "head", "button", "select", "iframe"}
_BREAKS = {
    "address", "article", "aside", "blockquote", "br", "dd", "div", "dl", "dt", "figcaption", "figure", "footer",
    "form", "header", "hr", "li", "main", "ol", "p", "pre", "section", "table", "tbody", "thead", "tr", "ul", "body",
}  # fmt: skip
_VOID = {"br", "hr", "img", "input", "link", "meta", "source", "wbr", "area", "base", "col", "embed", "track"}
_HEADINGS = {"h1": 1, "h2": 2, "h3": 3, "h4": 4, "h5": 5, "h6": 6}


class _HtmlReader(HTMLParser):
    """Feeds a builder with what a reader of the page would see."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.builder = _Builder()
        self._silent: list[str] = []
        self._level = 0
        self._in_title = False
        self._title = ""
        self._text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "title" and "svg" not in self._silent:
            self._in_title = True
        elif tag == "body":
            self._silent.clear()  # a head that was never closed
        elif self._silent or (tag in _SILENT and tag not in _VOID):
            if tag in _SILENT:
                self._silent.append(tag)
        elif tag in _HEADINGS:
            self._flush()
            self._level = _HEADINGS[tag]
        elif tag in _BREAKS:
            self._text.append("\n") if tag == "br" else self._flush()
        elif tag in ("td", "th"):
            self._text.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        elif tag in self._silent:
            del self._silent[len(self._silent) - 1 - self._silent[::-1].index(tag) :]
        elif tag in _HEADINGS or (tag in _BREAKS and not self._silent):
            self._flush()

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self._title += data
        elif not self._silent:
            self._text.append(data)

    def _flush(self) -> None:
        text = " ".join("".join(self._text).split())
        self._text = []
        if self._level:
            self.builder.heading(self._level, text)
        else:
            self.builder.paragraph(text)
        self._level = 0

    def finish(self) -> Outline:
        self.close()
        self._flush()
        self.builder.title = self.builder.title or " ".join(self._title.split())
        return self.builder.outline()


def read_html(text: str) -> Outline:
    """HTML: headings and block elements; scripts, styles and navigation are left out. Broken markup is read on."""
    reader = _HtmlReader()
    reader.feed(text)
    return reader.finish()


READERS: dict[str, Callable[[str], Outline]] = {
    ".txt": read_text, ".text": read_text, ".md": read_markdown, ".markdown": read_markdown, ".rst": read_rst,
    ".html": read_html, ".htm": read_html, ".xhtml": read_html,
}  # fmt: skip
"""File name suffix → reader."""
