"""From texts to token ids: prompts, clipping, truncation and its count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.protocols import Side
from lodesmith.encoders._passages import Passages, clip, split

__all__ = ["Reader", "Reading", "clean", "named", "prompts_of"]

_ENOUGH = 1 << 20
"""A maximum length above this is none."""
_SLICE = 1024
"""Texts tokenised at once."""
_SIDES: dict[Side, tuple[str, ...]] = {"query": ("query",), "document": ("document", "passage", "corpus")}


def prompts_of(model: Any, query: str | None, document: str | None) -> dict[Side, str]:
    """The prompt of each side: the caller's, else the model's own by its usual names, else the model's default."""
    default = model.prompts.get(model.default_prompt_name, "") if model.default_prompt_name else ""
    given: dict[Side, str | None] = {"query": query, "document": document}
    return {
        side: next((model.prompts[name] for name in names if name in model.prompts), default) or default
        if given[side] is None
        else str(given[side])
        for side, names in _SIDES.items()
    }


@dataclass(frozen=True)
class Reading:
    """Texts of one side, read for a model.

    Args:
        texts: without prompt, clipped to what matters.
        ids: token ids of each, prompt and special tokens included; empty where the model has no fast tokenizer.
        lengths: tokens of each (estimated from characters where `ids` is empty).
        truncated: whether the model does not see all of it.
    """

    texts: list[str]
    ids: list[NDArray[np.int32]]
    lengths: NDArray[np.int64]
    truncated: NDArray[np.bool_]


class Reader:
    """Reads texts for a `SentenceTransformer`.

    Args:
        model: the model.
        prompts: of each side.
        max_length: tokens that the model sees; None for the model's own limit.

    Raises:
        ConfigError: `max_length` is beyond what the model can read.
    """

    def __init__(self, model: Any, prompts: Mapping[Side, str], max_length: int | None) -> None:
        self.prompts = prompts
        self.tokenizer: Any = getattr(getattr(model[0], "tokenizer", None), "backend_tokenizer", None)
        self.side_of_truncation = getattr(getattr(model[0], "tokenizer", None), "truncation_side", "right")
        own = _own_limit(model)
        if max_length is not None and not 4 <= max_length <= own:
            raise ConfigError(f"max_length {max_length} is not between 4 and the model's limit, {own}", "change it")
        if max_length is not None:
            model.max_seq_length = max_length
            model[0].query_length = model[0].document_length = None
        self.limits: dict[Side, int] = {
            "query": getattr(model[0], "query_length", None) or max_length or own,
            "document": getattr(model[0], "document_length", None) or max_length or own,
        }

    def prompt_tokens(self, side: Side) -> int:
        """Tokens of the side's prompt with the special tokens before it."""
        if not self.prompts[side] or self.tokenizer is None:
            return 0
        self._free()
        encoding = self.tokenizer.encode(self.prompts[side])
        return len(encoding.ids) - (1 if encoding.special_tokens_mask[-1] else 0)

    def passages(self, texts: Sequence[str], passages: Passages | None, side: Side) -> tuple[list[str], list[int]]:
        """All passages of the texts, and how many each text has; queries are never split."""
        if passages is None or side == "query" or self.tokenizer is None:
            return list(texts), [1] * len(texts)
        self._free()
        room = self.limits[side] - len(self.tokenizer.encode(self.prompts[side]).ids)
        if passages.tokens > room:
            raise ConfigError(
                f"passages of {passages.tokens} tokens do not fit: the model has room for {room}",
                f"choose at most {room} tokens",
            )
        parts = [split(text, passages, self.tokenizer) for text in texts]
        return [part for own in parts for part in own], [len(own) for own in parts]

    def read(self, texts: Sequence[str], side: Side) -> Reading:
        """Tokenise."""
        prompt, limit = self.prompts[side], self.limits[side]
        if self.tokenizer is None:
            lengths = np.asarray([len(prompt) + len(text) for text in texts], np.int64) // 4 + 1
            return Reading(list(texts), [], lengths, np.zeros(len(texts), bool))
        whole = [prompt + text for text in texts]
        if self.side_of_truncation == "right":
            self._free()
            whole = [clip(text, limit, self.tokenizer) for text in whole]
        self.tokenizer.enable_truncation(limit, direction=self.side_of_truncation)
        self.tokenizer.no_padding()
        ids: list[NDArray[np.int32]] = []
        truncated = np.zeros(len(texts), bool)
        for start in range(0, len(whole), _SLICE):
            for encoding in self.tokenizer.encode_batch(whole[start : start + _SLICE]):
                truncated[len(ids)] = bool(encoding.overflowing)
                ids.append(np.asarray(encoding.ids, np.int32))
        lengths = np.asarray([len(row) for row in ids], np.int64)
        return Reading([text[len(prompt) :] for text in whole], ids, lengths, truncated)

    def _free(self) -> None:
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()


def clean(texts: Sequence[str]) -> list[str]:
    """Check that all are texts; what UTF-8 cannot hold (lone surrogates) becomes question marks.

    Raises:
        InputError: one is not a string; the message says which.
    """
    if isinstance(texts, str):
        raise InputError("a list of texts is wanted, not one text", "give [text]")
    for at, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"text {at} is a {type(text).__name__}, not a string", "give strings")
    return [text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8") for text in texts]


def named(texts: Sequence[str], ids: Sequence[str] | None) -> tuple[list[str], tuple[str, ...]]:
    """Texts as `clean` leaves them, and their ids: "0", "1", … where none are given.

    Raises:
        InputError: they are not the same number, or a text is no string.
    """
    texts = clean(texts)
    names = tuple(str(at) for at in range(len(texts))) if ids is None else tuple(ids)
    if len(names) != len(texts):
        raise InputError(f"ids and texts are not the same number: {len(names)} != {len(texts)}")
    return texts, names


def _own_limit(model: Any) -> int:
    """The model's maximum length in tokens."""
    limit = getattr(model, "max_seq_length", None)
    if limit is None or limit > _ENOUGH:
        limit = getattr(getattr(model[0], "config", None), "max_position_embeddings", None) or _ENOUGH
    return int(limit)
