"""Late interaction on page images: a page as the vectors of its patches, a query as those of its tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lodesmith.core.errors import ConfigError, NotFiniteError
from lodesmith.core.files import atomic_folder
from lodesmith.core.hashing import fingerprint
from lodesmith.core.protocols import Metric, Side
from lodesmith.core.records import PageImage
from lodesmith.core.vectors import Vectors
from lodesmith.encoders._finetuning import Tuning, adapt, merged
from lodesmith.encoders._identity import digest
from lodesmith.encoders._loading import find_model, quiet
from lodesmith.encoders._page_image import opened
from lodesmith.encoders._page_layout import Layout, layout
from lodesmith.encoders._page_models import PageModel, load_pages
from lodesmith.encoders._query_words import query_words
from lodesmith.encoders._reading import named

if TYPE_CHECKING:
    pass

__all__ = ["PageEncoder", "PageTower"]

Precision = Literal["auto", "float32", "bfloat16"]
_UNUSED = "vision_model.head."
"""Parameters that no vector goes through; processes would wait for their gradients."""


class PageTower(nn.Module):
    """Numbers of items → packed token vectors, for training.

    `numbers` [n, 1] become `values` [total, d] and `offsets` [n + 1]. Items whose features have the same shapes go
    through the model together; nothing is padded.

    Args:
        encoder: whose model this is; shared, not copied.
        items: queries, or page images.
        side: which.
    """

    def __init__(self, encoder: PageEncoder, items: Sequence[str], side: Side) -> None:
        super().__init__()
        self.model = encoder.model
        self._encoder, self._items, self.side = (encoder,), items, side  # no child: it would have two names

    def train(self, mode: bool = True) -> PageTower:
        """Training mode; a frozen base stays in evaluation mode, without dropout."""
        super().train(mode and not self._encoder[0].freeze_base)
        return self

    def forward(self, numbers: Tensor) -> dict[str, Tensor]:
        """The token vectors of items."""
        pages = self._encoder[0].pages
        groups: dict[tuple[Any, ...], list[tuple[int, dict[str, Tensor]]]] = {}
        for at, number in enumerate(numbers[:, 0].long().tolist()):
            item = self._items[number]
            features = pages.features(item if self.side == "query" else opened(item))
            shape = tuple((name, tuple(value.shape)) for name, value in features.items())
            groups.setdefault(shape, []).append((at, features))
        parts: list[Tensor] = [torch.empty(0)] * len(numbers)
        for group in groups.values():
            names = group[0][1]
            found = pages.vectors({name: torch.cat([own[name] for _, own in group]) for name in names})
            for (at, _), own in zip(group, found, strict=True):
                parts[at] = own
        lengths = torch.tensor([len(part) for part in parts], dtype=torch.int64, device=numbers.device)
        values = torch.cat(parts) if parts else torch.zeros(0, pages.dimension, device=numbers.device)
        return {"values": values, "offsets": nn.functional.pad(lengths.cumsum(0), (1, 0))}


class PageEncoder(nn.Module):
    """A vision-language late-interaction model: ColPali, ColQwen2, ColModernVBert, or ColIdefics3 (ColSmol).

    Items are encoded one by one, so that a page's vectors are the same in any batch and order, to the bit.

    Args:
        base_model: hub name or folder, of whole weights or of an adapter.
        freeze_base: train the projection alone.
        lora: train low-rank adapters of the model instead of its weights: `rank`, `alpha`, `dropout` and `layers`; the
            projection trains whole.
        precision: `float32`, `bfloat16`, or `auto`: bfloat16 on a GPU that multiplies it.
        device: torch device; None for CUDA where there is one, else the CPU.

    Raises:
        InputError: the model is not there, does not load, or reads no page images.
        ConfigError: there is no such precision.
        MissingExtraError: pillow is not installed.
    """

    trained_on: ClassVar[str] = "pages"
    reads: ClassVar[str] = "images"
    """What its documents are."""
    metric: Metric = "maxsim"

    def __init__(
        self,
        base_model: str | Path,
        *,
        freeze_base: bool = False,
        lora: Mapping[str, Any] | None = None,
        precision: Precision = "auto",
        device: str | None = None,
    ) -> None:
        super().__init__()
        if precision not in ("auto", "float32", "bfloat16"):
            raise ConfigError(f"no precision is called {precision!r}", "choose auto, float32 or bfloat16")
        on_gpu = torch.cuda.is_available() if device is None else device.startswith("cuda")
        half = precision == "bfloat16" or (precision == "auto" and on_gpu and torch.cuda.is_bf16_supported())
        self.source, self.precision = str(base_model), "bfloat16" if half else "float32"
        self.folder = find_model(base_model)
        self.pages = load_pages(self.folder, device=device, dtype=torch.bfloat16 if half else torch.float32)
        self.model = self.pages.model
        self._known: tuple[list[int], str] = ([], "")
        self.freeze_base = freeze_base
        self._choose(lora)
        self.eval()

    def _choose(self, lora: Mapping[str, Any] | None) -> None:
        """What training may change."""
        if self.freeze_base and lora is not None:
            raise ConfigError("the base is frozen, and lora says how it trains", "set freeze_base to false")
        if lora is not None:
            adapt(self.model, Tuning(lora={"layers": self._linear(), **lora}))
        self.model.requires_grad_(not self.freeze_base and lora is None)
        for name, parameter in self.model.named_parameters():
            if "lora_" in name or _UNUSED in name:
                parameter.requires_grad_(_UNUSED not in name)
        self.pages.projection.requires_grad_(True)

    def _linear(self) -> list[str]:
        """The linear layers of the model but for the projection."""
        own = self.pages.projection
        return [
            name
            for name, module in self.model.named_modules()
            if isinstance(module, nn.Linear) and module is not own and _UNUSED not in f"{name}."
        ]

    def train(self, mode: bool = True) -> PageEncoder:
        """Training mode; a frozen base stays in evaluation mode, without dropout."""
        super().train(mode and not self.freeze_base)
        return self

    def get_trainable_parameters(self) -> dict[str, list[nn.Parameter]]:
        """The parameters that training may change, by group: `base` and `projection`."""
        own = {id(p) for p in self.pages.projection.parameters()}
        trained = [p for p in self.model.parameters() if p.requires_grad]
        return {
            "base": [p for p in trained if id(p) not in own],
            "projection": [p for p in trained if id(p) in own],
        }

    def save(self, folder: Path | str) -> Path:
        """Write a model folder that loads here and, but for ColIdefics3, in transformers; adapters are merged.

        Raises:
            ConfigError: the weights here are rounded to bfloat16.
        """
        if self.precision != "float32":
            raise ConfigError(f"the weights are rounded to {self.precision}", "load the model with precision float32")
        with atomic_folder(folder) as new, quiet():
            PageModel(merged(self.model), self.pages.processor).save(new)
        return Path(folder)

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
        """SHA-256 over the weights as they are now, and every setting that changes a vector."""
        versions = [tensor._version for tensor in self.model.state_dict(keep_vars=True).values()]
        if self._known[0] != versions:
            own = {"weights": digest(self.model), "precision": self.precision}
            self._known = (versions, fingerprint(own | self.pages.settings))
        return self._known[1]

    @property
    def reading(self) -> str:
        """SHA-256 over every setting but the weights: what an item's tokens are, and where on a page, depends on it
        alone."""
        return fingerprint(self.pages.settings)

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

    def labels(self, text: str, side: Side) -> list[str]:
        """The tokens of an item, as the tokenizer spells them; each has a vector."""
        features = self.pages.features(text if side == "query" else opened(text))
        return list(self.pages.processor.tokenizer.convert_ids_to_tokens(features["input_ids"][0].tolist()))

    def words(self, query: str) -> list[str]:
        """Of each token of a query what it spells of it, comparable between tokenizers; "" for those of the prompt and
        special ones."""
        return query_words(self.pages.processor.tokenizer, self.labels(query, "query"), self._prompt)

    @cached_property
    def _prompt(self) -> list[str]:
        return self.labels("", "query")

    def layout(self, page: PageImage) -> Layout:
        """Where on a page its patches are."""
        return layout(self.pages.processor, self.pages.features(opened(page)))

    def _rows(self, texts: Sequence[str], side: Side) -> Iterator[np.ndarray[Any, np.dtype[np.float32]]]:
        training = self.model.training
        self.model.eval()
        try:
            for text in texts:
                with torch.inference_mode():
                    yield self.pages(text if side == "query" else opened(text)).cpu().numpy()
        finally:
            self.model.train(training)

    def __repr__(self) -> str:
        return f"PageEncoder({self.source!r}, {self.dimension} dimensions a token, {self.precision})"
