"""Tokenizers of any kind behind one call: batches of texts → flat ids, with truncation counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.hashing import fingerprint, fingerprint_texts

__all__ = ["FastTokenizer", "PlainTokenizer", "Tokenised", "Tokenizer", "tokenizer_of"]

Ids = Sequence[int] | NDArray[np.integer]


@dataclass(frozen=True)
class Tokenised:
    """Tokens of n texts.

    Args:
        ids: int64 [total], one text after another, special tokens included.
        lengths: int64 [n].
        cut: bool [n], whether the text was longer than the maximum length.
    """

    ids: NDArray[np.int64]
    lengths: NDArray[np.int64]
    cut: NDArray[np.bool_]

    @classmethod
    def of(cls, lists: Sequence[Ids], cut: Sequence[bool]) -> Tokenised:
        """From a list of ids for each text."""
        lengths = np.fromiter(map(len, lists), np.int64, len(lists))
        flat = [np.asarray(ids, np.int64) for ids in lists]
        return cls(np.concatenate(flat) if flat else np.zeros(0, np.int64), lengths, np.asarray(cut, np.bool_))

    def only(self, wanted: NDArray[np.bool_]) -> Tokenised:
        """The texts where `wanted` [n] is true."""
        return Tokenised(self.ids[np.repeat(wanted, self.lengths)], self.lengths[wanted], self.cut[wanted])


class Tokenizer(Protocol):
    """What a token store asks of a tokenizer."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything that changes a token: vocabulary, rules, prompt, maximum length."""
        ...

    @property
    def vocabulary(self) -> int | None:
        """One more than the largest id; None where it is not known."""
        ...

    @property
    def pad(self) -> int:
        """The id that fills padded batches."""
        ...

    def __call__(self, texts: Sequence[str]) -> Tokenised:
        """Tokenise."""
        ...


class FastTokenizer:
    """A Hugging Face fast tokenizer. Works on a copy: truncation and padding of the one given stay as they are.

    Special tokens are placed by the tokenizer's own post-processor, also in texts that are cut. Lone surrogates, which
    UTF-8 cannot hold, become question marks.

    Args:
        tokenizer: of `transformers` (a fast one) or a `tokenizers.Tokenizer`.
        max_length: tokens of a text, special tokens included; None for no limit.
        prompt: goes before each text.

    Raises:
        ConfigError: `max_length` leaves no room for a token beside the special ones.
    """

    def __init__(self, tokenizer: Any, max_length: int | None = None, prompt: str = "") -> None:
        from tokenizers import Tokenizer as Backend

        self._backend = Backend.from_str(getattr(tokenizer, "backend_tokenizer", tokenizer).to_str())
        self._backend.no_truncation()
        self._backend.no_padding()
        special = self._backend.num_special_tokens_to_add(False)
        if max_length is not None and max_length <= special:
            raise ConfigError(f"max_length {max_length} holds no token beside the {special} special ones", "raise it")
        side = getattr(tokenizer, "truncation_side", "right")
        rules = fingerprint_texts([self._backend.to_str()])
        self.fingerprint = fingerprint({"rules": rules, "max_length": max_length, "side": side, "prompt": prompt})
        self.vocabulary: int | None = max(self._backend.get_vocab().values(), default=0) + 1
        self.pad = int(getattr(tokenizer, "pad_token_id", None) or 0)
        self._max_length, self._side, self._prompt = max_length, side, prompt

    def __call__(self, texts: Sequence[str]) -> Tokenised:
        """Tokenise, on all cores where the environment lets the tokenizer do so (TOKENIZERS_PARALLELISM)."""
        whole = [_valid(self._prompt + text) for text in texts]
        if self._max_length is not None and self._side == "right":
            whole = [self._beginning(text, self._max_length) for text in whole]
        if self._max_length is not None:
            self._backend.enable_truncation(self._max_length, direction=self._side)
        encodings = self._backend.encode_batch_fast(whole)
        self._backend.no_truncation()
        return Tokenised.of([e.ids for e in encodings], [bool(e.overflowing) for e in encodings])

    def _beginning(self, text: str, limit: int) -> str:
        """So much of a long text that its first `limit` tokens are those of the whole: a cut can change no word but
        the last, so that one has to begin behind the limit."""
        size = 16 * limit
        while size < len(text):
            words = self._backend.encode(text[:size], add_special_tokens=False).word_ids
            if words and words[-1] is not None and words.index(words[-1]) > limit:
                return text[:size]
            size *= 4
        return text


class PlainTokenizer:
    """Any function from texts to lists of ids, such as a slow tokenizer's. Its special tokens are taken as they come.

    Args:
        call: texts → ids of each.
        fingerprint: names the function and everything that changes its tokens.
        vocabulary: one more than the largest id; None where it is not known.
        max_length: longer lists are cut at their end; None for no limit.
        prompt: goes before each text.
        pad: the id that fills padded batches.
    """

    def __init__(
        self,
        call: Callable[[list[str]], Sequence[Ids]],
        fingerprint: str,
        vocabulary: int | None = None,
        max_length: int | None = None,
        prompt: str = "",
        pad: int = 0,
    ) -> None:
        if max_length is not None and max_length < 1:
            raise ConfigError(f"max_length must be at least 1, not {max_length}")
        self._call, self._max_length, self._prompt = call, max_length, prompt
        self.vocabulary, self.pad = vocabulary, pad
        self.fingerprint = _named(fingerprint, max_length, prompt)

    def __call__(self, texts: Sequence[str]) -> Tokenised:
        """Tokenise.

        Raises:
            InputError: the function gave another number of lists than there are texts.
        """
        lists = self._call([self._prompt + text for text in texts])
        if len(lists) != len(texts):
            raise InputError(f"the tokenizer gave {len(lists)} lists of ids for {len(texts)} texts")
        limit = self._max_length
        cut = [limit is not None and len(ids) > limit for ids in lists]
        return Tokenised.of([ids[:limit] for ids in lists], cut)


def tokenizer_of(tokenizer: Any, max_length: int | None = None, prompt: str = "") -> Tokenizer:
    """A `Tokenizer` from a fast tokenizer of Hugging Face, or the object itself where it is one already.

    Raises:
        InputError: it is neither; the message says what to do.
    """
    if hasattr(tokenizer, "backend_tokenizer") or type(tokenizer).__module__.partition(".")[0] == "tokenizers":
        return FastTokenizer(tokenizer, max_length, prompt)
    if all(hasattr(tokenizer, name) for name in ("fingerprint", "vocabulary", "pad")) and callable(tokenizer):
        given: Tokenizer = tokenizer
        return given
    raise InputError(
        f"{type(tokenizer).__name__} is no fast tokenizer", "wrap it: PlainTokenizer(function, fingerprint='its name')"
    )


def _named(own: str, max_length: int | None, prompt: str) -> str:
    return fingerprint({"call": own, "max_length": max_length, "prompt": prompt})


def _valid(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
