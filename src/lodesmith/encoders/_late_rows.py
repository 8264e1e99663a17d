"""From token ids to token vectors, through the modules of a late-interaction model and without padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lodesmith.core.errors import InputError
from lodesmith.core.protocols import Side
from lodesmith.encoders._packable import check_texts, first_position, near
from lodesmith.encoders._reading import Reader

__all__ = ["TokenRows"]

_SIDES: tuple[Side, Side] = ("query", "document")


class TokenRows:
    """Texts of one side as token ids → the vectors that MaxSim compares, flat.

    What the model's own modules do with a padded batch is done here with one flat row: queries are filled up with the
    expansion token, tokens on the skip-list lose their vectors, a document's vectors are pooled. A document of which
    every token is on the list keeps all of them: a maximum over nothing is no number.

    Args:
        model: a `MultiVectorEncoder`.
        reader: of its texts.
        source: its name, for the log.

    Raises:
        InputError: it does not begin with a transformer.
    """

    def __init__(self, model: Any, reader: Reader, source: str) -> None:
        from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
        from sentence_transformers.multi_vector_encoder.modules.token_pooling import BaseTokenPooling

        if model.transformers_model is None or not hasattr(model[0], "query_expansion"):
            raise InputError(f"{source} does not begin with a transformer", "choose another model")
        self.model, self.reader, self.source = model, reader, source
        self._modules = [m for m in model if not isinstance(m, MultiVectorMask | BaseTokenPooling)]
        self._mask = next((m for m in model if isinstance(m, MultiVectorMask)), None)
        self._pooling = [m for m in model if isinstance(m, BaseTokenPooling)]
        self._first: int | None = None
        self._check()
        self._expansion = _Expansion.of(model)
        if self._expansion is not None and self._expansion.fixed:
            reader.limits["query"] = self._expansion.length

    def _check(self) -> None:
        """What would be done in another order here than in the model itself."""
        if self._mask is not None and self._mask.keep_only_token_ids:
            raise InputError(f"{self.source} keeps some tokens' vectors only", "choose another model")
        ways = list(self.model)
        if any(module not in self._pooling for module in ways[len(ways) - len(self._pooling) :]):
            raise InputError(f"{self.source} does more after it has pooled tokens", "choose another model")

    def lengths(self, tokens: Sequence[int], side: Side) -> list[int]:
        """How many tokens texts have when they go through the model."""
        least = self._expansion.length if side == "query" and self._expansion is not None else 0
        return [max(least, count) for count in tokens]

    @property
    def packed(self) -> bool:
        """Whether batches are flat."""
        return self._first is not None

    @property
    def sides_differ(self) -> bool:
        """Whether something of a query is done to no document, or the other way round."""
        by_task = any(_task(module, "query") for module in self._modules[1:])
        return self._expansion is not None or bool(self._pooling) or self._skips or by_task

    @property
    def _skips(self) -> bool:
        return self._mask is not None and self._mask._skiplist_ids is not None

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return torch.device(self.model.device)

    def set_up(self) -> Tensor:
        """Choose how batches are made.

        Returns:
            The check texts' vectors, unpooled, as the model's own modules make them, each text in a batch of its own.

        Raises:
            InputError: here they are others.
        """
        limit = self.reader.limits["document"]
        texts = check_texts(self.model, limit)
        with torch.inference_mode():
            reference = torch.cat([self._own(text, side) for side in _SIDES for text in texts]).float()
        ours = self.check_vectors()
        if ours.shape != reference.shape or not near(ours, reference):
            raise InputError(
                f"{self.source} does more with its texts than is known here: its vectors differ", "choose another model"
            )

        def packed(first: int) -> Tensor:
            self._first = first
            return self.check_vectors()

        self._first = first_position(self.model, self.source, limit, reference, packed)
        return reference

    def _own(self, text: str, side: Side) -> Tensor:
        """The vectors of a text by the model's modules one after another, all but the pooling."""
        features = self.model.preprocess([text], prompt=self.reader.prompts[side] or None, task=side)
        features = {name: v.to(self.device) if isinstance(v, Tensor) else v for name, v in features.items()}
        for module in self.model:
            if module not in self._pooling:
                features = module(features, **_task(module, side))
        rows: Tensor = features["token_embeddings"][0][features["attention_mask"][0].bool()]
        if len(rows):
            return rows
        ids = torch.from_numpy(self.reader.read([text], side).ids[0]).long().to(self.device)
        return self._unpooled([ids], side)[0]  # of skipped tokens alone

    def check_vectors(self) -> Tensor:
        """The check texts' vectors, unpooled, as batches are made now."""
        with torch.inference_mode():
            return torch.cat([self._unpooled(self._checked(side), side)[0] for side in _SIDES]).float()

    def _checked(self, side: Side) -> list[Tensor]:
        texts = check_texts(self.model, self.reader.limits["document"])
        return [torch.from_numpy(ids).long().to(self.device) for ids in self.reader.read(texts, side).ids]

    def __call__(self, texts: Sequence[Tensor], side: Side) -> tuple[Tensor, list[int]]:
        """The vectors [total, d] of texts (int64 ids each, special tokens included), and how many each text has."""
        rows, counts = self._unpooled(texts, side)
        for pooling in self._pooling:
            if pooling.applies_to(side):
                parts = [pooling.pool_one(part) for part in torch.split(rows, counts)]  # type: ignore[no-untyped-call]
                rows, counts = torch.cat(parts), [len(part) for part in parts]
        return rows, counts

    def _unpooled(self, texts: Sequence[Tensor], side: Side) -> tuple[Tensor, list[int]]:
        texts, seen = list(texts), [len(text) for text in texts]
        if side == "query" and self._expansion is not None:
            texts, seen = self._expansion(texts)
        lengths = [len(text) for text in texts]
        features: Mapping[str, Any] = self._flat(texts, seen) if self.packed else self._padded(texts, seen)
        for module in self._modules:
            features = module(dict(features), **_task(module, side))
        rows = features["token_embeddings"]
        if self.packed:
            rows = rows.reshape(-1, rows.shape[-1])
        else:
            rows = torch.cat([row[:length] for row, length in zip(rows, lengths, strict=True)])
        return self._kept(rows, texts, side)

    def _kept(self, rows: Tensor, texts: list[Tensor], side: Side) -> tuple[Tensor, list[int]]:
        """The rows whose tokens count."""
        lengths = [len(text) for text in texts]
        skipped = None if self._mask is None or side not in self._mask.skiplist_tasks else self._mask._skiplist_ids
        if skipped is None or not len(skipped):
            return rows, lengths
        kept = [~torch.isin(text, skipped.to(text.device)) for text in texts]
        kept = [keep if bool(keep.any()) else torch.ones_like(keep) for keep in kept]
        return rows[torch.cat(kept)], [int(keep.sum()) for keep in kept]

    def labels(self, ids: Tensor, side: Side) -> list[str] | None:
        """The tokens of a text that have a vector each, as the tokenizer spells them; None where vectors are pooled."""
        if any(pooling.applies_to(side) for pooling in self._pooling):
            return None
        texts = [ids] if side == "document" or self._expansion is None else self._expansion([ids])[0]
        kept = self._kept(texts[0][:, None], texts, side)[0][:, 0]
        return list(self.model[0].tokenizer.convert_ids_to_tokens(kept.tolist()))

    def _flat(self, texts: list[Tensor], seen: list[int]) -> dict[str, Any]:
        device, first = texts[0].device, self._first or 0
        features = {
            "input_ids": torch.cat(texts)[None],
            "position_ids": torch.cat([torch.arange(first, first + len(text), device=device) for text in texts])[None],
            "cu_seq_lens_q": _bounds([len(text) for text in texts], device),
            "modality": "text",
        }
        if any(count < len(text) for count, text in zip(seen, texts, strict=True)):
            features["cu_seq_lens_k"] = _bounds(seen, device)
        return features

    def _padded(self, texts: list[Tensor], seen: list[int]) -> dict[str, Any]:
        pad = int(getattr(self.model[0].tokenizer, "pad_token_id", None) or 0)
        ids = pad_sequence(texts, batch_first=True, padding_value=pad)
        counts = torch.tensor(seen, device=ids.device)
        mask = torch.arange(ids.shape[1], device=ids.device)[None, :] < counts[:, None]
        return {"input_ids": ids, "attention_mask": mask.long(), "modality": "text"}


class _Expansion:
    """Fills queries up with a token whose vectors count too."""

    def __init__(self, length: int, token: int, fixed: bool, attend: bool) -> None:
        self.length, self.token, self.fixed, self.attend = length, token, fixed, attend

    @classmethod
    def of(cls, model: Any) -> _Expansion | None:
        """What the model says; None where it says nothing."""
        how, tokenizer = model[0].query_expansion, model[0].tokenizer
        if how is None:
            return None
        named = how.get("token")
        token = tokenizer.mask_token_id if named is None else tokenizer.convert_tokens_to_ids(named)
        token = tokenizer.eos_token_id if token is None else token
        return cls(how["length"], int(token), how["strategy"] == "fixed", bool(how.get("attend")))

    def __call__(self, texts: list[Tensor]) -> tuple[list[Tensor], list[int]]:
        """The filled-up texts, and how many of their first tokens all of them attend to."""
        missing = [max(0, self.length - len(text)) for text in texts]
        filled = [nn.functional.pad(t, (0, n), value=self.token) for t, n in zip(texts, missing, strict=True)]
        return filled, [len(own) for own in (filled if self.attend else texts)]


def _task(module: Any, side: Side) -> dict[str, Any]:
    """What a module of sentence-transformers is told of the side, where it asks."""
    return {"task": side} if "task" in getattr(module, "forward_kwargs", ()) else {}


def _bounds(lengths: Sequence[int], device: torch.device) -> Tensor:
    return nn.functional.pad(torch.tensor(lengths, device=device).cumsum(0), (1, 0)).int()
