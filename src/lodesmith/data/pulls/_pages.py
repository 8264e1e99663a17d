"""Page images: their bytes as they come, once each, under the name of their content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from lodesmith.core.records import Document
from lodesmith.data.pulls._stage import Stage

__all__ = ["add_page"]

_KINDS = ((b"\x89PNG", "png"), (b"\xff\xd8\xff", "jpg"), (b"GIF8", "gif"), (b"BM", "bmp"), (b"II*\x00", "tif"))
_TEXTS = ("text_description", "markdown", "text")


def add_page(stage: Stage, key: str, row: Mapping[str, Any]) -> bool:
    """Add a page as a document; False where its id is there already or it has no image.

    Two pages with the same bytes share one file under `images/`; nothing is decoded or encoded again.

    Args:
        stage: where to.
        key: the document's id.
        row: its `image` (`{"bytes": …}` as the hub stores it), and a text of the page where it has one.
    """
    data = _bytes(row.get("image"))
    if not data:
        stage.repairs["no-image"] += 1
        return False
    if stage.has_document(key):
        return False
    name = f"{hashlib.sha256(data).hexdigest()[:32]}.{_suffix(data)}"
    text = next((row[field] for field in _TEXTS if isinstance(row.get(field), str)), "")
    return stage.document(Document(key, "", text, stage.image(name, data)))


def _bytes(image: Any) -> bytes:
    data = image.get("bytes") if isinstance(image, Mapping) else image
    return bytes(data) if isinstance(data, bytes | bytearray) else b""


def _suffix(data: bytes) -> str:
    """The usual suffix of an image's format, by its first bytes; that of a format not known here by decoding it."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    for magic, suffix in _KINDS:
        if data.startswith(magic):
            return suffix
    return _decoded_suffix(data)


def _decoded_suffix(data: bytes) -> str:
    import io

    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as image:
            return (image.format or "bin").lower()
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError):
        return "bin"
