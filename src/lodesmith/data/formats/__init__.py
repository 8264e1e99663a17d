"""Layouts of files that hold documents with questions: one file each, found by its file name, recognised by content."""

from __future__ import annotations

from lodesmith.core.registry import find, names
from lodesmith.data.formats._source import Head, Layout

__all__ = ["layout_of"]


def layout_of(head: Head) -> tuple[str, Layout] | None:
    """The name and reader of the layout that a file's beginning shows; None where it shows none."""
    for name in names("data.formats"):
        layout: Layout = find("data.formats", name)()
        if layout.fits(head):
            return name, layout
    return None
