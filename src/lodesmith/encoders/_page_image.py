"""Reading a page's image: common formats, of a bounded size, in RGB over white."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from lodesmith.core.errors import InputError
from lodesmith.core.records import PageImage

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["MOST_PIXELS", "opened"]

MOST_PIXELS = 100_000_000
"""Of a page image: a larger one is refused before it is decoded."""
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM")
"""Others run programs (EPS), or come from decoders that few have tried."""


def opened(page: str) -> Image:
    """The image of a page, upright, in RGB; what is transparent is white.

    Raises:
        InputError: it is no page image, is too large, or cannot be read.
    """
    import PIL.Image
    from PIL import ImageOps

    if not isinstance(page, PageImage):
        raise InputError(
            "this model reads page images, and was given a text for a document",
            "import PDFs with `lode data import --pages`, or pull a vidore/ dataset",
        )
    try:
        with warnings.catch_warnings(), PIL.Image.open(page.path, formats=_FORMATS) as found:
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
            if found.width * found.height > MOST_PIXELS:
                raise InputError(
                    f"the page has {found.width} × {found.height} pixels, above the {MOST_PIXELS:,} that are read",
                    "draw it with a lower --dpi",
                    path=page.path,
                )
            upright = ImageOps.exif_transpose(found)
            if "A" not in upright.getbands() and "transparency" not in upright.info:
                return upright.convert("RGB")
            above = upright.convert("RGBA")
            return PIL.Image.alpha_composite(PIL.Image.new("RGBA", above.size, "white"), above).convert("RGB")
    except InputError:
        raise
    except Exception as error:  # decoders raise what they like
        raise InputError(f"the page image cannot be read: {error}", "import it again", path=page.path) from None
