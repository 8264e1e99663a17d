"""Late interaction on page images: a page as the vectors of its patches, a query as those of its tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from lodesmith.core.errors import ConfigError, InputError, NotFiniteError
from lodesmith.core.hashing import fingerprint
from lodesmith.core.protocols import Metric, Side
from lodesmith.core.records import PageImage
from lodesmith.core.vectors import Vectors
from lodesmith.encoders._identity import digest
from lodesmith.encoders._loading import find_model
from lodesmith.encoders._page_models import load_pages
from lodesmith.encoders._reading import named

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["PageEncoder"]

Precision = Literal["auto", "float32", "bfloat16"]
MOST_PIXELS = 100_000_000
"""Of a page image: a larger one is refused before it is decoded."""


class PageEncoder(nn.Module):
    """A vision-language late-interaction model: ColPali, ColQwen2, ColModernVBert, or ColIdefics3 (ColSmol).

    Items are encoded one by one, so that a page's vectors are the same in any batch and order, to the bit.

    Args:
        base_model: hub name or folder, of whole weights or of an adapter.
        precision: `float32`, `bfloat16`, or `auto`: bfloat16 on a GPU that multiplies it.
        device: torch device; None for CUDA where there is one, else the CPU.

    Raises:
        InputError: the model is not there, does not load, or reads no page images.
        ConfigError: there is no such precision.
        MissingExtraError: pillow is not installed.
    """

    reads = "images"
    """What its documents are."""
    metric: Metric = "maxsim"

    def __init__(self, base_model: str | Path, *, precision: Precision = "auto", device: str | None = None) -> None:
        super().__init__()
        if precision not in ("auto", "float32", "bfloat16"):
            raise ConfigError(f"no precision is called {precision!r}", "choose auto, float32 or bfloat16")
        on_gpu = torch.cuda.is_available() if device is None else device.startswith("cuda")
        half = precision == "bfloat16" or (precision == "auto" and on_gpu and torch.cuda.is_bf16_supported())
        self.source, self.precision = str(base_model), "bfloat16" if half else "float32"
        self.folder = find_model(base_model)
        self.pages = load_pages(self.folder, device=device, dtype=torch.bfloat16 if half else torch.float32)
        self.model = self.pages.model
        self._weights = digest(self.model)

    @property
    def dimension(self) -> int:
        """d of a token's vector."""
        return self.pages.dimension

    @property
    def parameters_total(self) -> int:
        """Parameters of the model."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the weights, their precision, and what the processor does."""
        config: Any = self.pages.processor.to_dict() if hasattr(self.pages.processor, "to_dict") else {}
        return fingerprint(
            {"weights": self._weights, "precision": self.precision, "processor": repr(sorted(config.items(), key=str))}
        )

    def encode(self, texts: Sequence[str], side: Side = "document", ids: Sequence[str] | None = None) -> Vectors:
        """Encode queries, or page images.

        Args:
            texts: queries as strings; documents as `core.records.PageImage`.
            side: `query` or `document`.
            ids: the items' ids; "0", "1", … where None.

        Returns:
            float32 vectors of length 1, one row a token.

        Raises:
            InputError: a document is no page image, or an image cannot be read.
            NotFiniteError: the weights give NaN or infinity.
        """
        plain, names = named(texts, ids)
        rows = list(self._rows(plain if side == "query" else texts, side))
        values = np.concatenate([np.zeros((0, self.dimension), np.float32), *rows])
        if not np.isfinite(values).all():
            raise NotFiniteError(f"{self.source} gave vectors with NaN or infinity", "the weights are damaged")
        offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
        info = {"encoder": self.source, "model": self.fingerprint, "side": side, "metric": self.metric}
        return Vectors(values, offsets, names, info | {"truncated": 0.0, "cut": [], "tokens": int(offsets[-1])})

    @torch.inference_mode()
    def _rows(self, texts: Sequence[str], side: Side) -> Iterator[np.ndarray[Any, np.dtype[np.float32]]]:
        for text in texts:
            yield self.pages(text if side == "query" else _opened(text)).cpu().numpy()

    def __repr__(self) -> str:
        return f"PageEncoder({self.source!r}, {self.dimension} dimensions a token, {self.precision})"


def _opened(page: str) -> Image:
    """The image of a page, in RGB."""
    import PIL.Image

    if not isinstance(page, PageImage):
        raise InputError(
            "this model reads page images, and a document has none",
            "import PDFs with `lode data import --pages`, or pull a vidore/ dataset",
        )
    try:
        with PIL.Image.open(page.path) as found:
            if found.width * found.height > MOST_PIXELS:
                raise InputError(
                    f"the page has {found.width} × {found.height} pixels, above the {MOST_PIXELS:,} that are read",
                    "draw it with a lower --dpi",
                    path=page.path,
                )
            return found.convert("RGB")
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise InputError(f"the page image cannot be read: {error}", "import it again", path=page.path) from None
