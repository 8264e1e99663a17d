"""Headings and paragraphs of text files."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lodesmith.data.outline import READERS, Outline, Section, read_html, read_markdown, read_rst, read_text


def sections(outline: Outline) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    return [(section.headings, section.paragraphs) for section in outline.sections]


def test_plain_text() -> None:
    outline = read_text("A title\n\nFirst line\nsecond line.\n\n\nAnother.")
    assert outline == Outline("A title", (Section((), ("First line second line.", "Another.")),))
    assert read_text("A sentence that ends.\n\nMore.").title == ""
    assert read_text("  \n\n ").sections == ()


def test_markdown() -> None:
    text = (
        "---\nlayout: x\n---\n# Guide #\nIntro **bold** and [link](http://x) ![alt](y.png)\nsame paragraph\n\n"
        "## Install\n```sh\n# no heading\n\npip install x\n```\n\n### Deep\ntext<!-- hidden\n\nstill -->\n\n"
        "Usage\n-----\nrun it\n\n- item\n"
    )
    outline = read_markdown(text)
    assert outline.title == "Guide"
    assert sections(outline) == [
        ((), ("Intro bold and link alt\nsame paragraph",)),
        (("Install",), ("# no heading\n\npip install x",)),
        (("Install", "Deep"), ("text",)),
        (("Usage",), ("run it", "- item")),
    ]


def test_the_title_of_front_matter_comes_first() -> None:
    outline = read_markdown('---\ntitle: "From above"\n---\n# Inside\ntext\n')
    assert outline.title == "From above"
    assert sections(outline) == [(("Inside",), ("text",))]


def test_rst() -> None:
    text = (
        "=====\nGuide\n=====\n\nIntro :func:`~a.b`, ``code`` and `name <http://x>`_.\n\nInstall\n-------\n\n"
        "Do this::\n\n    pip install x\n\n.. note:: Mind this.\n\n.. code-block:: python\n   :linenos:\n\n   x = 1\n\n"
        "Deep\n~~~~\nbelow\n\nUsage\n-----\n\nrun\n"
    )
    outline = read_rst(text)
    assert outline.title == "Guide"
    assert sections(outline) == [
        ((), ("Intro a.b, `code` and name.",)),
        (("Install",), ("Do this::", "    pip install x", "Mind this.", "   x = 1")),
        (("Install", "Deep"), ("below",)),
        (("Usage",), ("run",)),
    ]


def test_html() -> None:
    text = (
        "<!doctype html><html><head><title>Site &amp; more</title><style>p {}</style></head><body>"
        "<nav><a>menu</a></nav><h1>Guide</h1><p>One <b>bold</b>&nbsp;word<br>next<script>evil()</script></p>"
        "<h2>Install <i>it</i></h2><ul><li>first<li>second</ul><table><tr><td>a</td><td>b</td></tr></table>"
        "<svg><title>icon</title><text>x</text></svg></body></html>"
    )
    outline = read_html(text)
    assert outline.title == "Guide"
    assert sections(outline) == [((), ("One bold word next",)), (("Install it",), ("first", "second", "a b"))]


def test_html_without_heading_has_the_title_of_its_head() -> None:
    assert read_html("<title>Only\n here</title><body>text").title == "Only here"
    assert sections(read_html("<head><script>x</script><body><p>text")) == [((), ("text",))]
    assert sections(read_html("a < b <p>c</div></p></nav>d")) == [((), ("a < b", "c", "d"))]


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ab #=-~`*<>/![]():.\n\t_é😀&;\\\"'phnv1", max_size=120))
def test_any_text_can_be_read(text: str) -> None:
    for reader in READERS.values():
        try:
            outline = reader(text)
        except AssertionError:
            continue  # the standard parser's answer to some malformed declarations; imports report it
        assert all(section.paragraphs for section in outline.sections)
